"""Where each record of a large file begins: one pass over the file builds an index, which is kept on disk.

An index is an integer array (records, columns). The first two columns are the record's first byte and its
length; a source may add more. The index of ten million records takes some hundred MB of disk. It is memory-mapped,
so processes share the pages that they touch.
What is derived from a bucket's files lies on this host's disk and, where the bucket can be written, beside the data
too, from where other hosts copy it.
"""

import array
import contextlib
import glob
import hashlib
import json
import logging
import os
import shutil
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar, cast

import numpy as np

from dualdiff_jax.config import DataConfig
from dualdiff_jax.data.records.json_text import elements
from dualdiff_jax.data.records.local_cache import LocalCache
from dualdiff_jax.data.records.ranges import LONGEST, RangeReader, local_cache
from dualdiff_jax.errors import UserError
from dualdiff_jax.files import as_path, is_bucket, is_writable, new_file, open_regular, remove
from dualdiff_jax.files.bucket_path import BucketPath
from dualdiff_jax.runtime.environment import cache_folder

FOLDER = ".dualdiff_index"  # beside the data
SMALL = 1 << 20  # bytes of a file whose index is rebuilt at each start
CHUNK = 1 << 22  # bytes read at once
THREADS = 16  # that open files of a bucket

T = TypeVar("T")
log = logging.getLogger(__name__)


def open_each(open_file: Callable[[Path], T], files: Iterable[Path]) -> list[T]:
    """``open_file`` of each file, in order; many at a time in a bucket, where each takes several requests."""
    files = list(files)
    if not files or not is_bucket(files[0]):
        return [open_file(file) for file in files]
    with ThreadPoolExecutor(THREADS) as pool:
        return list(pool.map(open_file, files))


class IndexCache:
    """Keeps what was derived from data files until one of them changes.

    Args:
        folder: where to keep it; "" is a folder beside the first data file or, if that is not writable, the user's
            cache. What was derived from a bucket's files is in the user's cache in any case, unless ``folder`` is on
            a disk.
        kept: where to keep what is read from a bucket; None keeps nothing.
    """

    def __init__(self, folder: str = "", kept: LocalCache | None = None):
        self.folder, self.kept = folder, kept
        self._refusing: set[Path] = set()  # folders of buckets that were found not to be writable

    @classmethod
    def of(cls, data: DataConfig) -> "IndexCache":
        """The cache that a config asks for. Raises ``UserError`` if ``data.local_cache`` cannot be used."""
        return cls(data.index_cache, local_cache(data))

    def reader(self) -> RangeReader:
        """A reader that keeps what it reads as the config says."""
        return RangeReader(self.kept)

    @contextlib.contextmanager
    def local(self, file: Path) -> Iterator[Path]:
        """A context that yields ``file``, or a copy of it on this host's disk if it is in a bucket.

        The copy stays until the object changes. Errors that name the copy name ``file`` instead.
        """
        copy = self.copy(file)
        try:
            yield copy
        except UserError as error:
            if copy == file:
                raise
            raise UserError(str(error).replace(str(copy), str(file))) from error

    def copy(self, file: Path) -> Path:
        """``file``, or the complete copy of it on this host's disk if it is in a bucket. Raises ``OSError``."""
        if not is_bucket(file):
            return file
        return self.file(
            [file], "copy", file.suffix[1:] or "bin", lambda partial: _copy(file, partial), is_shared=False
        )

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
            return np.load(self.file(files, kind, "npy", write, is_shared=False), mmap_mode="r")

    def file(
        self,
        files: Sequence[Path],
        kind: str,
        ending: str,
        write: Callable[[Path], None],
        *,
        is_shared: bool = True,
    ) -> Path:
        """A file derived from ``files``.

        Args:
            files: the data files. If one changes its size or time, the file is written again.
            kind: what the file holds; part of its name.
            ending: of its name, without the dot.
            write: writes it to the path it is given. Several processes may write the same file at once; each writes
                under a name of its own, and the last to finish replaces the others' equal file.
            is_shared: whether other hosts may want the file of a bucket's data.

        Returns:
            The path of the complete file, on a disk.

        Raises:
            UserError: no folder is writable.
        """
        stamp = hashlib.sha256(kind.encode())
        for file in files:
            stat = file.stat()
            stamp.update(f"{file.absolute()}|{stat.st_size}|{stat.st_mtime_ns}".encode())
        where = hashlib.sha256(str(files[0].absolute()).encode()).hexdigest()[:8]
        name = f"{files[0].name}.{kind}.{where}.{stamp.hexdigest()[:16]}.{ending}"
        stem = f"{files[0].name}.{kind}.{where}."
        folders = [as_path(self.folder)] if self.folder else [_beside(files[0]), _user_cache()]
        shared = folders[0] if is_bucket(folders[0]) else None
        if shared is not None:
            folders = [_user_cache()]
        for folder in folders:
            if (folder / name).is_file():
                return folder / name
        for folder in folders:
            if not is_writable(folder):
                continue
            with new_file(folder / name, f"{os.getpid()}-{threading.get_ident()}") as partial:
                if shared is None or not is_shared:
                    write(partial)
                elif not _fetched(shared / name, partial):
                    write(partial)
                    self._share(partial, shared / name, stem, ending)
            _remove_stale(folder, stem, name, ending)
            return folder / name
        raise UserError(f"{folders[0]}: is not writable, so no index can be kept there; set data.index_cache")

    def _share(self, file: Path, target: Path, stem: str, ending: str) -> None:
        """Copies a derived file beside a bucket's data, if that may be written."""
        if target.parent in self._refusing:
            return
        try:
            cast(BucketPath, target).upload(file)
            _remove_stale(target.parent, stem, target.name, ending)
        except OSError as error:
            self._refusing.add(target.parent)
            if self.folder:  # beside the data nobody asked for it
                message = "%s: no index can be kept there (%s); each host derives its own"
                log.warning(message, target.parent, error.strerror)


def _fetched(kept: Path, partial: Path) -> bool:
    """Whether another host has derived the file already; then ``partial`` is a copy of it."""
    try:
        _copy(kept, partial)
    except OSError:
        return False
    return True


def _remove_stale(folder: Path, stem: str, name: str, ending: str) -> None:
    """Removes what was derived from earlier versions of a file."""
    for stale in folder.glob(f"{glob.escape(stem)}*.{ending}"):
        if stale.name != name:  # another process may have written ``name`` too, and be reading it
            remove(stale)


def _copy(file: Path, target: Path) -> None:
    with open_regular(file) as stream, target.open("wb") as output:
        shutil.copyfileobj(stream, output, CHUNK)


def _beside(file: Path) -> Path:
    folder = file.absolute().parent
    return folder if folder.name == FOLDER else folder / FOLDER


def _user_cache() -> Path:
    return cache_folder() / "index"


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
    with cache.local(file) as local:
        return cache.array([file], kind, lambda: build(local, column), is_small=is_small(local))


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
