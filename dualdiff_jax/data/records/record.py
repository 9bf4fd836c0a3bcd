"""The one kind of record that every source gives, and what can be wrong with one."""

import bisect
import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np

from dualdiff_jax.errors import UserError

# What can be wrong with a record, in the words of the reports.
MISSING = "missing file"
EMPTY = "empty"
TRUNCATED = "truncated"
UNREADABLE = "unreadable"
OVERSIZED = "oversized"
TOO_SMALL = "too small"
ABSENT_KEY = "absent key"
WRONG_TYPE = "wrong type"
NO_ROOM = "no room for an answer"


class DataError(UserError):
    """A fault of one record or one image. ``cause`` is one of the words above."""

    def __init__(self, cause: str, message: str):
        super().__init__(message)
        self.cause = cause

    def __reduce__(self):
        return type(self), (self.cause, str(self))  # it crosses from a worker process


class Turn(NamedTuple):
    question: str
    answer: str


@dataclasses.dataclass(frozen=True)
class Record:
    """An image and what is said about it.

    record_id: how messages and reports name it.
    image: the encoded file's bytes, or its path; None for a text without an image, or where ``arrays`` has latents.
    captions: by name, each in one or several wordings, none of them empty.
    turns: of a dialogue. answers: of all annotators, where a question has several.
    size: (height, width) in pixels, where the metadata says it.
    arrays: what encode-data stored: ``latent_mean`` (h, w, c), ``latent_log_variance`` likewise, and
        ``text_embeddings/NAME/K`` (l, d) for wording K of the caption NAME.
    """

    record_id: str
    image: bytes | Path | None = None
    captions: Mapping[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)
    turns: tuple[Turn, ...] = ()
    answers: tuple[str, ...] = ()
    size: tuple[int, int] | None = None
    arrays: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)

    @property
    def is_text_only(self) -> bool:
        return self.image is None and not self.arrays


class Source(Protocol):
    """Random access to records. It can be pickled, and read by many threads at once."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Record:
        """Raises ``DataError`` where the record is damaged; the image itself is not looked at."""

    def head(self, index: int) -> Record:
        """The same, where the end of a large image may be left out: enough to read its size."""

    def has_image(self) -> np.ndarray | None:
        """(records,) bool, where there may be texts without an image; None: all have one."""

    def files(self) -> list[Path]:
        """Where the records come from, beside their images."""


class Joined:
    """Several sources one after the other. ``names`` tell their records apart; "" is left away."""

    def __init__(self, sources: Sequence[Source], names: Sequence[str]):
        self._sources, self._names = sources, names
        self._ends = list(itertools.accumulate(map(len, sources)))

    def __len__(self) -> int:
        return self._ends[-1]

    def __getitem__(self, index: int) -> Record:
        source, index, name = self._place(index)
        record = source[index]
        return dataclasses.replace(record, record_id=f"{name}/{record.record_id}") if name else record

    def head(self, index: int) -> Record:
        source, index, _ = self._place(index)
        return source.head(index)

    def has_image(self) -> np.ndarray | None:
        columns = [source.has_image() for source in self._sources]
        if all(column is None for column in columns):
            return None
        pairs = zip(self._sources, columns, strict=True)
        return np.concatenate([np.ones(len(s), bool) if column is None else column for s, column in pairs])

    def files(self) -> list[Path]:
        return [file for source in self._sources for file in source.files()]

    def _place(self, index: int) -> tuple[Source, int, str]:
        which = bisect.bisect_right(self._ends, index)
        first = self._ends[which - 1] if which else 0
        return self._sources[which], index - first, self._names[which]
