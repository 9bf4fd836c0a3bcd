"""From a record as JSON, a row or an example holds it (a mapping) to a Record: names, types, and what is missing."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from dualdiff_jax.config import RootConfig, SourceConfig
from dualdiff_jax.data.records.record import ABSENT_KEY, EMPTY, WRONG_TYPE, DataError, Record, Turn


@dataclasses.dataclass(frozen=True)
class FieldReader:
    """Reads mappings whose keys are named as in one root of a source. ``a/b`` is the key b of the mapping a."""

    source: SourceConfig
    root: RootConfig

    @property
    def folder(self) -> Path:
        return Path(self.root.root)

    def record(self, fields: Any, record_id: str, image: bytes | None = None) -> Record:
        """``image`` is what was found beside the fields, where it is not one of them. Raises ``DataError``."""
        if not isinstance(fields, Mapping):
            raise DataError(WRONG_TYPE, f"{record_id} is not an object: {str(fields)[:40]}")
        has_turns = self.source.task == "instruction" and not self.source.question
        return Record(
            record_id=record_id,
            image=image if image is not None else self._image(fields, record_id),
            captions={} if has_turns else self._captions(fields, record_id),
            turns=(self._turn(fields, record_id),) if has_turns else (),
            size=_size(fields),
        )

    def _captions(self, fields: Mapping, record_id: str) -> dict[str, tuple[str, ...]]:
        """By the names that the source's own root has for them; texts of nothing but spaces are left out."""
        captions = {}
        for name, key, weight in zip(
            self.source.caption_keys, self.root.caption_keys, self.source.caption_weights, strict=True
        ):
            if weight:
                texts = tuple(text for text in _texts(fields, key, record_id) if text.strip())
                captions |= {name: texts} if texts else {}
        if not captions:
            raise DataError(EMPTY, f"{record_id}: {', '.join(self.root.caption_keys)} is empty")
        return captions

    def _turn(self, fields: Mapping, record_id: str) -> Turn:
        turn = Turn(*(_texts(fields, key, record_id)[0] for key in (self.root.question_key, self.root.answer_key)))
        if not turn.question.strip() or not turn.answer.strip():
            raise DataError(EMPTY, f"{record_id}: its question or its answer is empty")
        return turn

    def _image(self, fields: Mapping, record_id: str) -> bytes | Path:
        value = _value(fields, self.root.image_key, record_id)
        if isinstance(value, Mapping):  # as Hugging Face's data sets have it
            value = value.get("bytes") or value.get("path")
        if isinstance(value, str) and value:
            return self.folder / value
        if not isinstance(value, bytes):
            raise DataError(WRONG_TYPE, f"{record_id}: {self.root.image_key} should be text, found {value!r:.40}")
        return value


def _value(fields: Mapping, key: str, record_id: str) -> Any:
    value: Any = fields
    for part in (key,) if key in fields else key.split("/"):
        if not isinstance(value, Mapping) or part not in value:
            raise DataError(
                ABSENT_KEY, f"{record_id}: {key} should be there; it has {', '.join(map(str, fields))[:80]}"
            )
        value = value[part]
    return value


def _texts(fields: Mapping, key: str, record_id: str) -> tuple[str, ...]:
    """One text, or a list of them that mean the same."""
    value = _value(fields, key, record_id)
    texts = tuple(
        text.decode("utf-8", "replace") if isinstance(text, bytes) else text
        for text in ([value] if isinstance(value, str | bytes) or not hasattr(value, "__iter__") else value)
    )
    if not texts or not all(isinstance(text, str) for text in texts):
        raise DataError(WRONG_TYPE, f"{record_id}: {key} should be text, found {value!r:.40}")
    return texts


def _size(fields: Mapping) -> tuple[int, int] | None:
    size = fields.get("height"), fields.get("width")
    is_known = all(isinstance(side, int | np.integer) and side > 0 for side in size)
    return (int(size[0]), int(size[1])) if is_known else None
