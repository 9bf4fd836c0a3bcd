"""A full disk, simulated by the limit that a process may set on the size of its files."""

import contextlib
import resource
import signal
from collections.abc import Callable, Iterator

SMALL = 1024  # bytes; writing a longer file fails


@contextlib.contextmanager
def full_disk() -> Iterator[Callable[[bool], None]]:
    """A context that yields a function to fill the disk (True) or make room again (False); it makes room at its end."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        yield lambda is_full: resource.setrlimit(resource.RLIMIT_FSIZE, (SMALL if is_full else soft, hard))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, handler)
