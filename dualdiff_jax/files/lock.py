"""One owner at a time for a folder that a run, an import or an export writes.

    FILE    {"host", "pid", "started", "machine", "since", "token"}; its time of change is the owner's heartbeat
A lock outlives a killed owner. The next process takes it over as soon as it knows that the owner is gone:
(1)  the owner ran on this machine     no process has its number and its start time
(2)  it ran on another machine, or in another container     nobody has touched FILE for ``STALE`` seconds
In (2) no clock of two machines is compared: both times are the file system's, or the newcomer watches FILE.
In a bucket FILE has one field more, the number of the heartbeat.
"""

import contextlib
import threading
import time
import uuid
from pathlib import Path
from types import TracebackType
from typing import Any, cast

import jax

from dualdiff_jax.errors import UserError
from dualdiff_jax.files.bucket_path import BucketPath
from dualdiff_jax.files.lock_file import BucketLockFile, LocalLockFile
from dualdiff_jax.files.names import is_bucket
from dualdiff_jax.files.owner import described, is_running, machine, this_process

GRACE = 5.0  # seconds that an owner on this machine may take to end: a killed process gives back its memory first
POLL = 0.2
NAME = ".lock"  # of the file in a folder that exists

_left: set[str] = set()  # tokens of this process's locks whose files could not be removed


class Lock:
    """A context manager that owns ``file`` while it is entered. Process 0 stands for all processes of a run.

    Args:
        file: the lock; its folder exists.
        folder: what it protects, for the message.

    Raises:
        UserError: on entry, another process owns it.
        OSError: on entry, ``file`` cannot be written.
    """

    def __init__(self, file: Path, folder: Path):
        self._file = _lock_file(file)
        self._folder = folder
        self._owner = this_process() | {"token": uuid.uuid4().hex}
        self._ended = threading.Event()
        self._taken_by: dict[str, Any] | None = None

    def __enter__(self) -> "Lock":
        if jax.process_index() == 0:
            self._take()
            threading.Thread(target=self._beat, name=f"heartbeat of {self._file.path.name}", daemon=True).start()
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self._ended.set()
        if jax.process_index() == 0:
            try:
                self._file.remove(self._owner["token"])
            except (OSError, UserError):
                _left.add(self._owner["token"])

    def check(self) -> None:
        """Raises ``UserError`` if another process has taken the lock over, for example while this one was stopped."""
        if self._taken_by is not None:
            raise UserError(f"{self._folder}: {described(self._taken_by)} took it over; this process writes no more")

    def _take(self) -> None:
        begin = last_seen = time.monotonic()
        first_beat = beat = None
        while not self._file.make(self._owner):
            owner, found = self._file.read()
            now = time.monotonic()
            if found is None:  # removed meanwhile, or never to be read
                if now - begin > GRACE + self._file.STALE:
                    raise UserError(f"{self._file.path}: can neither be made nor read; remove it")
                time.sleep(POLL)
                continue
            if found != beat:
                last_seen = now - (self._file.age() if beat is None else 0.0)
                beat = found
                first_beat = first_beat or found
            if owner.get("machine") == machine():
                is_gone = not is_running(owner) or owner.get("token") in _left
                is_alive = now - begin > GRACE
            else:
                is_gone, is_alive = now - last_seen > self._file.STALE, beat != first_beat
            if is_gone:
                self._file.remove(owner.get("token"))
            elif is_alive:
                raise UserError(
                    f"{self._folder}: {described(owner)} writes there; wait until it ends, or name another folder"
                )
            else:
                time.sleep(POLL)

    def _is_own(self) -> bool:
        return self._file.read()[0].get("token", self._owner["token"]) == self._owner["token"]

    def _beat(self) -> None:
        while not self._ended.wait(self._file.BEAT):
            with contextlib.suppress(OSError, UserError):
                if not self._is_own():
                    self._taken_by = self._file.read()[0]
                    return
                self._file.beat(self._owner)


def _lock_file(file: Path) -> BucketLockFile | LocalLockFile:
    return BucketLockFile(cast(BucketPath, file)) if is_bucket(file) else LocalLockFile(file)


def owner_now(folder: Path) -> str:
    """The process that writes in ``folder``, as messages name it; "" where there is none. Waits for nothing.

    An owner on another machine counts until its last heartbeat is stale.

    Raises:
        UserError: the lock cannot be read.
    """
    lock = _lock_file(folder / NAME)
    owner, beat = lock.read()
    if beat is None:
        return ""
    is_alive = is_running(owner) if owner.get("machine") == machine() else lock.age() <= lock.STALE
    return described(owner) if is_alive else ""


def inside(folder: Path) -> Lock:
    """The lock of a folder that exists."""
    return Lock(folder / NAME, folder)


def beside(folder: Path) -> Lock:
    """The lock of a folder that appears only when it is complete: a file beside it."""
    return Lock(lock_beside(folder), folder)


def lock_beside(folder: Path) -> Path:
    """The file of that lock, which outlives a killed owner."""
    return folder.with_name(f".{folder.name}.lock")
