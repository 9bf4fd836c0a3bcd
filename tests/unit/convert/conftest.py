"""A folder in the layout of the released model, for all tests here."""

import shutil
from pathlib import Path

import pytest

from tests import checkpoints


@pytest.fixture(scope="module")
def released(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("released") / "d_dit"
    checkpoints.write_d_dit(folder, 0)
    return folder


@pytest.fixture
def folder(released, tmp_path) -> Path:
    """A copy that a test may damage."""
    return Path(shutil.copytree(released, tmp_path / "source"))
