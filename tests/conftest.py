"""Runs every test on the CPU, keeps compiled programs from run to run, and divides the tests among workers.

Under ``pytest -n 2 --dist=loadgroup --no-loadscope-reorder`` a worker takes whole files, so that each module's fixtures
are made once. The files in ``PROCESSES`` start processes that wait for each other; one worker takes them all, so two
such tests never run at the same time. The slowest files come first, so that the workers end together.
"""

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).parent

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(ROOT.parent / ".cache" / "jax"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.3")

PROCESSES = (
    "multidevice/test_hosts.py",
    "multidevice/test_moved_run.py",
    "end_to_end/test_clusters.py",
    "unit/distributed/test_launchers.py",
)
FIRST = (*PROCESSES, "end_to_end", "multidevice", "parity", "unit/training", "unit/planning")


@pytest.hookimpl(tryfirst=True)  # before xdist reads the groups
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    places = {item: item.path.relative_to(ROOT).as_posix() for item in items}

    def rank(item: pytest.Item) -> int:
        return next((n for n, start in enumerate(FIRST) if places[item].startswith(start)), len(FIRST))

    items.sort(key=rank)
    for item in items:
        item.add_marker(pytest.mark.xdist_group("processes" if places[item] in PROCESSES else places[item]))
