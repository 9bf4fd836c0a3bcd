"""From the keys and values of a mapping (a JSON object, a table row, a TFDS example) to a ``Record``."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from dualdiff_jax.config import RootConfig, SourceConfig
from dualdiff_jax.data.records.record import ABSENT_KEY, EMPTY, WRONG_TYPE, DataError, Record, Turn


@dataclasses.dataclass(frozen=True)
class FieldReader:
    """Reads mappings with the keys that one root of a source declares. ``a/b`` is the key b of the mapping a.

    Attributes:
        source: names the captions and gives the task, which decides between captions and a question.
        root: names the keys.
    """

    source: SourceConfig
    root: RootConfig

    @property
    def folder(self) -> Path:
        return Path(self.root.root)

    def record(self, fields: Any, record_id: str, image: bytes | None = None) -> Record:
        """Reads one record.

        Args:
            fields: the mapping; anything else is a fault.
            record_id: the name of the record in messages.
            image: the bytes of the encoded image, if they are not one of the fields.

        Raises:
            DataError: a key is absent, a value has the wrong type, or a text is empty.
        """
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
        """Captions by the names that the source's first root has for them; blank texts are left out."""
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
        if isinstance(value, Mapping):  # Hugging Face's data sets store images so
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
            present = ", ".join(map(str, fields))[:80]
            raise DataError(ABSENT_KEY, f"{record_id} has no key {key}; it has {present}")
        value = value[part]
    return value


def _texts(fields: Mapping, key: str, record_id: str) -> tuple[str, ...]:
    """The value of ``key``: one text, or a list of wordings of the same text."""
    value = _value(fields, key, record_id)
    texts = tuple(
        text.decode("utf-8", "replace") if isinstance(text, bytes) else text
        for text in ([value] if isinstance(value, str | bytes) or not hasattr(value, "__iter__") else value)
    )
    if not texts or not all(isinstance(text, str) for text in texts):
        raise DataError(WRONG_TYPE, f"{record_id}: {key} should be text, found {value!r:.40}")
    return texts


def _size(fields: Mapping) -> tuple[int, int] | None:
    """(height, width) in pixels, if both fields are positive integers."""
    height, width = (
        int(side) if isinstance(side, int | np.integer) and side > 0 else None
        for side in (fields.get("height"), fields.get("width"))
    )
    return None if height is None or width is None else (height, width)
