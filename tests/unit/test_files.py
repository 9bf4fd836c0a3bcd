"""Files and folders appear complete or not at all, also if the writer is killed, the disk is full, or it is read-only.

Tests may run as root, for whom permissions do not count, so a refused write is an ``OSError`` put in its place.
"""

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from dualdiff_jax.errors import UserError
from dualdiff_jax.files import (
    as_path,
    free_bytes,
    is_bucket,
    is_writable,
    make_folder,
    move,
    new_file,
    new_folder,
    remove,
    whole,
    write_text,
)
from tests.full_disk import full_disk

ROOT = Path(__file__).parents[2]
LARGE = "new" * 1000  # more than a full disk takes


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def killed(program: str, folder: Path) -> None:
    """Runs ``program``, which ends itself as a SIGKILL would, with ``folder`` as its argument."""
    code = "import os, sys, pathlib\nfrom dualdiff_jax import files\nfolder = pathlib.Path(sys.argv[1])\n" + program
    done = subprocess.run([sys.executable, "-c", code, str(folder)], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 9, done.stderr


def refuse(monkeypatch, owner: object, name: str, number: int) -> None:
    def raise_error(*arguments, **named):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(owner, name, raise_error)


def test_a_file_is_replaced_and_nothing_else_is_left(tmp_path):
    file = tmp_path / "a file.json"
    for text in ("old", "grün"):
        write_text(file, text)
        assert file.read_text(encoding="utf-8") == text and names(tmp_path) == ["a file.json"]


def test_a_failed_writer_leaves_the_old_file(tmp_path):
    write_text(tmp_path / "file", "old")
    with pytest.raises(RuntimeError), new_file(tmp_path / "file") as partial:
        partial.write_text("new")
        raise RuntimeError
    assert (tmp_path / "file").read_text() == "old" and names(tmp_path) == ["file"]


def test_a_killed_writer_leaves_the_old_file_and_the_next_one_overwrites_its_remains(tmp_path):
    write_text(tmp_path / "file", "old")
    killed(
        """
with files.new_file(folder / "file", "me") as partial:
    partial.write_text("half")
    os._exit(9)
""",
        tmp_path,
    )
    assert (tmp_path / "file").read_text() == "old" and len(names(tmp_path)) == 2
    with new_file(tmp_path / "file", "me") as partial:
        partial.write_text("new")
    assert (tmp_path / "file").read_text() == "new" and names(tmp_path) == ["file"]


def test_writers_of_one_file_do_not_meet(tmp_path):
    with new_file(tmp_path / "file", "0") as one, new_file(tmp_path / "file", "1") as other:
        one.write_text("one")
        other.write_text("other")
    assert (tmp_path / "file").read_text() == "one" and names(tmp_path) == ["file"]


def test_a_full_disk_leaves_the_old_file(tmp_path):
    write_text(tmp_path / "file", "old")
    with full_disk() as fill:
        fill(True)
        with pytest.raises(OSError) as error:
            write_text(tmp_path / "file", LARGE)
    assert error.value.errno in whole.NO_ROOM
    assert (tmp_path / "file").read_text() == "old" and names(tmp_path) == ["file"]


def test_without_permission_the_old_file_stays(tmp_path, monkeypatch):
    write_text(tmp_path / "file", "old")
    refuse(monkeypatch, whole.os, "replace", errno.EROFS)
    with pytest.raises(OSError, match="Read-only"):
        write_text(tmp_path / "file", "new")
    assert (tmp_path / "file").read_text() == "old" and names(tmp_path) == ["file"]


def write_folder(folder: Path, text: str) -> None:
    with new_folder(folder, "file") as partial:
        assert not names(partial) and partial.name.startswith(".") and partial.parent == folder.parent
        (partial / "file").write_text(text)


def test_a_folder_is_replaced_and_nothing_else_is_left(tmp_path):
    for text in ("old", "new"):
        write_folder(tmp_path / "deep" / "folder", text)
        assert (tmp_path / "deep" / "folder" / "file").read_text() == text
        assert names(tmp_path / "deep") == ["folder"]


def test_a_folder_of_other_files_is_not_replaced(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("mine")
    with pytest.raises(UserError, match="mine: holds other files"), new_folder(tmp_path / "mine", "file"):
        pass
    with pytest.raises(UserError, match="is a file"), new_folder(tmp_path / "mine" / "thesis.txt", "file"):
        pass
    assert names(tmp_path) == ["mine"] and (tmp_path / "mine" / "thesis.txt").read_text() == "mine"
    (tmp_path / "empty").mkdir()
    write_folder(tmp_path / "empty", "new")


def test_a_dead_link_is_not_replaced_by_a_folder(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "absent")
    fault = "link: is a link to .*absent, which is not there"
    with pytest.raises(UserError, match=fault), new_folder(tmp_path / "link", "mark"):
        pytest.fail("it was entered")


def test_a_killed_writer_leaves_the_old_folder_and_the_next_one_removes_its_remains(tmp_path):
    write_folder(tmp_path / "folder", "old")
    killed(
        """
with files.new_folder(folder / "folder", "file") as partial:
    (partial / "half").write_text("")
    os._exit(9)
""",
        tmp_path,
    )
    assert names(tmp_path / "folder") == ["file"] and (tmp_path / "folder" / "file").read_text() == "old"
    write_folder(tmp_path / "folder", "new")
    assert (tmp_path / "folder" / "file").read_text() == "new" and names(tmp_path) == ["folder"]


def test_a_writer_killed_between_its_renames_loses_nothing(tmp_path):
    """The next writer brings the old folder back before it starts, and so keeps it even if it fails itself."""
    write_folder(tmp_path / "folder", "old")
    killed(
        """
rename = os.rename
def rename_and_die(*arguments):
    rename(*arguments)
    os._exit(9)
os.rename = rename_and_die
with files.new_folder(folder / "folder", "file") as partial:
    pass
""",
        tmp_path,
    )
    assert "folder" not in names(tmp_path)
    with pytest.raises(RuntimeError), new_folder(tmp_path / "folder", "file"):
        raise RuntimeError
    assert (tmp_path / "folder" / "file").read_text() == "old" and names(tmp_path) == ["folder"]


def fail_with(folder: Path, error: Exception) -> str:
    with pytest.raises(UserError) as raised, new_folder(folder, "file"):
        raise error
    return str(raised.value)


def test_a_full_disk_is_reported_and_leaves_the_old_folder(tmp_path):
    write_folder(tmp_path / "folder", "old")
    with full_disk() as fill:
        fill(True)
        with pytest.raises(UserError, match="folder: the disk is full; make room, or choose another folder"):
            write_folder(tmp_path / "folder", LARGE)
    for error in (
        OSError(errno.EDQUOT, "quota"),
        ValueError("RESOURCE_EXHAUSTED: writing"),  # TensorStore
        RuntimeError("No space left on device (os error 28)"),  # a library in Rust
    ):
        assert "the disk is full" in fail_with(tmp_path / "folder", error)
    assert (tmp_path / "folder" / "file").read_text() == "old" and names(tmp_path) == ["folder"]


def test_missing_permission_is_reported_and_leaves_the_old_folder(tmp_path):
    write_folder(tmp_path / "folder", "old")
    for error in (OSError(errno.EROFS, "read-only"), RuntimeError("Permission denied (os error 13)")):
        assert "folder: may not be written (" in fail_with(tmp_path / "folder", error)
    assert (tmp_path / "folder" / "file").read_text() == "old" and names(tmp_path) == ["folder"]
    with pytest.raises(UserError, match="may not be written"):
        write_folder(tmp_path / "folder" / "file" / "inside a file", "new")


def test_other_errors_of_a_writer_are_its_own(tmp_path):
    mine = UserError("of the caller")
    for error in (mine, ValueError("any"), OSError(errno.EIO, "broken disk")):
        with pytest.raises(type(error)) as raised, new_folder(tmp_path / "folder", "file"):
            raise error
        assert raised.value is error and names(tmp_path) == []


def test_make_folder(tmp_path, monkeypatch):
    deep = tmp_path / "a" / "b"
    assert make_folder(deep, "--output") == deep and deep.is_dir()
    assert make_folder(deep, "--output") == deep
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "file", tmp_path / "file" / "inside"):
        with pytest.raises(UserError, match=rf"{folder}: may not be written \(.*\); choose another --output"):
            make_folder(folder, "--output")
    refuse(monkeypatch, Path, "mkdir", errno.ENOSPC)
    with pytest.raises(UserError, match=r"cannot be made \(No space .*\); make room, or choose another --workdir"):
        make_folder(tmp_path / "c", "--workdir")
    monkeypatch.undo()
    monkeypatch.setattr(whole.os, "access", lambda path, mode: False)
    with pytest.raises(UserError, match="may not be written"):
        make_folder(deep, "--output")


def test_is_writable(tmp_path, monkeypatch):
    assert is_writable(tmp_path / "new") and names(tmp_path / "new") == []
    (tmp_path / "file").write_text("")
    assert not is_writable(tmp_path / "file")
    refuse(monkeypatch, Path, "write_text", errno.EROFS)
    assert not is_writable(tmp_path / "new")


def test_remove(tmp_path):
    (tmp_path / "folder" / "deep").mkdir(parents=True)
    (tmp_path / "folder" / "deep" / "file").write_text("")
    (tmp_path / "link").symlink_to(tmp_path / "folder")
    remove(tmp_path / "link")
    assert names(tmp_path) == ["folder"] and names(tmp_path / "folder") == ["deep"]
    remove(tmp_path / "folder")
    assert names(tmp_path) == []
    remove(tmp_path / "folder")


def test_move(tmp_path):
    (tmp_path / "folder").mkdir()
    move(tmp_path / "folder", tmp_path / "deep" / "er" / "folder")
    assert names(tmp_path) == ["deep"] and (tmp_path / "deep" / "er" / "folder").is_dir()
    with pytest.raises(FileNotFoundError):
        move(tmp_path / "folder", tmp_path / "other")


def test_free_bytes_of_a_path_that_does_not_exist_yet(tmp_path):
    assert free_bytes(tmp_path / "not" / "yet") > 0


@pytest.mark.parametrize(
    "name", ["https://host/folder", "hdfs://x/y", "gs:/bucket/run", "gs://", "gs:///x", "gs://B_/x"]
)
def test_an_address_that_is_not_known_is_refused(name):
    with pytest.raises(UserError, match="name (a local path or gs://BUCKET/|gs://BUCKET/)"):
        as_path(name)


def test_a_bucket_is_not_folded_into_a_local_folder():
    with pytest.raises(UserError, match="gs:/bucket/run: a bucket's name was made a local path"):
        as_path(Path("gs://bucket/run"))


@pytest.mark.parametrize("name", ["a\0b", "x" * 256, "é" * 128, "x/" * 2048 + "x", "\ud83d", "caf\udce9"])
def test_what_the_system_takes_for_no_name_is_refused_before_it_is_asked(name):
    for given in (name, f"file:///{name}", Path(name)):
        with pytest.raises(UserError, match=r"is no path \(it .*\); name a file or folder"):
            as_path(given)
    assert as_path("x" * 255 + "/é") == Path("x" * 255, "é")


@pytest.mark.parametrize("name", ["/shared/runs/a run", "runs", "C:/runs", "", "a:b/c"])
def test_local_names_stay_local(name):
    assert as_path(name) == Path(name) and not is_bucket(as_path(name))
    assert as_path("file:///shared/runs") == Path("/shared/runs")
