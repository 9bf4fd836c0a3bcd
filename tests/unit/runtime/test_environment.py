"""The settings that a process makes for itself, observed in a process of its own."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[3]

FAULTS = """
import resource
import numpy as np
from dualdiff_jax.runtime import environment
environment.prepare()
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
def work():
    for _ in range(20):
        np.ones(1 << 22).sum()
work()
before = faults()
work()
print(faults() - before)
"""
CACHE = """
import jax
from dualdiff_jax.runtime import environment
environment.prepare()
print(jax.config.jax_compilation_cache_dir)
"""
LOST = """
import signal, time
from dualdiff_jax.runtime import environment
environment.prepare()
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
class Finalized:
    def __del__(self):
        signal.raise_signal(signal.SIGINT)
try:
    del [Finalized()][0]
    time.sleep(60)
    print("lost")
except KeyboardInterrupt:
    print("stopped")
"""
LOST_TWICE = (
    """
import threading
start = threading.Timer.start
def start_late(timer):
    threading.Timer.start = start
    raise KeyboardInterrupt
threading.Timer.start = start_late
"""
    + LOST
)
SMALL_PROGRAM = CACHE + "jax.jit(lambda x: x + 1)(1.0)"
SMALLEST = "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"


def output_of(program: str, **changes: str | None) -> str:
    environment = {name: value for name, value in (os.environ | changes).items() if value is not None}
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_programs_are_cached_in_the_users_cache_unless_the_environment_names_a_folder(tmp_path):
    cache = output_of(CACHE, JAX_COMPILATION_CACHE_DIR=None, XDG_CACHE_HOME=str(tmp_path))
    assert cache == str(tmp_path / "dualdiff_jax")
    assert output_of(CACHE, JAX_COMPILATION_CACHE_DIR="/elsewhere") == "/elsewhere"


def test_programs_that_compile_in_no_time_are_cached_too_unless_the_environment_says_how_long(tmp_path):
    for seconds, is_kept in ((None, True), ("1", False)):
        folder = tmp_path / f"{seconds}"
        output_of(SMALL_PROGRAM, JAX_COMPILATION_CACHE_DIR=None, XDG_CACHE_HOME=str(folder), **{SMALLEST: seconds})
        assert any((folder / "dualdiff_jax").glob("*")) == is_kept


def test_a_cpu_run_keeps_the_memory_it_frees():
    pages = 20 * (1 << 22) * 8 // 4096  # of 20 arrays of 32 MiB, if each is faulted in anew
    assert int(output_of(FAULTS, JAX_PLATFORMS="cpu")) < pages / 100
    if sys.platform == "linux":
        assert int(output_of(FAULTS, JAX_PLATFORMS="")) > pages / 1000, "glibc keeps memory without the settings too"


def test_an_interrupt_that_falls_into_a_finalizer_is_not_lost():
    assert output_of(LOST) == "stopped"


def test_an_interrupt_that_falls_into_its_repetition_is_not_lost():
    assert output_of(LOST_TWICE) == "stopped"
