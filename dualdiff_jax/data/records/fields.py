"""From the keys and values of a mapping (a JSON object, a table row, a TFDS example) to a ``Record``."""

import dataclasses
import itertools
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from dualdiff_jax.config import RootConfig, SourceConfig
from dualdiff_jax.data.records.record import ABSENT_KEY, EMPTY, OUTSIDE, WRONG_TYPE, DataError, Record, Turn, is_side
from dualdiff_jax.errors import QUOTED, quoted
from dualdiff_jax.files import as_path, is_bucket, is_url, path_fault

_ABSENT = object()


@dataclasses.dataclass(frozen=True)
class FieldReader:
    """Reads mappings with the keys that one root of a source declares. ``a/b`` is the key b of the mapping a.

    Attributes:
        source: names the captions and gives the task, which decides between captions and a question.
        root: names the keys.
    """

    source: SourceConfig
    root: RootConfig

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
            raise DataError(WRONG_TYPE, f"{record_id} is not an object: {quoted(fields)}")
        has_turns = self.source.task == "instruction" and not self.source.question
        turn, answers = self._turn(fields, record_id) if has_turns else (None, ())
        return Record(
            record_id=record_id,
            image=image if image is not None else self._image(fields, record_id),
            captions={} if turn else self._captions(fields, record_id),
            turns=(turn,) if turn else (),
            answers=answers,
            size=_size(fields),
        )

    def _captions(self, fields: Mapping, record_id: str) -> dict[str, tuple[str, ...]]:
        """Captions by the names that the source's first root has for them; blank and absent texts are left out."""
        captions = {}
        keys = [
            (name, key)
            for name, key, weight in zip(
                self.source.caption_keys, self.root.caption_keys, self.source.caption_weights, strict=True
            )
            if weight
        ]
        for name, key in keys:
            if texts := _texts(_value(fields, key), key, record_id):
                captions[name] = texts
        if not captions:
            raise _lacks(fields, [key for _, key in keys], record_id)
        return captions

    def _turn(self, fields: Mapping, record_id: str) -> tuple[Turn, tuple[str, ...]]:
        """The question with its first answer, and all answers if there are several."""
        question, answer = self.root.question_key, self.root.answer_key
        questions, answers = (_texts(_value(fields, key), key, record_id) for key in (question, answer))
        if not questions or not answers:
            raise _lacks(
                fields, [key for key, texts in ((question, questions), (answer, answers)) if not texts], record_id
            )
        return Turn(questions[0], answers[0]), answers if len(answers) > 1 else ()

    def _image(self, fields: Mapping, record_id: str) -> bytes | Path:
        key = self.root.image_key
        value = _value(fields, key)
        if value is None:
            raise _lacks(fields, [key], record_id)
        value = only(value, key, record_id)
        if isinstance(value, Mapping):  # Hugging Face's data sets store images so
            value = value.get("bytes") or value.get("path")
        if isinstance(value, bytes):
            return value
        return image_path(self.root.root, value, f"{record_id}: {key}", self.source.allow_outside_root)


def only(value: Any, key: str, record_id: str) -> Any:
    """The one element of a list, or ``value`` itself if it is no list. Raises ``DataError`` for several."""
    if not isinstance(value, list | tuple):
        return value
    if len(value) != 1:
        raise DataError(WRONG_TYPE, f"{record_id}: {key} names {len(value)} images; give one")
    return value[0]


def image_path(root: str, name: Any, what: str, allow_outside_root: bool) -> Path:
    """The file that a record names as its image.

    Args:
        root: the folder that relative names start from.
        name: the value in the record.
        what: the record and its key, for messages.
        allow_outside_root: whether a relative name may leave ``root`` by ``..``; links in ``root`` may always lead
            elsewhere, and an absolute name says where it leads.

    Returns:
        The path, whether there is such a file or not.

    Raises:
        DataError: ``name`` is no path, or leaves ``root``.
    """
    if not isinstance(name, str):
        raise DataError(WRONG_TYPE, f"{what} should be text, found {quoted(name)}")
    if not name:
        raise DataError(EMPTY, f"{what} is empty")
    parts = name.split("/")
    if is_url(name) or path_fault(name):
        raise DataError(WRONG_TYPE, f"{what} should be the path of a file, found {quoted(name)}")
    folder = as_path(root)
    path = Path(name) if os.path.isabs(name) else folder / name
    may_leave = ".." in parts and not os.path.isabs(name) and not allow_outside_root
    if may_leave and not path.resolve().is_relative_to(folder.resolve()):
        raise DataError(OUTSIDE, f"{what} leaves the root: {quoted(name)}; move the file, or set allow_outside_root")
    return path.resolve() if is_bucket(path) and ".." in parts else path  # the service knows no ..


def _value(fields: Mapping, key: str, default: Any = None) -> Any:
    """The value of ``key``, or ``default`` if it is absent."""
    value: Any = fields
    for part in (key,) if key in fields else key.split("/"):
        value = value.get(part, default) if isinstance(value, Mapping) else default
    return value


def _lacks(fields: Mapping, keys: Sequence[str], record_id: str) -> DataError:
    """The fault of a record that has nothing under any of ``keys``."""
    if all(_value(fields, key, _ABSENT) is _ABSENT for key in keys):
        present = ", ".join(map(str, itertools.islice(fields, 40)))[:QUOTED]
        return DataError(ABSENT_KEY, f"{record_id} has no key {keys[0]}; it has {present}")
    return DataError(EMPTY, f"{record_id}: {', '.join(keys)} is empty")


def _texts(value: Any, key: str, record_id: str) -> tuple[str, ...]:
    """One text, or a list of wordings of the same text, without those that are blank or null."""
    is_list = isinstance(value, Iterable) and not isinstance(value, str | bytes | Mapping)
    texts = []
    for text in value if is_list else [value]:
        if isinstance(text, bytes):
            text = text.decode("utf-8", "replace")
        if isinstance(text, str):
            texts.append(text)
        elif text is not None and not (isinstance(text, float) and math.isnan(text)):  # a table's absent text
            raise DataError(WRONG_TYPE, f"{record_id}: {key} should be text, found {quoted(value)}")
    return tuple(text for text in texts if text.strip())


def _size(fields: Mapping) -> tuple[int, int] | None:
    """(height, width) in pixels, if both fields can be that."""
    height, width = (fields.get(side) for side in ("height", "width"))
    return (int(height), int(width)) if is_side(height) and is_side(width) else None
