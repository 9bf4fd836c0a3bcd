"""LLaVA-1.5's instruction data (llava_v1_5_mix665k.json): whole dialogues, some of them without an image.

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
    """One such file."""

    def __init__(self, root: RootConfig, file: Path, cache: IndexCache):
        self._root, self._table = Path(root.root), JsonTable(file, cache, shows_image)

    def __len__(self) -> int:
        return len(self._table)

    def __getitem__(self, index: int) -> Record:
        found = self._table[index]
        record_id = f"{self._table.file.name}[{index}]"
        if not isinstance(found, Mapping):
            raise DataError(WRONG_TYPE, f"{record_id} is not an object: {str(found)[:40]}")
        if "id" in found:
            record_id += f" {found['id']}"
        image = found.get("image")
        if image is not None and not isinstance(image, str):
            raise DataError(WRONG_TYPE, f"{record_id}: image should be text, found {image!r:.40}")
        return Record(
            record_id=record_id,
            image=self._root / image if image is not None else None,
            turns=_turns(found.get("conversations"), record_id),
        )

    head = __getitem__

    def has_image(self) -> np.ndarray | None:
        return self._table.index[:, 2].astype(bool)

    def files(self) -> list[Path]:
        return [self._table.file]


def shows_image(record: Any) -> int:
    return int(not isinstance(record, Mapping) or record.get("image") is not None)


def _turns(said: Any, record_id: str) -> tuple[Turn, ...]:
    """What human and gpt said in turn."""
    if said is None:
        raise DataError(ABSENT_KEY, f"{record_id}: conversations should be there")
    if not isinstance(said, list) or len(said) < 2:
        raise DataError(WRONG_TYPE, f"{record_id}: conversations should be a list of questions and answers")
    texts = []
    for index, line in enumerate(said[: len(said) // 2 * 2]):  # a question at the end has no answer
        is_fine = isinstance(line, Mapping) and line.get("from") == SPEAKERS[index % 2]
        if not is_fine or not isinstance(line.get("value"), str):
            raise DataError(WRONG_TYPE, f"{record_id}: conversations[{index}] is no text by {SPEAKERS[index % 2]}")
        texts.append(line["value"].replace(IMAGE_MARK, "").strip())
    turns = tuple(Turn(question, answer) for question, answer in zip(texts[::2], texts[1::2], strict=True) if answer)
    if not turns:
        raise DataError(EMPTY, f"{record_id}: no answer has any text")
    return turns


def open_llava(source: SourceConfig, root: RootConfig, cache: IndexCache) -> list[LlavaSource]:
    del source
    return [LlavaSource(root, file, cache) for file in expand(root.root, root.files or FILES)]
