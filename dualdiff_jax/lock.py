"""One owner at a time for a folder that a run, an import or an export writes.

    FILE    {"host", "pid", "started", "machine", "since", "token"}; its time of change is the owner's heartbeat
A lock outlives a killed owner. The next process takes it over as soon as it knows that the owner is gone:
(1)  the owner ran on this machine     no process has its number and its start time
(2)  it ran on another machine, or in another container     nobody has touched FILE for ``STALE`` seconds
In (2) no clock of two machines is compared: both times are the file system's, or the newcomer watches FILE.
"""

import contextlib
import datetime
import fcntl
import json
import os
import platform
import stat
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

import jax

from dualdiff_jax.errors import UserError

BEAT = 3.0  # seconds between two heartbeats
STALE = 15.0  # seconds without a heartbeat after which the owner on another machine counts as gone
GRACE = 5.0  # seconds that an owner on this machine may take to end: a killed process gives back its memory first
POLL = 0.2
SIZE = 4096  # bytes of FILE that are read


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
        self._file, self._folder = file, folder
        self._token = uuid.uuid4().hex
        self._ended = threading.Event()
        self._taken_by: dict[str, Any] | None = None

    def __enter__(self) -> "Lock":
        if jax.process_index() == 0:
            self._take()
            threading.Thread(target=self._beat, name=f"heartbeat of {self._file.name}", daemon=True).start()
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self._ended.set()
        if jax.process_index() == 0:
            with contextlib.suppress(OSError, UserError), _alone(self._file.parent):
                if self._is_own():
                    self._file.unlink(missing_ok=True)

    def check(self) -> None:
        """Raises ``UserError`` if another process has taken the lock over, for example while this one was stopped."""
        if self._taken_by is not None:
            raise UserError(f"{self._folder}: {_described(self._taken_by)} took it over; this process writes no more")

    def _take(self) -> None:
        begin = last_seen = time.monotonic()
        first_beat = beat = None
        while not self._make():
            owner, found = _read(self._file)
            now = time.monotonic()
            if found is None:
                continue
            if found != beat:
                last_seen = now - (_age(self._file) if beat is None else 0.0)
                beat = found
                first_beat = first_beat or found
            if owner.get("machine") == _machine():
                is_gone, is_alive = not _is_running(owner), now - begin > GRACE
            else:
                is_gone, is_alive = now - last_seen > STALE, beat != first_beat
            if is_gone:
                self._remove(owner)
            elif is_alive:
                raise UserError(
                    f"{self._folder}: {_described(owner)} writes there; wait until it ends, or name another folder"
                )
            else:
                time.sleep(POLL)

    def _make(self) -> bool:
        """Makes the file, unless there is one."""
        with _alone(self._file.parent):
            try:
                descriptor = os.open(self._file, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
            except FileExistsError:
                return False
            with contextlib.suppress(OSError), os.fdopen(descriptor, "w") as file:  # a full disk leaves it empty
                file.write(json.dumps(_this_process() | {"token": self._token}) + "\n")
        return True

    def _remove(self, owner: dict[str, Any]) -> None:
        """Removes the lock of an owner that is gone, unless another newcomer has done so."""
        with _alone(self._file.parent):
            if _read(self._file)[0].get("token") == owner.get("token"):
                self._file.unlink(missing_ok=True)

    def _is_own(self) -> bool:
        return _read(self._file)[0].get("token", self._token) == self._token

    def _beat(self) -> None:
        while not self._ended.wait(BEAT):
            with contextlib.suppress(OSError, UserError):
                if not self._is_own():
                    self._taken_by = _read(self._file)[0]
                    return
                os.utime(self._file)


def beside(folder: Path) -> Lock:
    """The lock of a folder that appears only when it is complete: a file beside it."""
    return Lock(folder.with_name(f".{folder.name}.lock"), folder)


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Keeps the other processes of this machine from looking at the locks in ``folder`` meanwhile."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):  # network file systems may not support it
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _read(file: Path) -> tuple[dict[str, Any], int | None]:
    """The owner, {} where the file is gone or damaged, and the time of its last heartbeat."""
    try:
        descriptor = os.open(file, os.O_RDONLY | os.O_NONBLOCK)
    except FileNotFoundError:
        return {}, None
    except OSError as error:
        raise UserError(f"{file}: cannot be read ({error.strerror}); remove it") from error
    try:
        status = os.fstat(descriptor)
        content = os.read(descriptor, SIZE) if stat.S_ISREG(status.st_mode) else None
    finally:
        os.close(descriptor)
    if content is None:
        raise UserError(f"{file}: is no regular file; remove it")
    try:
        owner = json.loads(content)
    except (ValueError, RecursionError):
        owner = None
    return owner if isinstance(owner, dict) else {}, status.st_mtime_ns


def _age(file: Path) -> float:
    """Seconds since the last heartbeat, by the clock of the file system; 0 where it cannot be known."""
    probe = file.with_name(f"{file.name}.{uuid.uuid4().hex[:8]}.probe")
    try:
        probe.touch()
        return max(0.0, probe.stat().st_mtime - file.stat().st_mtime)
    except OSError:
        return 0.0
    finally:
        with contextlib.suppress(OSError):
            probe.unlink(missing_ok=True)


def _this_process() -> dict[str, Any]:
    pid = os.getpid()
    since = datetime.datetime.now().isoformat(" ", "seconds")
    return {"host": platform.node(), "pid": pid, "started": _started(pid), "machine": _machine(), "since": since}


def _described(owner: dict[str, Any]) -> str:
    if not owner:
        return "another process"
    text = f"process {owner.get('pid')} on {owner.get('host')}, since {owner.get('since')},"
    return text[:120]


def _machine() -> str:
    """The same for two processes exactly if they can see each other by number: one boot, one namespace of processes."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return platform.node()  # not Linux


def _is_running(owner: dict[str, Any]) -> bool:
    pid, started = owner.get("pid"), owner.get("started")
    return isinstance(pid, int) and 0 < pid < 2**31 and started == _started(pid) is not None


def _started(pid: int) -> str | None:
    """When a process started, in a form of its own; None where there is no such process, or only its remains."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
    except OSError:
        return None if os.path.exists("/proc/self/stat") else _signalled(pid)
    return None if fields[0] in (b"Z", b"X") else fields[19].decode("ascii")


def _signalled(pid: int) -> str | None:
    """``_started`` on systems without /proc, which tell only whether there is such a process."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return None
    except OSError:
        pass
    return "unknown"
