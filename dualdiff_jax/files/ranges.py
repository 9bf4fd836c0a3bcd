"""Parts of large files: bytes by their offsets, from a disk or from a bucket.

A bucket answers each request after some ten milliseconds, and one connection brings less than the network can. Large
parts are therefore read in pieces, and pieces and small parts on several connections at a time.
"""

import io
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np

from dualdiff_jax.files.bucket_path import BucketPath
from dualdiff_jax.files.names import is_bucket
from dualdiff_jax.files.regular import check_regular, open_regular

PIECE = 8 << 20  # bytes of a request
CONNECTIONS = 8
BUFFER = 64 << 10  # bytes that a stream from a bucket reads at a time


def open_random(path: Path) -> BinaryIO:
    """Opens a regular file for reads here and there. Arguments and exceptions: ``regular.open_regular``."""
    if not is_bucket(path):
        return open_regular(path)
    size = check_regular(path).st_size
    return cast(BinaryIO, io.BufferedReader(_RangeReader(cast(BucketPath, path), size), BUFFER))


def read_part(path: Path, begin: int, size: int) -> np.ndarray:
    """Reads ``size`` bytes of a regular file from byte ``begin`` on.

    Returns:
        (size,) uint8; shorter where the file ends before.

    Raises:
        OSError: the file cannot be read.
        UserError: ``path`` is no regular file.
    """
    if not is_bucket(path):
        with open_regular(path) as file:
            return np.fromfile(file, np.uint8, count=size, offset=begin)
    data = np.empty(size, np.uint8)

    def fill(at: int) -> int:
        piece = cast(BucketPath, path).read_range(begin + at, min(PIECE, size - at))
        data[at : at + len(piece)] = np.frombuffer(piece, np.uint8)
        return len(piece)

    with ThreadPoolExecutor(CONNECTIONS) as pool:
        return data[: sum(pool.map(fill, range(0, size, PIECE)))]


def read_parts(path: Path, parts: Sequence[tuple[int, int]]) -> list[bytes]:
    """Reads many small parts, (first byte, bytes) each. Raises as ``read_part``."""
    if is_bucket(path):
        with ThreadPoolExecutor(CONNECTIONS) as pool:
            return list(pool.map(lambda part: cast(BucketPath, path).read_range(*part), parts))
    with open_regular(path) as file:
        return [os.pread(file.fileno(), size, begin) for begin, size in parts]


class _RangeReader(io.RawIOBase):
    """An object as a stream; every read is a request for just what is read."""

    def __init__(self, path: BucketPath, size: int):
        self._path, self._size, self._at = path, size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        at = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._size}[whence]
        if at < 0:
            raise ValueError(f"negative seek position {at}")
        self._at = at
        return at

    def readinto(self, buffer: Any, /) -> int:
        data = self._path.read_range(self._at, min(len(buffer), max(self._size - self._at, 0)))
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)
