"""What a process sets before it computes: XLA's flags, where programs are kept, how a CPU run gets its memory."""

import ctypes
import os
import sys
from pathlib import Path

import jax

from dualdiff_jax.runtime import compiler_flags

# glibc's mallopt: (parameter, value). Left alone, it gives each step's temporaries back to the kernel and faults
# them in again: 28,000 page faults and a quarter of the CPU time in the demo's step.
ONE_ARENA = (-8, 1)
NO_MMAP = (-4, 0)
NEVER_TRIM = (-1, 2**31 - 1)
GROW_BY = (-2, 2**28)


def prepare() -> None:
    """Call once, before JAX starts. What the user's environment already says is left as it is."""
    compiler_flags.set_flags()
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        jax.config.update("jax_compilation_cache_dir", str(cache_folder()))
    if os.environ.get("JAX_PLATFORMS") == "cpu" and sys.platform == "linux":
        keep_memory()


def cache_folder() -> Path:
    """The user's folder for what this package keeps between runs: compiled programs, indexes of data."""
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "dualdiff_jax"


def keep_memory() -> None:
    """Memory that a computation frees stays with the process. Without glibc this does nothing."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        for parameter, value in (ONE_ARENA, NO_MMAP, NEVER_TRIM, GROW_BY):
            mallopt(parameter, value)
