"""The programs that empty or remove their folders leave those of others alone."""

import sys

import pytest

from benchmarks import full_size, stages
from dualdiff_jax.errors import UserError


def test_the_stages_empty_a_folder_of_their_own_only(tmp_path):
    (tmp_path / "thesis.txt").touch()
    for path, fault in ((tmp_path, "holds other files"), (tmp_path / "thesis.txt", "is a file")):
        with pytest.raises(UserError, match=fault):
            stages.begin(path)
    assert (tmp_path / "thesis.txt").is_file()
    stages.begin(tmp_path / "own" / "stages")
    (tmp_path / "own/stages/old").touch()
    stages.begin(tmp_path / "own" / "stages")
    assert [file.name for file in (tmp_path / "own/stages").iterdir()] == [stages.MARK]


def test_the_full_size_check_removes_a_folder_that_it_made(tmp_path, monkeypatch):
    def fails(folder):
        (folder / "weights").touch()
        raise RuntimeError("no memory")

    monkeypatch.setattr(full_size, "run", fails)
    monkeypatch.setattr(sys, "argv", ["full_size", f"--folder={tmp_path / 'mine'}"])
    with pytest.raises(RuntimeError):
        full_size.main()
    assert not (tmp_path / "mine").exists()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/thesis.txt").touch()
    with pytest.raises(SystemExit, match="mine: exists, and would be removed at the end; name a new --folder"):
        full_size.main()
    assert [file.name for file in (tmp_path / "mine").iterdir()] == ["thesis.txt"]
