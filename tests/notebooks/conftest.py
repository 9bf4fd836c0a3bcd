"""Where these tests are not asked for, their file is not read: it imports what only the notebooks' environment has."""

from pathlib import Path

import pytest


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    return True if "not notebooks" in config.getoption("markexpr") else None
