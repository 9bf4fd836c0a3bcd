"""Where each record of a large file begins: one pass over the file builds an index, which is kept on disk.

An index is an integer array (records, columns). The first two columns are the record's first byte and its
length; a source may add more. The index of ten million records takes some hundred MB of disk. It is memory-mapped,
so processes share the pages that they touch.
"""

import array
import glob
import hashlib
import json
import os
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dualdiff_jax.data.records.json_text import elements
from dualdiff_jax.data.records.record import OVERSIZED, DataError
from dualdiff_jax.errors import UserError
from dualdiff_jax.files import is_writable, new_file, remove
from dualdiff_jax.runtime.environment import cache_folder

FOLDER = ".dualdiff_index"  # beside the data
SMALL = 1 << 20  # bytes of a file whose index is rebuilt at each start
CHUNK = 1 << 22  # bytes read at once
LONGEST = 1 << 28  # bytes of one record's text or image
OPEN_FILES = 256  # that a reader keeps open; it opens any other file for each read


class IndexCache:
    """Keeps what was derived from data files until one of them changes.

    Args:
        folder: where to keep it; "" is a folder beside the first data file or, if that is not writable, the user's
            cache.
    """

    def __init__(self, folder: str = ""):
        self.folder = folder

    def array(self, files: Sequence[Path], kind: str, build: Callable[[], np.ndarray], *, is_small: bool) -> np.ndarray:
        """An array derived from ``files``.

        Args:
            files: the data files. If one changes its size or time, the array is built again.
            kind: what the array holds; part of its file's name.
            build: computes the array.
            is_small: whether to build the array each time instead of keeping it.

        Returns:
            The array, memory-mapped and read-only unless ``is_small``.

        Raises:
            UserError: no folder is writable.
        """
        if is_small:
            return build()

        def write(partial: Path) -> None:
            with partial.open("wb") as stream:
                np.save(stream, build())

        file = self.file(files, kind, "npy", write)
        try:
            return np.load(file, mmap_mode="r")
        except Exception:  # whatever damaged it, the data files are still there
            remove(file)
            return np.load(self.file(files, kind, "npy", write), mmap_mode="r")

    def file(self, files: Sequence[Path], kind: str, ending: str, write: Callable[[Path], None]) -> Path:
        """A file derived from ``files``.

        Args:
            files: the data files. If one changes its size or time, the file is written again.
            kind: what the file holds; part of its name.
            ending: of its name, without the dot.
            write: writes it to the path it is given. Several processes may write the same file at once; each writes
                under a name of its own, and the last to finish replaces the others' equal file.

        Returns:
            The path of the complete file.

        Raises:
            UserError: no folder is writable.
        """
        stamp = hashlib.sha256(kind.encode())
        for file in files:
            stat = file.stat()
            stamp.update(f"{file.absolute()}|{stat.st_size}|{stat.st_mtime_ns}".encode())
        where = hashlib.sha256(str(files[0].absolute()).encode()).hexdigest()[:8]
        name = f"{files[0].name}.{kind}.{where}.{stamp.hexdigest()[:16]}.{ending}"
        folders = [Path(self.folder)] if self.folder else [_beside(files[0]), _user_cache()]
        for folder in folders:
            if (folder / name).is_file():
                return folder / name
        for folder in folders:
            if not is_writable(folder):
                continue
            with new_file(folder / name, f"{os.getpid()}-{threading.get_ident()}") as partial:
                write(partial)
            for stale in folder.glob(f"{glob.escape(f'{files[0].name}.{kind}.{where}.')}*.{ending}"):
                if stale.name != name:  # another process may have written ``name`` too, and be reading it
                    remove(stale)
            return folder / name
        raise UserError(f"{folders[0]}: is not writable, so no index can be kept there; set data.index_cache")


def _beside(file: Path) -> Path:
    folder = file.absolute().parent
    return folder if folder.name == FOLDER else folder / FOLDER


def _user_cache() -> Path:
    return cache_folder() / "index"


