"""The bytes of a large file, read once from its begin to its end.

A disk gives only the bytes that are asked for. An object comes in large pieces, and the next piece is fetched while
the one before is used: a request takes as long as the transfer of a MiB.
"""

import contextlib
import errno
import os
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Protocol, cast

from dualdiff_jax.files import check_regular, is_bucket, open_regular
from dualdiff_jax.files.bucket_path import BucketPath
from dualdiff_jax.files.ranges import PIECE


class ForwardReader(Protocol):
    """A file whose bytes are asked for in nearly ascending order.

    Attributes:
        size: bytes of the file.
    """

    size: int

    def read(self, count: int, at: int) -> bytes:
        """``count`` bytes from byte ``at`` on, or fewer if the file ends before. Raises ``OSError``."""
        ...

    def after_hole(self, at: int) -> int:
        """The first byte from ``at`` on that may be other than zero; ``size`` if there is none."""
        ...


@contextlib.contextmanager
def forward_reader(file: Path) -> Iterator[ForwardReader]:
    """A context that yields a reader of ``file``.

    Raises:
        OSError: there is no such file, or it cannot be read.
        UserError: it is no regular file.
    """
    if is_bucket(file):
        with ThreadPoolExecutor(1) as pool:
            yield _ObjectReader(cast(BucketPath, file), check_regular(file).st_size, pool)
    else:
        with open_regular(file) as stream:
            yield _DiskReader(stream.fileno())


class _DiskReader:
    def __init__(self, descriptor: int):
        self._descriptor, self.size = descriptor, os.fstat(descriptor).st_size

    def read(self, count: int, at: int) -> bytes:
        return os.pread(self._descriptor, count, at)

    def after_hole(self, at: int) -> int:
        try:
            return os.lseek(self._descriptor, at, os.SEEK_DATA)
        except OSError as error:
            return self.size if error.errno == errno.ENXIO else at


class _ObjectReader:
    def __init__(self, file: BucketPath, size: int, pool: ThreadPoolExecutor):
        self._file, self.size, self._pool = file, size, pool
        self._pieces: dict[int, Future[bytes]] = {}  # number -> the piece, the one in use and the next

    def read(self, count: int, at: int) -> bytes:
        found, end = [], min(at + count, self.size)
        while at < end:
            number, inside = divmod(at, PIECE)
            part = self._piece(number)[inside : inside + end - at]
            if not part:
                break  # the object has become shorter
            found.append(part)
            at += len(part)
        return b"".join(found)

    def after_hole(self, at: int) -> int:
        return at

    def _piece(self, number: int) -> bytes:
        wanted = [n for n in (number, number + 1) if n * PIECE < self.size]
        for n in wanted:
            if n not in self._pieces:
                begin = n * PIECE
                self._pieces[n] = self._pool.submit(self._file.read_range, begin, min(PIECE, self.size - begin))
        for n in set(self._pieces).difference(wanted):
            del self._pieces[n]
        return self._pieces[number].result()
