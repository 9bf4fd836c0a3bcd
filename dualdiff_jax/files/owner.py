"""Which process owns a lock, and whether it still runs."""

import datetime
import os
import platform
from pathlib import Path
from typing import Any


def this_process() -> dict[str, Any]:
    """What the lock of this process says."""
    pid = os.getpid()
    since = datetime.datetime.now().isoformat(" ", "seconds")
    return {"host": platform.node(), "pid": pid, "started": _started(pid), "machine": machine(), "since": since}


def described(owner: dict[str, Any]) -> str:
    """The owner, for messages."""
    if not owner:
        return "another process"
    text = f"process {owner.get('pid')} on {owner.get('host')}, since {owner.get('since')},"
    return text[:120]


def machine() -> str:
    """The same for two processes exactly if they can see each other by number: one boot, one namespace of processes."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return platform.node()  # not Linux


def is_running(owner: dict[str, Any]) -> bool:
    """Whether an owner on this machine runs."""
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