class RangeReader:
    """Reads byte ranges of files; any number of threads may read at once."""

    def __init__(self):
        self._open: dict[Path, int] = {}
        self._lock = threading.Lock()

    def __reduce__(self):
        return type(self), ()  # file descriptors belong to one process

    def __del__(self):
        for descriptor in self._open.values():
            os.close(descriptor)

    def read(self, file: Path, start: int, length: int) -> bytes:
        """``length`` bytes from byte ``start`` on, or fewer if the file ends before.

        Raises:
            DataError: ``length`` is above ``LONGEST``, which no record has.
            OSError: as the system raises it.
        """
        if length > LONGEST:
            raise DataError(OVERSIZED, f"{file.name}: a record of {length} bytes; one may have {LONGEST}")
        descriptor = self._open.get(file)
        if descriptor is not None:
            return os.pread(descriptor, length, start)
        with self._lock:
            descriptor = self._open.get(file)
            if descriptor is None:
                descriptor = os.open(file, os.O_RDONLY)
                if len(self._open) < OPEN_FILES:
                    self._open[file] = descriptor
        try:
            return os.pread(descriptor, length, start)
        finally:
            if file not in self._open:
                os.close(descriptor)


def json_index(file: Path, cache: IndexCache, column: Callable[[Any], int] | None = None) -> np.ndarray:
    """The index of a JSON list or, if the file is called .jsonl or .ndjson, of JSON Lines.

    Args:
        file: the JSON file.
        cache: keeps the index of a large file.
        column: computes a third column from each parsed value; None is its argument for a line that is no JSON. Its
            name is part of the index's file name.

    Returns:
        (records, 2) int64, or (records, 3) with ``column``.

    Raises:
        UserError: the file is no JSON list.
    """
    kind, build = ("lines", _lines) if file.suffix in (".jsonl", ".ndjson") else ("list", _list)
    kind += f"-{column.__name__}" if column else ""
    return cache.array([file], kind, lambda: build(file, column), is_small=is_small(file))


def is_small(file: Path) -> bool:
    """Whether scanning the file again is faster than keeping an index."""
    return file.stat().st_size < SMALL


def _lines(file: Path, column: Callable[[Any], int] | None) -> np.ndarray:
    parts, base, start = [], 0, 0
    with file.open("rb") as stream:
        while chunk := stream.read(CHUNK):
            stops = base + np.flatnonzero(np.frombuffer(chunk, np.uint8) == ord("\n"))
            base += len(chunk)
            if len(stops):
                parts.append(_rows(np.concatenate([[start], stops[:-1] + 1]), stops))
                start = int(stops[-1]) + 1
            if base - start > LONGEST:
                raise UserError(f"{file}: has a line of more than {LONGEST} bytes; is it JSON Lines?")
    rows = np.concatenate([*parts, _rows(np.asarray([start]), np.asarray([base]))])
    short = np.flatnonzero(rows[:, 1] == 1).tolist()
    with file.open("rb") as stream:
        blank = [row for row in short if stream.seek(int(rows[row, 0])) >= 0 and not stream.read(1).strip()]
    rows = np.delete(rows, blank, axis=0)
    if column is None:
        return rows
    with file.open("rb") as stream:
        flags = [column(_value(stream.read(int(n)))) for start, n in rows.tolist() if stream.seek(start) >= 0]
    return np.concatenate([rows, np.asarray(flags, np.int64).reshape(-1, 1)], axis=1)


def _rows(starts: np.ndarray, stops: np.ndarray) -> np.ndarray:
    """(n, 2): the first byte and length of each line that is not empty."""
    rows = np.stack([starts, stops - starts], axis=1)
    return rows[rows[:, 1] > 0]


def _value(text: bytes) -> Any:
    """The parsed JSON; None if ``text`` is no JSON, a fault that is raised when the record is read."""
    try:
        return json.loads(text)
    except Exception:
        return None


def _list(file: Path, column: Callable[[Any], int] | None) -> np.ndarray:
    rows = array.array("q")
    for _, value, start, stop in elements(file, "["):
        rows.extend((start, stop - start) if column is None else (start, stop - start, column(value)))
    return np.frombuffer(rows, np.int64).reshape(-1, 2 if column is None else 3)
