"""Where the peers' tests are not asked for, their files are not read: they import packages that only they need."""

from pathlib import Path

import pytest


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    return True if "not peers" in config.getoption("markexpr") else None
