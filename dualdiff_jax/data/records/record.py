"""``Record``, the one type that every source yields, and the faults that a record can have.

Whatever goes wrong while one record is read is that record's fault (``blame``): no list says which errors count.
"""

import abc
import bisect
import contextlib
import dataclasses
import itertools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypeGuard

import numpy as np

from dualdiff_jax.data.records.unicode import mend_text
from dualdiff_jax.errors import UserError, quoted, reason

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
OUTSIDE = "outside the root"

LONGEST_MESSAGE = 1000  # characters; a message may quote several paths
MOST_SIDE = 1 << 24  # pixels of a height or a width that metadata may claim


class DataError(UserError):
    """A fault of one record or one image.

    Args:
        cause: one of the constants above; reports count faults by it.
        message: names the record or file and the fault.
    """

    def __init__(self, cause: str, message: str):
        message = mend_text(message)
        super().__init__(message if len(message) <= LONGEST_MESSAGE else f"{message[: LONGEST_MESSAGE - 4]} ...")
        self.cause = cause

    def __reduce__(self):
        return type(self), (self.cause, str(self))  # worker processes pickle it


@contextlib.contextmanager
def blame(record_id: str) -> Iterator[None]:
    """Whatever error ends the block is a fault of one record.

    What ends a run is no ``Exception`` (``KeyboardInterrupt``, ``SystemExit``) and passes. Errors of the whole system,
    such as of a disk, count as faults of the records that could not be read; ``data.max_bad_share`` bounds them.

    Args:
        record_id: the name of the record in the message.

    Raises:
        DataError: as it was raised in the block, or in place of any other ``Exception``.
    """
    try:
        yield
    except DataError:
        raise
    except UserError as error:
        named = str(error).startswith(record_id)
        raise DataError(UNREADABLE, str(error) if named else f"{record_id}: {error}") from error
    except Exception as error:
        raise DataError(UNREADABLE, f"{record_id} cannot be read ({reason(error)})") from error


class Turn(NamedTuple):
    """One question of a dialogue and its answer."""

    question: str
    answer: str


@dataclasses.dataclass(frozen=True)
class Record:
    """An image and its texts, which are valid Unicode: the constructor mends them.

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

    Raises:
        DataError: a text is no text, or a size is none.
    """

    record_id: str
    image: bytes | Path | None = None
    captions: Mapping[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)
    turns: tuple[Turn, ...] = ()
    answers: tuple[str, ...] = ()
    size: tuple[int, int] | None = None
    arrays: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)

    def __post_init__(self):
        name = self._text(self.record_id, "its id")
        captions = {self._text(n, "a name"): self._texts(texts, n) for n, texts in self.captions.items()}
        turns = tuple(Turn(*self._texts(turn, "a turn")) for turn in self.turns)
        object.__setattr__(self, "record_id", name)
        object.__setattr__(self, "captions", captions)
        object.__setattr__(self, "turns", turns)
        object.__setattr__(self, "answers", self._texts(self.answers, "answers"))
        is_pair = isinstance(self.size, tuple) and len(self.size) == 2 and all(map(is_side, self.size))
        if self.size is not None and not is_pair:
            raise DataError(WRONG_TYPE, f"{name}: its size should be height and width, found {quoted(self.size)}")

    def _texts(self, values: Any, what: str) -> tuple[str, ...]:
        if not isinstance(values, tuple | list):
            raise DataError(WRONG_TYPE, f"{self.record_id}: {what} should be a list of texts, found {quoted(values)}")
        return tuple(self._text(value, what) for value in values)

    def _text(self, value: Any, what: str) -> str:
        if not isinstance(value, str):
            name = quoted(self.record_id)
            raise DataError(WRONG_TYPE, f"{name}: {what} should be text, found {quoted(value)}")
        return mend_text(value)

    @property
    def is_text_only(self) -> bool:
        return self.image is None and not self.arrays


def is_side(value: Any) -> TypeGuard[int]:
    """Whether ``value`` can be a height or a width in pixels."""
    return isinstance(value, int | np.integer) and not isinstance(value, bool) and 0 < int(value) <= MOST_SIDE


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

    def files_of(self, indexes: np.ndarray) -> list[Path]:
        """Those of ``files`` that hold the records of some indexes, or a few more."""
        ...

    def holds_images(self) -> bool:
        """Whether ``files`` hold the images too; otherwise they are lists, and each image is a file of its own."""
        ...


class FileSource(abc.ABC):
    """A source that reads records one by one; every error in reading one is that record's ``DataError``."""

    def __getitem__(self, index: int) -> Record:
        with blame(self.name(index)):
            return self.read(index)

    def head(self, index: int) -> Record:
        with blame(self.name(index)):
            return self.read(index, is_head=True)

    def has_image(self) -> np.ndarray | None:
        return None

    @abc.abstractmethod
    def __len__(self) -> int: ...

    @abc.abstractmethod
    def name(self, index: int) -> str:
        """The record's name in messages, before anything of it is read: its file, and its place there."""

    @abc.abstractmethod
    def read(self, index: int, *, is_head: bool = False) -> Record:
        """The record; with ``is_head``, its image may lack its end. May raise any error."""

    @abc.abstractmethod
    def files(self) -> list[Path]: ...

    def files_of(self, indexes: np.ndarray) -> list[Path]:
        return self.files()

    def holds_images(self) -> bool:
        return False


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

    def files_of(self, indexes: np.ndarray) -> list[Path]:
        which = np.searchsorted(self._ends, indexes, side="right")
        firsts = [0, *self._ends]
        chosen = [(number, indexes[which == number] - firsts[number]) for number in np.unique(which).tolist()]
        return [file for number, inside in chosen for file in self._sources[number].files_of(inside)]

    def holds_images(self) -> bool:
        return all(source.holds_images() for source in self._sources)

    def _place(self, index: int) -> tuple[Source, int, str]:
        """(source, index in it, its name) of a record."""
        which = bisect.bisect_right(self._ends, index)
        first = self._ends[which - 1] if which else 0
        return self._sources[which], index - first, self._names[which]
