"""``Record``, the one type that every source yields, and the faults that a record can have."""

import bisect
import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np

from dualdiff_jax.errors import UserError

# Causes of a fault, as the reports name them.
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
    """A fault of one record or one image.

    Args:
        cause: one of the constants above; reports count faults by it.
        message: names the record or file and the fault.
    """

    def __init__(self, cause: str, message: str):
        super().__init__(message)
        self.cause = cause

    def __reduce__(self):
        return type(self), (self.cause, str(self))  # worker processes pickle it


class Turn(NamedTuple):
    """One question of a dialogue and its answer."""

    question: str
    answer: str


@dataclasses.dataclass(frozen=True)
class Record:
    """An image and its texts.

    Attributes:
        record_id: the name of the record in messages and reports.
        image: the bytes of the encoded file, or its path; None for a text without an image, or if ``arrays`` holds
            latents.
        captions: caption name -> one or several wordings, none of them empty.
        turns: the dialogue.
        answers: the answers of all annotators, if a question has several.
        size: (height, width) in pixels, if the metadata gives it.
        arrays: the outputs of encode-data: ``latent_mean`` (h, w, c), ``latent_log_variance`` (h, w, c), and
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
    """Random access to records. A source is picklable, and many threads may read it at once."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Record:
        """The record; its image is not decoded. Raises ``DataError`` if the record is damaged."""
        ...

    def head(self, index: int) -> Record:
        """The record, whose image may lack its end: enough to read the image's size."""
        ...

    def has_image(self) -> np.ndarray | None:
        """(records,) bool; None if every record has an image."""
        ...

    def files(self) -> list[Path]:
        """The files that hold the records, without the image files."""
        ...


class ConcatenatedSource:
    """Several sources, one after the other.

    Args:
        sources: none of them empty.
        names: for each source a prefix of its record ids, which keeps them apart; "" for no prefix.
    """

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
        """(source, index in it, its name) of a record."""
        which = bisect.bisect_right(self._ends, index)
        first = self._ends[which - 1] if which else 0
        return self._sources[which], index - first, self._names[which]
