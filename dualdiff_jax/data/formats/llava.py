"""LLaVA-1.5's instruction data (llava_v1_5_mix665k.json): dialogues, some of them without an image.

[{"id": "000000033471", "image": "coco/train2017/000000033471.jpg",
  "conversations": [{"from": "human", "value": "<image>\\nWhat is this?"}, {"from": "gpt", "value": "A bus."}, ...]},
 {"id": "...", "conversations": [...]}, ...]
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from dualdiff_jax.config import RootConfig, SourceConfig
from dualdiff_jax.data.formats.json_list import JsonTable
from dualdiff_jax.data.records.index import IndexCache
from dualdiff_jax.data.records.patterns import expand
from dualdiff_jax.data.records.record import ABSENT_KEY, EMPTY, WRONG_TYPE, DataError, Record, Turn

FILES = "llava_v1_5_mix665k.json"
IMAGE_MARK = "<image>"
SPEAKERS = ("human", "gpt")


class LlavaSource:
    """The dialogues of one such file."""

    def __init__(self, root: RootConfig, file: Path, cache: IndexCache):
        self._root, self._table = Path(root.root), JsonTable(file, cache, shows_image)

    def __len__(self) -> int:
        return len(self._table)

    def __getitem__(self, index: int) -> Record:
        fields = self._table[index]
        record_id = f"{self._table.file.name}[{index}]"
        if not isinstance(fields, Mapping):
            raise DataError(WRONG_TYPE, f"{record_id} is not an object: {str(fields)[:40]}")
        if "id" in fields:
            record_id += f" {fields['id']}"
        image = fields.get("image")
        if image is not None and not isinstance(image, str):
            raise DataError(WRONG_TYPE, f"{record_id}: image should be text, found {image!r:.40}")
        return Record(
            record_id=record_id,
            image=self._root / image if image is not None else None,
            turns=_turns(fields.get("conversations"), record_id),
        )

    head = __getitem__

    def has_image(self) -> np.ndarray | None:
        return self._table.index[:, 2].astype(bool)

    def files(self) -> list[Path]:
        return [self._table.file]


def shows_image(record: Any) -> int:
    """1 if a parsed record names an image, else 0; a damaged one counts as 1, and its fault is raised on reading."""
    return int(not isinstance(record, Mapping) or record.get("image") is not None)


def _turns(lines: Any, record_id: str) -> tuple[Turn, ...]:
    """The turns of ``conversations``, whose lines alternate between human and gpt; empty answers are left out."""
    if lines is None:
        raise DataError(ABSENT_KEY, f"{record_id} has no key conversations")
    if not isinstance(lines, list) or len(lines) < 2:
        raise DataError(WRONG_TYPE, f"{record_id}: conversations should be a list of questions and answers")
    texts = []
    for index, line in enumerate(lines[: len(lines) // 2 * 2]):  # a question at the end has no answer
        speaker = SPEAKERS[index % 2]
        is_valid = isinstance(line, Mapping) and line.get("from") == speaker and isinstance(line.get("value"), str)
        if not is_valid:
            raise DataError(WRONG_TYPE, f"{record_id}: conversations[{index}] should be a text from {speaker}")
        texts.append(line["value"].replace(IMAGE_MARK, "").strip())
    turns = tuple(Turn(question, answer) for question, answer in zip(texts[::2], texts[1::2], strict=True) if answer)
    if not turns:
        raise DataError(EMPTY, f"{record_id}: every answer is empty")
    return turns


def open_llava(source: SourceConfig, root: RootConfig, cache: IndexCache) -> list[LlavaSource]:
    """One source a file. Raises ``UserError`` if a file is missing or no JSON list."""
    del source
    return [LlavaSource(root, file, cache) for file in expand(root.root, root.files or FILES)]
