"""Runs every test on the CPU, keeps compiled programs from run to run, and divides the tests among workers.

Under ``pytest -n 2 --dist=loadfile --no-loadscope-reorder`` a worker takes whole files, so that each module's fixtures
are made once. The slowest files come first, so that the workers end together. The files in ``PROCESSES`` start
processes that wait for each other; a lock keeps two such tests from running at the same time, and all but the slowest
of these files come late, so that no worker waits for the lock.
"""

import fcntl
import gc
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import compiler

ROOT = Path(__file__).parent
CACHE = ROOT.parent / ".cache"

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(CACHE / "jax"))
os.environ["XLA_FLAGS"] = f"{compiler.FLAGS} {os.environ.get('XLA_FLAGS', '')}".strip()
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.3")

MOST_MAPPINGS = 16_000  # of a process's memory; Linux allows 65,530, and then the compiler crashes

PROCESSES = (
    "multidevice/test_hosts.py",
    "multidevice/test_moved_run.py",
    "multidevice/test_sampling_hosts.py",
    "multidevice/test_evaluate_hosts.py",
    "end_to_end/test_clusters.py",
    "unit/distributed/test_launchers.py",
)
MINUTES = ("end_to_end", "multidevice", "parity", "unit/training", "unit/pipeline", "unit/data/test_streams.py")
FIRST = (PROCESSES[0], *MINUTES, "unit/planning", "unit/sampling", "unit/convert", "unit/models")
LAST = PROCESSES[1:5]  # far from the first file, for which they would wait


def place(item: pytest.Item) -> str:
    return item.path.relative_to(ROOT).as_posix()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=rank)


def rank(item: pytest.Item) -> int:
    if place(item) in LAST:
        return len(FIRST) + 1
    return next((number for number, start in enumerate(FIRST) if place(item).startswith(start)), len(FIRST))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    if place(item) not in PROCESSES:
        return (yield)
    CACHE.mkdir(exist_ok=True)
    with (CACHE / "processes.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # released when the file is closed, also by a kill
        return (yield)


@pytest.hookimpl(wrapper=True, trylast=True)
def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> Iterator[None]:
    """Forgets compiled programs, which take several mappings each, between two files when there are many."""
    yield
    is_last = nextitem is None or nextitem.path != item.path
    if is_last and "jax" in sys.modules and _mappings() > MOST_MAPPINGS:
        sys.modules["jax"].clear_caches()
        gc.collect()


def _mappings() -> int:
    maps = Path("/proc/self/maps")
    return maps.read_bytes().count(b"\n") if maps.exists() else 0
