"""What is no regular file, or is too large, is refused before a byte is read; no reader waits."""

import hashlib
import os
import socket

import pytest

from dualdiff_jax.errors import UserError, quoted
from dualdiff_jax.files import check_regular, file_hash, open_regular


def special(folder, kind):
    path = folder / kind
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "socket":
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(str(path))
    elif kind == "folder":
        path.mkdir()
    elif kind == "device":
        path.symlink_to("/dev/zero")
    return path


@pytest.mark.parametrize("kind", ["pipe", "socket", "folder", "device"])
@pytest.mark.parametrize("read", [check_regular, open_regular])
def test_what_is_no_regular_file_is_refused_by_its_kind(tmp_path, kind, read):
    with pytest.raises(UserError, match=f"{kind}: is a {kind}, not a file that can be read"):
        read(special(tmp_path, kind))


@pytest.mark.parametrize("read", [check_regular, open_regular])
def test_a_file_above_the_bound_is_refused(tmp_path, read):
    file = tmp_path / "sparse"
    with file.open("wb") as stream:
        stream.truncate(60 << 30)
    with pytest.raises(UserError, match="sparse: has 64424509440 bytes, more than the 1000 that such a file may have"):
        read(file, 1000)
    read(file, 60 << 30)


def test_a_regular_file_is_read_also_through_a_link(tmp_path):
    (tmp_path / "a").write_bytes(b"content")
    (tmp_path / "link").symlink_to("a")
    with open_regular(tmp_path / "link", 7) as stream:
        assert stream.read() == b"content"
    assert check_regular(str(tmp_path / "link")).st_size == 7
    assert file_hash(tmp_path / "link") == hashlib.sha256(b"content").hexdigest()


def test_a_file_that_is_swapped_for_a_pipe_is_not_waited_for(tmp_path, monkeypatch):
    (tmp_path / "a").write_bytes(b"content")
    status = os.stat(tmp_path / "a")
    pipe = special(tmp_path, "pipe")
    monkeypatch.setattr(os, "stat", lambda path: status)
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(UserError, match="is a pipe"):
        open_regular(pipe)
    assert len(os.listdir("/proc/self/fd")) == before


@pytest.mark.parametrize("path", ["a\0b", "x" * 5000])
def test_what_is_no_path(path):
    with pytest.raises(UserError, match="is no path"):
        open_regular(path)


def test_a_missing_file_raises_what_open_raises(tmp_path):
    with pytest.raises(FileNotFoundError):
        open_regular(tmp_path / "gone")


def test_a_quote_is_one_short_line_that_can_be_printed():
    nested: list = []
    for _ in range(3000):
        nested = [nested]
    for value in ("x" * 500, {"k": ["y" * 300] * 90}, 10**5000, nested, "\ud83d\n\0", b"\xff" * 300, None, 3.5):
        text = quoted(value)
        text.encode("utf-8")
        assert 0 < len(text) <= 120 and text.isprintable()
    assert quoted("short") == "'short'" and quoted(7) == "7"
