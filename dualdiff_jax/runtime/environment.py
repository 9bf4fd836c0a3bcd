"""Settings of a process before it computes: XLA's flags, caches, the CPU's memory allocator, and what Ctrl-C does."""

import ctypes
import os
import signal
import sys
import threading
from pathlib import Path

import jax

from dualdiff_jax.runtime import compiler_flags

# Arguments of glibc's mallopt: (parameter, value). By default glibc returns each step's temporaries to the kernel and
# faults them in again: 28,000 page faults and a quarter of the CPU time in the demo's step.
ONE_ARENA = (-8, 1)
NO_MMAP = (-4, 0)
NEVER_TRIM = (-1, 2**31 - 1)
GROW_BY = (-2, 2**28)

AGAIN = 0.05  # seconds after which a lost Ctrl-C is repeated


def prepare() -> None:
    """Applies all settings that the user's environment does not set already. Call once, before JAX starts."""
    repeat_lost_interrupts()
    compiler_flags.set_flags()
    cache = {
        "jax_compilation_cache_dir": str(cache_folder()),
        "jax_persistent_cache_min_compile_time_secs": 0.0,  # 1 by default; a model starts with dozens of small programs
    }
    for name, value in cache.items():
        if name.upper() not in os.environ:
            jax.config.update(name, value)
    if os.environ.get("JAX_PLATFORMS") == "cpu" and sys.platform == "linux":
        keep_memory()


def cache_folder() -> Path:
    """The user's folder for files that this package keeps between runs: compiled programs, indexes of data."""
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "dualdiff_jax"


def repeat_lost_interrupts() -> None:
    """Repeats a Ctrl-C that Python dropped: one that came in a finalizer, or in JAX's callback of the collector."""
    report = sys.unraisablehook

    def repeat(lost: "sys.UnraisableHookArgs") -> None:
        if lost.exc_type is not KeyboardInterrupt:
            return report(lost)
        main = threading.main_thread().ident or 0
        try:
            threading.Timer(AGAIN, signal.pthread_kill, (main, signal.SIGINT)).start()
        except KeyboardInterrupt:  # another one, or this one where the machine is busy; it would be lost here too
            repeat(lost)

    sys.unraisablehook = repeat


def keep_memory() -> None:
    """Makes glibc keep the memory that a computation frees. Without glibc this does nothing."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        for parameter, value in (ONE_ARENA, NO_MMAP, NEVER_TRIM, GROW_BY):
            mallopt(parameter, value)
