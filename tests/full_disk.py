"""A disk that has no room, by the limit that a process may set on the size of its files."""

import contextlib
import resource
import signal
from collections.abc import Callable, Iterator

SMALL = 1024  # bytes; a longer file fails to be written


@contextlib.contextmanager
def full_disk() -> Iterator[Callable[[bool], None]]:
    """A function that fills the disk, or makes room again; at the end there is room."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        yield lambda is_full: resource.setrlimit(resource.RLIMIT_FSIZE, (SMALL if is_full else soft, hard))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, handler)
