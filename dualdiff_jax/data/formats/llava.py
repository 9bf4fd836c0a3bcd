"""LLaVA-1.5's instruction data (llava_v1_5_mix665k.json): dialogues, some of them without an image.

[{"id": "000000033471", "image": "coco/train2017/000000033471.jpg",
  "conversations": [{"from": "human", "value": "<image>\\nWhat is this?"}, {"from": "gpt", "value": "A bus."}, ...]},
 {"id": "...", "conversations": [...]}, ...]
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from dualdiff_jax.config import RootConfig, SourceConfig
from dualdiff_jax.data.formats.json_list import JsonTable
from dualdiff_jax.data.records.fields import image_path, only
from dualdiff_jax.data.records.index import IndexCache, open_each
from dualdiff_jax.data.records.patterns import expand
from dualdiff_jax.data.records.record import ABSENT_KEY, EMPTY, WRONG_TYPE, DataError, FileSource, Record, Turn
from dualdiff_jax.errors import QUOTED, quoted

FILES = "llava_v1_5_mix665k.json"
IMAGE_MARK = "<image>"
MARKS = (IMAGE_MARK, "<video>", "<audio>")  # in a question: it is about such a medium
IMAGE_KEYS = ("image", "images")
NOTHING = (None, [])  # under a key without a medium
MEDIA_KEY = re.compile(r"(image|img|picture|photo|video|audio|media)", re.IGNORECASE)  # how such a key begins
SPEAKERS = ("human", "gpt")


class LlavaSource(FileSource):
    """The dialogues of one such file."""

    def __init__(self, source: SourceConfig, root: RootConfig, file: Path, cache: IndexCache):
        self._arguments = (source, root, file, cache)
        self._root, self._allow_outside_root = root.root, source.allow_outside_root
        self._table = JsonTable(file, cache, has_medium)

    def __reduce__(self):
        return type(self), self._arguments

    def __len__(self) -> int:
        return len(self._table)

    def name(self, index: int) -> str:
        return self._table.name(index)

    def read(self, index: int, *, is_head: bool = False) -> Record:
        fields, record_id = self._table[index], self.name(index)
        if not isinstance(fields, Mapping):
            raise DataError(WRONG_TYPE, f"{record_id} is not an object: {quoted(fields)}")
        if isinstance(fields.get("id"), str | int):
            record_id += f" {fields['id']}"[: 1 + QUOTED]
        turns = _turns(fields.get("conversations"), record_id)
        return Record(record_id, self._image(fields, record_id), turns=turns)

    def has_image(self) -> np.ndarray | None:
        return self._table.index[:, 2].astype(bool)

    def files(self) -> list[Path]:
        return [self._table.file]

    def _image(self, fields: Mapping, record_id: str) -> Path | None:
        """The record's image; None for a dialogue about no image. Raises ``DataError`` for any other medium."""
        for key in IMAGE_KEYS:
            if fields.get(key) not in NOTHING:
                name = only(fields[key], key, record_id)
                return image_path(self._root, name, f"{record_id}: {key}", self._allow_outside_root)
        if has_medium(fields):
            what = "names or asks about an image, a video or a sound"
            raise DataError(ABSENT_KEY, f"{record_id} has no image under image or images, but {what}")
        return None


def has_medium(record: Any) -> int:
    """1 if a parsed record names or mentions an image or another medium, else 0.

    A damaged record counts as 1, and its fault is raised on reading.
    """
    if not isinstance(record, Mapping):
        return 1
    if any(MEDIA_KEY.match(key) and value not in NOTHING for key, value in record.items()):
        return 1
    lines = record.get("conversations")
    lines = [line for line in lines if isinstance(line, Mapping)] if isinstance(lines, list) else []
    asked = [line.get("value") for line in lines if line.get("from") == SPEAKERS[0]]
    return int(any(mark in text for text in asked if isinstance(text, str) for mark in MARKS))


def _turns(lines: Any, record_id: str) -> tuple[Turn, ...]:
    """The turns of ``conversations``, whose lines alternate between human and gpt; empty answers are left out."""
    if lines is None:
        raise DataError(ABSENT_KEY, f"{record_id} has no key conversations")
    if not isinstance(lines, list) or len(lines) < 2:
        raise DataError(WRONG_TYPE, f"{record_id}: conversations should be a list of questions and answers")
    texts = []
    for index, line in enumerate(lines[: len(lines) // 2 * 2]):  # a question at the end has no answer
        speaker = SPEAKERS[index % 2]
        text = line.get("value") if isinstance(line, Mapping) else None
        if not isinstance(line, Mapping) or line.get("from") != speaker or not isinstance(text, str | None):
            raise DataError(WRONG_TYPE, f"{record_id}: conversations[{index}] should be a text from {speaker}")
        texts.append((text or "").replace(IMAGE_MARK, "").strip())
    turns = tuple(Turn(question, answer) for question, answer in zip(texts[::2], texts[1::2], strict=True) if answer)
    if not turns:
        raise DataError(EMPTY, f"{record_id}: every answer is empty")
    return turns


def open_llava(source: SourceConfig, root: RootConfig, cache: IndexCache) -> list[LlavaSource]:
    """One source a file. Raises ``UserError`` if a file is missing or no JSON list."""
    return open_each(lambda file: LlavaSource(source, root, file, cache), expand(root.root, root.files or FILES))
