"""Settings of a process before it computes: XLA's flags, the cache of compiled programs, the CPU's memory allocator."""

import ctypes
import os
import sys
from pathlib import Path

import jax

from dualdiff_jax.runtime import compiler_flags

# Arguments of glibc's mallopt: (parameter, value). By default glibc returns each step's temporaries to the kernel and
# faults them in again: 28,000 page faults and a quarter of the CPU time in the demo's step.
ONE_ARENA = (-8, 1)
NO_MMAP = (-4, 0)
NEVER_TRIM = (-1, 2**31 - 1)
GROW_BY = (-2, 2**28)


def prepare() -> None:
    """Applies all settings that the user's environment does not set already. Call once, before JAX starts."""
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


def keep_memory() -> None:
    """Makes glibc keep the memory that a computation frees. Without glibc this does nothing."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        for parameter, value in (ONE_ARENA, NO_MMAP, NEVER_TRIM, GROW_BY):
            mallopt(parameter, value)
