"""Lines that a run appends for as long as it lives: one file on a disk, numbered parts in a bucket.

A bucket appends nothing to an object, so ``metrics.jsonl`` becomes

    metrics.000001.jsonl        the first part; the newest is written anew as it grows, up to ``PART`` bytes
    metrics.000002.jsonl        the next; every process begins one of its own
    metrics.000003.all.jsonl    replaces all before it, which are removed once it is there
    metrics.jsonl               counts as part 0: the file of a run that was copied from a disk
"""

import contextlib
import re
from pathlib import Path

from dualdiff_jax.files.names import is_bucket
from dualdiff_jax.files.regular import open_regular
from dualdiff_jax.files.whole import new_file

PART = 256 << 10  # bytes
MOST = 1 << 30  # bytes that a file is read with; a run that logs every step for a year writes less


class LineLog:
    """What has been appended under one name. One process writes it at a time.

    Args:
        file: the name; its folder exists, or lies in a bucket.
    """

    def __init__(self, file: Path):
        self._file = file
        self._parts = _Parts(file) if is_bucket(file) else None
        self._unwritten: list[bytes] = []

    def exists(self) -> bool:
        """Whether anything has been appended."""
        return bool(self._parts.current()) if self._parts else self._file.exists()

    def read(self) -> bytes:
        """All that was appended, in order; empty where nothing was.

        Raises:
            OSError: it cannot be read.
            UserError: a pipe or a folder has the name, or the file is larger than ``MOST``.
        """
        if self._parts:
            return self._parts.read()
        if not self._file.exists():
            return b""
        with open_regular(self._file, MOST) as opened:
            return opened.read()

    def append(self, data: bytes) -> None:
        """Appends; what cannot be written is kept, and written with the next. Raises ``OSError``."""
        self._unwritten.append(data)
        if self._parts:
            self._parts.append(b"".join(self._unwritten))
        else:
            _append_whole(self._file, b"".join(self._unwritten))
        self._unwritten.clear()

    def replace(self, data: bytes) -> None:
        """Puts ``data`` in the place of all that was appended, in one step. Raises ``OSError``."""
        if self._parts:
            return self._parts.replace(data)
        with new_file(self._file) as partial:
            partial.write_bytes(data)


def _append_whole(path: Path, data: bytes) -> None:
    """Appends all of ``data`` or, on a disk that fills up meanwhile, nothing."""
    with path.open("ab", buffering=0) as file:
        size, rest = file.tell(), memoryview(data)
        try:
            while rest:
                rest = rest[file.write(rest) :]
        except OSError:
            file.truncate(size)
            raise


class _Parts:
    """The objects of a log in a bucket."""

    def __init__(self, file: Path):
        self._file = file
        self._name = re.compile(rf"{re.escape(file.stem)}\.(\d{{6}})(\.all)?{re.escape(file.suffix)}")
        self._number: int | None = None  # of the part that this process writes
        self._content = b""

    def current(self) -> list[Path]:
        """The parts that count, in order: the newest that stands for all before it, and those after it."""
        found = self._found()
        first = max((number for number, is_all in found if is_all), default=0)
        return [path for (number, _), path in sorted(found.items()) if number >= first]

    def read(self) -> bytes:
        return b"".join(path.read_bytes() for path in self.current())

    def append(self, data: bytes) -> None:
        if self._number is None or len(self._content) >= PART:
            self._number, self._content = self._next(), b""
        content = self._content + data
        self._part(self._number).write_bytes(content)
        self._content = content

    def replace(self, data: bytes) -> None:
        older, number = self._found(), self._next()
        self._part(number, ".all").write_bytes(data)
        self._number, self._content = None, b""
        for path in older.values():
            with contextlib.suppress(OSError):  # it counts no more
                path.unlink(missing_ok=True)

    def _part(self, number: int, kind: str = "") -> Path:
        return self._file.with_name(f"{self._file.stem}.{number:06d}{kind}{self._file.suffix}")

    def _found(self) -> dict[tuple[int, bool], Path]:
        """(number, whether it stands for all before it) -> the part; one listing."""
        found: dict[tuple[int, bool], Path] = {}
        with contextlib.suppress(FileNotFoundError):
            for path in self._file.parent.iterdir():
                if path.name == self._file.name:
                    found[0, False] = path
                elif name := self._name.fullmatch(path.name):
                    found[int(name[1]), name[2] is not None] = path
        return found

    def _next(self) -> int:
        return 1 + max((number for number, _ in self._found()), default=0)
