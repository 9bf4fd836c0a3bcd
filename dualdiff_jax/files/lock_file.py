"""The file of a lock on a disk, and the object of one in a bucket: made by one process, touched by its owner."""

import contextlib
import fcntl
import json
import os
import stat
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from dualdiff_jax.errors import UserError
from dualdiff_jax.files.bucket_path import BucketPath

SIZE = 4096  # bytes of the file that are read


class LocalLockFile:
    """A file. Its time of change is the heartbeat, and a lock on its folder keeps two newcomers apart."""

    BEAT = 3.0  # seconds between two heartbeats
    STALE = 15.0  # seconds without a heartbeat after which the owner on another machine counts as gone

    def __init__(self, path: Path):
        self.path = path

    def make(self, owner: dict[str, Any]) -> bool:
        """Makes the file, unless there is one; returns whether it was made."""
        with self._alone():
            try:
                descriptor = os.open(self.path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
            except FileExistsError:
                return False
            with contextlib.suppress(OSError), os.fdopen(descriptor, "w") as file:  # a full disk leaves it empty
                file.write(json.dumps(owner) + "\n")
        return True

    def remove(self, token: Any) -> None:
        """Removes the file if its owner has ``token``."""
        with self._alone():
            if self.read()[0].get("token") == token:
                self.path.unlink(missing_ok=True)

    def beat(self, owner: dict[str, Any]) -> None:
        """Leaves a sign of life."""
        del owner
        os.utime(self.path)

    def read(self) -> tuple[dict[str, Any], int | None]:
        """The owner, {} where the file is gone or damaged, and the time of its last heartbeat."""
        try:
            descriptor = os.open(self.path, os.O_RDONLY | os.O_NONBLOCK)
        except FileNotFoundError:
            return {}, None
        except OSError as error:
            raise UserError(f"{self.path}: cannot be read ({error.strerror}); remove it") from error
        try:
            status = os.fstat(descriptor)
            content = os.read(descriptor, SIZE) if stat.S_ISREG(status.st_mode) else None
        finally:
            os.close(descriptor)
        if content is None:
            raise UserError(f"{self.path}: is no regular file; remove it")
        return _decoded(content), status.st_mtime_ns

    def age(self) -> float:
        """Seconds since the last heartbeat, by the clock of the file system; 0 where it cannot be known."""
        probe = self.path.with_name(f"{self.path.name}.{uuid.uuid4().hex[:8]}.probe")
        try:
            probe.touch()
            return max(0.0, probe.stat().st_mtime - self.path.stat().st_mtime)
        except OSError:
            return 0.0
        finally:
            with contextlib.suppress(OSError):
                probe.unlink(missing_ok=True)

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """Keeps the other processes of this machine from looking at the locks in the folder meanwhile."""
        descriptor = os.open(self.path.parent, os.O_RDONLY)
        try:
            with contextlib.suppress(OSError):  # network file systems may not support it
                fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)


class BucketLockFile:
    """An object. Its owner writes it anew with the number of the heartbeat, which costs one request each time.

    The service makes sure that one newcomer alone makes the object.
    """

    BEAT, STALE = 10.0, 60.0  # a request that the service refuses for a moment may be tried for half a minute
    SETTLED = 1.0  # seconds after which a newcomer looks whether another one has removed what it made

    def __init__(self, path: BucketPath):
        self.path = path
        self._beats = 0

    def make(self, owner: dict[str, Any]) -> bool:
        try:
            self.path.create(_encoded(owner, 0))
        except FileExistsError:
            return False
        time.sleep(self.SETTLED)
        return self.read()[0].get("token") == owner["token"]

    def remove(self, token: Any) -> None:
        if self.read()[0].get("token") == token:
            self.path.unlink(missing_ok=True)

    def beat(self, owner: dict[str, Any]) -> None:
        self._beats += 1
        self.path.write_bytes(_encoded(owner, self._beats))

    def read(self) -> tuple[dict[str, Any], int | None]:
        try:
            content = self.path.read_bytes()
        except FileNotFoundError:
            return {}, None
        owner = _decoded(content[:SIZE])
        return owner, hash(content) if not isinstance(owner.get("beat"), int) else owner["beat"]

    def age(self) -> float:
        return 0.0  # the clock of the service is not asked; a newcomer watches


def _encoded(owner: dict[str, Any], beat: int) -> bytes:
    return (json.dumps(owner | {"beat": beat}) + "\n").encode()


def _decoded(content: bytes) -> dict[str, Any]:
    try:
        owner = json.loads(content)
    except (ValueError, RecursionError):
        owner = None
    return owner if isinstance(owner, dict) else {}
