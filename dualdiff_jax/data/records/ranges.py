"""Byte ranges of data files, from a disk or from a bucket, for any number of threads at once."""

import os
import threading
import weakref
from pathlib import Path
from typing import cast

from dualdiff_jax.config import DataConfig
from dualdiff_jax.data.records.local_cache import LocalCache
from dualdiff_jax.data.records.record import OVERSIZED, DataError
from dualdiff_jax.files import is_bucket
from dualdiff_jax.files.bucket_path import BucketPath

LONGEST = 1 << 28  # bytes of one record's text or image
OPEN_FILES = 256  # that a reader keeps open; it opens any other file for each read


def local_cache(data: DataConfig) -> LocalCache | None:
    """The cache that a config asks for. Raises ``UserError`` if its folder cannot be used."""
    return LocalCache(data.local_cache, data.local_cache_gb) if data.local_cache else None


class RangeReader:
    """Reads byte ranges of files; any number of threads may read at once.

    A disk's files stay open. A range of an object is one request, and no other request waits for it.

    Args:
        kept: where to keep what comes from a bucket; None keeps nothing.
    """

    def __init__(self, kept: LocalCache | None = None):
        self._kept = kept
        self._open: dict[Path, int] = {}
        self._versions: dict[Path, int] = {}
        self._lock = threading.Lock()
        weakref.finalize(self, _close, self._open).atexit = False  # the system closes them, after the last thread

    def __reduce__(self):
        return type(self), (self._kept,)  # file descriptors belong to one process

    def read(self, file: Path, start: int, length: int) -> bytes:
        """``length`` bytes from byte ``start`` on, or fewer if the file ends before.

        Raises:
            DataError: ``length`` is above ``LONGEST``, which no record has.
            OSError: as the system raises it.
        """
        if length > LONGEST:
            raise DataError(OVERSIZED, f"{file.name}: a record of {length} bytes; one may have {LONGEST}")
        if is_bucket(file):
            return self._read_object(cast(BucketPath, file), start, length)
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

    def _read_object(self, file: BucketPath, start: int, length: int) -> bytes:
        if self._kept is None:
            return file.read_range(start, length)
        version = self._versions.get(cast(Path, file))
        if version is None:
            version = self._versions[cast(Path, file)] = file.stat().st_mtime_ns
        return self._kept.read(f"{file}|{version}|{start}|{length}", lambda: file.read_range(start, length))


def _close(descriptors: dict[Path, int]) -> None:
    for descriptor in descriptors.values():
        os.close(descriptor)
