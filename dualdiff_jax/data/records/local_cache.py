"""What was read from a bucket, kept on this host's disk for the next epoch and for the other processes of the host.

    FOLDER/3f/3f9a...    a digest (4 bytes) of what follows: one part of an object, or a whole image
A file appears when it is complete. Its time of change is that of its last use; when the files have more bytes than
they may, the longest unused ones are removed. Whatever is wrong with the folder or with a file in it, the bucket is
read instead.
"""

import contextlib
import hashlib
import logging
import os
import re
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

from dualdiff_jax.errors import UserError
from dualdiff_jax.files import as_path, is_bucket, make_folder, new_file, remove

log = logging.getLogger(__name__)

GB = 10**9
CHECK = 4  # bytes of a file's digest
LEFT = 0.8  # of the bytes that may be kept, after the longest unused were removed
SHARE = 64  # a process looks at the folder after it wrote one of so many parts of what may be kept
PREFIX, KEPT, PARTIAL = (re.compile(p) for p in ("[0-9a-f]{2}", "[0-9a-f]{64}", r"\.[0-9a-f]{64}\..*partial"))  # names
ABANDONED = 600.0  # seconds after which an incomplete file is that of a killed process


class LocalCache:
    """A bounded folder of what was read.

    Args:
        folder: on a local disk; made if it is not there.
        most_gb: 10^9 bytes that it may hold. Processes that write at the same time may exceed it by a 64th each.

    Raises:
        UserError: ``folder`` is in a bucket or cannot be written.
    """

    def __init__(self, folder: str, most_gb: float):
        self._arguments = (folder, most_gb)
        path = as_path(folder)
        if is_bucket(path):
            raise UserError(f"data.local_cache {folder}: is in a bucket; name a folder on a local disk")
        self._folder, self._most = make_folder(path.absolute(), "data.local_cache"), int(most_gb * GB)
        self._lock, self._room, self._is_warned = threading.Lock(), 0, False

    def __reduce__(self):
        return type(self), self._arguments

    def read(self, name: str, fetch: Callable[[], bytes]) -> bytes:
        """The bytes that ``fetch`` returned when it was first called for ``name``; it is called without a lock.

        Args:
            name: of the bytes, which never change under it.
            fetch: reads them.
        """
        digest = hashlib.sha256(name.encode()).hexdigest()
        file = self._folder / digest[:2] / digest
        kept = _read(file)
        if kept is None:
            kept = fetch()
            self._keep(file, kept)
        return kept

    def _keep(self, file: Path, data: bytes) -> None:
        if len(data) > self._most * LEFT:
            return
        try:
            with self._lock:
                self._room -= len(data)
                is_full = self._room < 0
                if is_full:
                    self._room = self._most // SHARE
            if is_full:
                self._make_room(len(data))
            file.parent.mkdir(exist_ok=True)
            with new_file(file, f"{os.getpid()}-{threading.get_ident()}") as partial:
                partial.write_bytes(zlib.crc32(data).to_bytes(CHECK, "big") + data)
        except OSError as error:
            if not self._is_warned:
                self._is_warned = True
                log.warning("%s: data.local_cache cannot be written (%s); reading on", self._folder, error.strerror)

    def _make_room(self, needed: int) -> None:
        """Removes the longest unused files if there are too many for ``needed`` bytes more."""
        found = sorted(self._files())
        total = sum(size for _, size, _ in found) + needed + self._most // SHARE
        if total <= self._most:
            return
        for _, size, path in found:
            if total <= LEFT * self._most:
                return
            remove(Path(path))
            total -= size

    def _files(self) -> Iterator[tuple[float, int, str]]:
        """Yields (time of the last use, bytes, path) of each file of the cache; removes what killed processes left."""
        for folder in self._folder.iterdir():
            if not PREFIX.fullmatch(folder.name) or not folder.is_dir():
                continue
            with os.scandir(folder) as entries:
                for entry in entries:
                    with contextlib.suppress(OSError):  # another process has just removed it
                        if not entry.is_file(follow_symlinks=False):
                            continue
                        status = entry.stat()
                        if KEPT.fullmatch(entry.name):
                            yield status.st_mtime, status.st_size, entry.path
                        elif PARTIAL.fullmatch(entry.name) and time.time() - status.st_mtime > ABANDONED:
                            remove(Path(entry.path))


def _read(file: Path) -> bytes | None:
    """What is kept in ``file``; None if there is none, or a damaged one."""
    try:
        content = file.read_bytes()
        data = content[CHECK:]
        if zlib.crc32(data).to_bytes(CHECK, "big") != content[:CHECK]:
            return None
        os.utime(file)
        return data
    except OSError:
        return None
