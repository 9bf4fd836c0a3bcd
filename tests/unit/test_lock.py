"""One owner at a time: the second process gets a sentence, and the lock of an owner that is gone costs nobody time."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest

from configs import demo
from dualdiff_jax.cli import data
from dualdiff_jax.config.resolve import resolve
from dualdiff_jax.errors import UserError
from dualdiff_jax.files import lock as module
from dualdiff_jax.files import new_folder, whole
from dualdiff_jax.files.lock import Lock
from dualdiff_jax.files.lock_file import LocalLockFile
from dualdiff_jax.files.owner import this_process
from tests.end_to_end.command import HANG

OWNER = """
import pathlib, sys, time
from dualdiff_jax.files.lock import Lock
with Lock(pathlib.Path(sys.argv[1]), pathlib.Path("run")):
    print("held", flush=True)
    time.sleep(600)
"""


def refuse_to_wait(seconds):
    raise AssertionError(f"waits for {seconds} s")


NO_WAITING = SimpleNamespace(monotonic=time.monotonic, sleep=refuse_to_wait)


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    for owner, name, seconds in (
        (LocalLockFile, "BEAT", 0.05),
        (LocalLockFile, "STALE", 0.5),
        (module, "GRACE", 0.3),
        (module, "POLL", 0.02),
    ):
        monkeypatch.setattr(owner, name, seconds)


@pytest.fixture
def file(tmp_path):
    return tmp_path / ".lock"


def owner_file(file, **changes):
    """A lock as a process would have left it: this one, unless ``changes`` says otherwise."""
    owner = this_process() | {"token": "theirs"} | changes
    file.write_text(json.dumps(owner))
    return owner


def test_a_second_owner_gets_a_sentence_and_the_first_keeps_the_lock(file, tmp_path):
    with Lock(file, tmp_path):
        held = file.read_text()
        with pytest.raises(UserError, match=rf"process {os.getpid()} on .* since .* writes there; wait until it ends"):
            Lock(file, tmp_path).__enter__()
        assert file.read_text() == held
    assert list(tmp_path.iterdir()) == []
    with Lock(file, tmp_path):
        pass


def test_a_killed_process_loses_its_lock_at_once_even_if_nobody_has_waited_for_it(file, tmp_path, monkeypatch):
    environment = os.environ | {"JAX_PLATFORMS": "cpu"}
    process = subprocess.Popen(
        [sys.executable, "-c", OWNER, str(file)], stdout=subprocess.PIPE, text=True, env=environment
    )
    try:
        assert process.stdout is not None and process.stdout.readline() == "held\n"
        with pytest.raises(UserError, match=f"process {process.pid} on"):
            Lock(file, tmp_path).__enter__()
        monkeypatch.setattr(module, "GRACE", HANG)  # however late the machine ends it
        os.kill(process.pid, signal.SIGKILL)  # a zombie until the wait below
        with Lock(file, tmp_path):
            assert json.loads(file.read_text())["pid"] == os.getpid()
    finally:
        process.kill()
        process.wait()


@pytest.mark.parametrize(
    "owner",
    [
        {"pid": 2**22 + 5},  # no such process
        {"started": "1"},  # the number belongs to another process by now
        {"pid": -1},
        {"pid": 10**30},
        {"pid": "1"},
        {"pid": None},
        {"pid": 1.0},
    ],
)
def test_an_owner_that_is_gone_from_this_machine_is_not_waited_for(file, tmp_path, monkeypatch, owner):
    owner_file(file, **owner)
    monkeypatch.setattr(module, "time", NO_WAITING)
    with Lock(file, tmp_path):
        assert json.loads(file.read_text())["pid"] == os.getpid()


def test_an_owner_elsewhere_is_known_by_its_heartbeat(file, tmp_path, monkeypatch):
    elsewhere = Lock(file, tmp_path)
    monkeypatch.setattr(LocalLockFile, "STALE", HANG)  # however late its heartbeat is
    with elsewhere:
        owner_file(file, machine="another", token=elsewhere._owner["token"], host="node7", pid=12)
        with pytest.raises(UserError, match="process 12 on node7"):
            Lock(file, tmp_path).__enter__()
    monkeypatch.setattr(LocalLockFile, "STALE", 0.5)
    owner_file(file, machine="another")
    before = time.monotonic()
    with Lock(file, tmp_path):
        assert time.monotonic() - before >= LocalLockFile.STALE - 0.1


def test_an_owner_elsewhere_that_has_been_silent_for_long_is_not_waited_for(file, tmp_path, monkeypatch):
    monkeypatch.setattr(LocalLockFile, "STALE", 600.0)
    owner_file(file, machine="another")
    os.utime(file, (time.time() - 601, time.time() - 601))
    monkeypatch.setattr(module, "time", NO_WAITING)
    with Lock(file, tmp_path):
        assert json.loads(file.read_text())["pid"] == os.getpid()


@pytest.mark.parametrize("content", [b"", b"\xff\xfe", b"3", b"[" * 3000, b'{"machine": {}}', b"9" * 4000])
def test_a_damaged_lock_counts_as_one_of_an_unknown_machine(file, tmp_path, content):
    file.write_bytes(content)
    with Lock(file, tmp_path):
        assert json.loads(file.read_text())["pid"] == os.getpid()


@pytest.mark.parametrize("make", [os.mkdir, os.mkfifo])
def test_what_is_no_file_is_named(file, tmp_path, make):
    make(file)
    with pytest.raises(UserError, match=r"\.lock: is no regular file; remove it"):
        Lock(file, tmp_path).__enter__()


def test_an_owner_learns_that_another_took_over(file, tmp_path):
    with Lock(file, tmp_path) as lock:
        lock.check()
        owner_file(file, host="node7")
        deadline = time.monotonic() + HANG
        while lock._taken_by is None and time.monotonic() < deadline:
            time.sleep(0.01)
        with pytest.raises(UserError, match="on node7.* took it over; this process writes no more"):
            lock.check()
    assert file.exists()  # it is the other's


def test_a_second_writer_of_a_folder_leaves_the_half_of_the_first_alone(tmp_path):
    with new_folder(tmp_path / "model", "model.json") as partial:
        (partial / "half").touch()
        with pytest.raises(UserError, match="writes there"), new_folder(tmp_path / "model", "model.json"):
            pass
        assert (partial / "half").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_a_folder_that_another_writer_finished_meanwhile_is_not_replaced(tmp_path, monkeypatch):
    """Both found nothing there; the second waited for the first's lock."""

    @contextlib.contextmanager
    def after_another(folder):
        folder.mkdir()
        (folder / "model.json").write_text("the first's")
        yield None

    monkeypatch.setattr(whole, "beside", after_another)
    told = "model: another process has written it meanwhile; choose another folder"
    with pytest.raises(UserError, match=told), new_folder(tmp_path / "model", "model.json"):
        pytest.fail("nothing is written")
    assert (tmp_path / "model" / "model.json").read_text() == "the first's"


def test_two_encodings_do_not_write_one_folder(tmp_path, monkeypatch):
    config = resolve(demo.get_config())
    monkeypatch.setattr(data, "check_model", lambda *_: None)
    monkeypatch.setattr(data, "load_model", lambda *_: (config.model, {}, None))
    monkeypatch.setattr(data, "FrozenEncoder", lambda *_: None)
    calls = []

    def encode_sources(*_, **__):
        calls.append(1)
        with pytest.raises(UserError, match="writes there"):
            data.encode_data(config, str(tmp_path / "encoded"), "model", None)
        return {}

    monkeypatch.setattr(data, "encode_sources", encode_sources)
    data.encode_data(config, str(tmp_path / "encoded"), "model", None)
    assert calls == [1]


def test_a_lock_that_could_not_be_removed_is_free_for_the_process_that_left_it(tmp_path, monkeypatch):
    def refuse(file, token):
        raise OSError("read-only")

    with monkeypatch.context() as patch, Lock(tmp_path / ".lock", tmp_path):
        patch.setattr(LocalLockFile, "remove", refuse)
    assert (tmp_path / ".lock").exists()
    with Lock(tmp_path / ".lock", tmp_path):
        pass
    assert not (tmp_path / ".lock").exists()
