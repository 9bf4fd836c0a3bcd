"""The files of a bucket: the interface of a path, whole or not at all, locks, and errors in sentences."""

import os
import socketserver
import subprocess
import sys
import threading
import time
import types
from pathlib import Path

import pytest

from dualdiff_jax.errors import UserError
from dualdiff_jax.files import (
    as_path,
    bucket_reads,
    check_holds_arrays,
    free_bytes,
    is_bucket,
    is_writable,
    make_folder,
    move,
    new_file,
    new_folder,
    open_regular,
    read_regular,
    remove,
    write_text,
)
from dualdiff_jax.files import bucket_path as module
from dualdiff_jax.files import lock as lock_module
from dualdiff_jax.files.lock import Lock
from dualdiff_jax.files.lock_file import BucketLockFile, LocalLockFile

ROOT = Path(__file__).parents[2]


@pytest.fixture
def folder(bucket, request):
    yield as_path(f"{bucket.root}/{request.node.name}")
    bucket.fail()


def objects(folder) -> list[str]:
    return sorted(str(path)[len(str(folder)) + 1 :] for path in folder.rglob("*"))


def test_an_object_behaves_as_a_file(folder):
    file = folder / "deep" / "a file.txt"
    assert not file.exists() and not folder.is_dir()
    file.write_text("grün")
    assert file.read_text() == "grün" and file.read_bytes() == "grün".encode()
    assert file.exists() and file.is_file() and not file.is_dir()
    assert folder.is_dir() and not folder.is_file() and [path.name for path in folder.iterdir()] == ["deep"]
    assert [path.name for path in folder.glob("deep/*.txt")] == ["a file.txt"]
    assert file.stat().st_size == 5 and abs(file.stat().st_mtime - time.time()) < 60
    assert os.fspath(file) == str(file) and str(file).startswith("gs://bucket/")
    assert (folder / "a" / ".." / ".." / "b").resolve() == folder.parent / "b"
    with file.open("rb") as stream:
        assert stream.seek(2) == 2 and stream.read() == "ün".encode()
    with file.open("w") as stream:
        stream.write("a\nb\n")
    with file.open() as stream:
        assert list(stream) == ["a\n", "b\n"]
    assert file.read_range(2, 100) == b"b\n" and file.read_range(50, 3) == b"" and file.read_range(0, 0) == b""
    file.unlink()
    with pytest.raises(FileNotFoundError):
        file.unlink()
    file.unlink(missing_ok=True)


@pytest.mark.parametrize("last", [b"\r", b"\n", b"\r\n", b"\n--", b" ", b"\0"])
def test_no_byte_at_an_objects_ends_is_lost(folder, last):
    (folder / "file").write_bytes(last + b"middle" + last)
    assert (folder / "file").read_bytes() == last + b"middle" + last


def test_two_versions_of_one_second_have_different_times(folder):
    stamps = set()
    for text in ("one", "two", "six"):
        (folder / "x").write_text(text)
        stamps.add((folder / "x").stat().st_mtime_ns)
    assert len(stamps) == 3


def test_one_of_many_makers_makes_an_object(folder):
    made = []

    def make(number: int) -> None:
        try:
            (folder / "x").create(str(number).encode())
            made.append(number)
        except FileExistsError:
            pass

    threads = [threading.Thread(target=make, args=(number,)) for number in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 1 and (folder / "x").read_text() == str(made[0])


def test_a_file_appears_when_its_writer_ends_and_not_if_it_fails(folder):
    file = folder / "x"
    write_text(file, "old")
    with pytest.raises(RuntimeError), new_file(file) as partial:
        partial.write_text("new")
        raise RuntimeError
    assert file.read_text() == "old" and objects(folder) == ["x"]
    with new_file(file) as partial:
        partial.write_bytes(b"n" * 20_000_000)
        assert file.read_text() == "old"
    assert file.stat().st_size == 20_000_000
    with pytest.raises(RuntimeError), (folder / "y").open("wb") as stream:
        stream.write(b"half")
        raise RuntimeError
    assert objects(folder) == ["x"]


def test_a_folder_without_its_mark_is_overwritten(folder):
    code = f"""
import os
from dualdiff_jax.files import new_folder
with new_folder("{folder}/m", "mark") as partial:
    (partial / "half").write_text("1")
    os._exit(9)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 9, done.stderr
    assert objects(folder) == [".m.lock", "m/half"]
    with new_folder(folder / "m", "mark") as partial:
        (partial / "whole").write_text("1")
        (partial / "mark").write_text("")
    assert objects(folder) == ["m/mark", "m/whole"]
    with pytest.raises(RuntimeError), new_folder(folder / "m", "mark") as partial:
        (partial / "mark").write_text("")
        raise RuntimeError
    assert objects(folder) == []


def test_a_moved_folder_is_complete(folder):
    for number in range(5):
        (folder / "a" / "deep" / str(number)).write_text(str(number))
    move(folder / "a", folder / "b" / "c")
    assert objects(folder) == [f"b/c/deep/{number}" for number in range(5)]
    remove(folder / "b")
    remove(folder / "b")
    assert objects(folder) == []


@pytest.mark.parametrize("odd", ["a[1]", "a?", "a*", "[ab]*"])
def test_a_name_is_no_pattern(folder, odd):
    """What is removed, moved and listed are its own objects, not those of a neighbour that it would match."""
    neighbours = ["a1/x", "ab/deep/x", "ab/x"]
    for name in (*neighbours, f"{odd}/x", f"{odd}/deep/y[1]"):
        (folder / name).write_text(name)
    assert [path.name for path in (folder / odd).glob("*")] == ["deep", "x"]
    assert not list((folder / "a[0]").glob("*"))
    move(folder / odd, folder / "moved" / odd)
    assert objects(folder) == sorted([*neighbours, f"moved/{odd}/x", f"moved/{odd}/deep/y[1]"])
    assert (folder / "moved" / odd / "deep" / "y[1]").read_text() == f"{odd}/deep/y[1]"
    remove(folder / "moved" / odd)
    remove(folder / odd)
    assert objects(folder) == neighbours
    with new_folder(folder / odd, "mark") as partial:
        (partial / "mark").write_text("")
    assert objects(folder) == sorted([*neighbours, f"{odd}/mark"])


def test_arrays_are_refused_where_a_library_would_take_the_name_for_a_pattern(bucket):
    for name in ("run[1]", "run?", "r*n"):
        with pytest.raises(UserError, match="a pattern for the libraries that write arrays"):
            check_holds_arrays(as_path(f"gs://bucket/{name}/model"))
    check_holds_arrays(as_path("gs://bucket/run 1/model"))


def test_a_name_that_cannot_be_an_object_or_means_a_bucket_is_a_sentence(bucket):
    for name in ("gs:bucket/x", "s3:bucket/x", "GS:x", "file://host/x"):
        with pytest.raises(UserError, match="such an address is not known|names a file of another machine"):
            as_path(name)
    for name in ("gs://bucket/a\0b", "gs://bucket/a\nb", "gs://bucket/a\ud800", f"gs://bucket/{'é' * 513}"):
        with pytest.raises(UserError, match="is no name of an object"):
            as_path(name)
    assert str(as_path(f"gs://bucket/{'é' * 512}")).endswith("é")
    assert as_path("file://localhost/x") == as_path("file:/x") == as_path("file:///x") == Path("/x")
    assert str(as_path("gs://bucket/a/../b/x")) == "gs://bucket/b/x"
    assert as_path("./gs:x") == Path("gs:x")


def test_a_lock_whose_name_is_taken_by_what_cannot_be_read_is_a_sentence(folder, tmp_path, monkeypatch):
    """A folder of that name in a bucket is no object; a link that leads nowhere neither opens nor is made."""
    (folder / ".lock" / "x").write_text("1")
    monkeypatch.setattr(BucketLockFile, "SETTLED", 0.0)
    with Lock(folder / ".lock", folder):
        assert objects(folder) == [".lock", ".lock/x"]
    (tmp_path / ".lock").symlink_to(tmp_path / "nowhere")
    monkeypatch.setattr(LocalLockFile, "STALE", 0.1)
    monkeypatch.setattr(lock_module, "GRACE", 0.2)
    with pytest.raises(UserError, match="can neither be made nor read; remove it"), Lock(tmp_path / ".lock", tmp_path):
        pass


def test_an_object_in_the_place_of_a_folder_is_a_sentence(folder):
    (folder / "a.png").write_text("x")
    with pytest.raises(UserError, match="a.png: may not be written .*choose another --output"):
        make_folder(folder / "a.png", "--output")


def test_what_a_disk_tells_of_itself(folder):
    assert is_bucket(folder) and is_writable(folder) and free_bytes(folder) == float("inf")
    assert make_folder(folder, "--output") == folder and objects(folder) == []
    (folder / "x").write_text("12345")
    with open_regular(str(folder / "x"), 5) as stream:
        assert stream.read() == b"12345"
    with pytest.raises(UserError, match=r"x: has 5 bytes, more than the 4"):
        open_regular(folder / "x", 4)
    with pytest.raises(UserError, match=r"is a folder, not a file that can be read"):
        open_regular(folder)


def test_a_file_that_is_read_as_a_whole_is_one_request_and_bounded(bucket, folder):
    (folder / "x").write_text("12345")
    before = bucket.requests()
    assert read_regular(str(folder / "x"), 5) == b"12345"
    assert sum(bucket.requests().values()) - sum(before.values()) == 1
    with pytest.raises(UserError, match=r"x: has 5 bytes, more than the 4"):
        read_regular(folder / "x", 4)
    with pytest.raises(UserError, match=r"is a folder, not a file that can be read"):
        read_regular(folder, 4)
    with pytest.raises(FileNotFoundError):
        read_regular(folder / "y", 4)


def test_a_refused_writer_gets_a_sentence(bucket, folder):
    (folder / "x").write_text("old")
    bucket.fail(refused=True)
    assert not is_writable(folder)
    with pytest.raises(
        UserError, match=r"may not be written \(no permission or no credentials.*choose another --output"
    ):
        make_folder(folder, "--output")
    with pytest.raises(UserError, match="may not be written"), new_folder(folder / "m", "mark"):
        pass
    with pytest.raises(PermissionError):
        (folder / "x").write_text("new")
    bucket.fail()
    assert (folder / "x").read_text() == "old"


@pytest.mark.parametrize("name", ["read_bytes", "stat", "unlink"])
@pytest.mark.parametrize("path", ["gs://bucket/none", "gs://no-such-bucket/x"])
def test_what_is_not_there_is_named(bucket, name, path):
    with pytest.raises(FileNotFoundError) as error:
        getattr(as_path(path), name)()
    assert error.value.filename == path and error.value.strerror
    assert not as_path(path).exists() and not as_path(path).is_dir()


def test_faults_of_a_moment_are_not_noticed(bucket, folder):
    bucket.fail(unavailable=0.05, reset=0.05)
    for number in range(30):
        (folder / str(number)).write_text(str(number))
    assert [(folder / str(number)).read_text() for number in range(30)] == [str(number) for number in range(30)]


def test_a_missing_package_is_named(monkeypatch):
    module.file_system.cache_clear()
    monkeypatch.setitem(sys.modules, "s3fs", None)
    with pytest.raises(UserError, match="s3:// needs the package s3fs; pip install s3fs$"):
        as_path("s3://bucket/x")


def test_a_lock_has_one_owner_and_a_killed_one_is_not_waited_for(folder, monkeypatch):
    monkeypatch.setattr(BucketLockFile, "SETTLED", 0.05)
    code = f"""
import os
from dualdiff_jax.files.lock import Lock
from dualdiff_jax.files import as_path
with Lock(as_path("{folder}/.lock"), as_path("{folder}")):
    print("held", flush=True)
    input()
"""
    process = subprocess.Popen(
        [sys.executable, "-c", code], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None and process.stdout.readline() == "held\n"
        with pytest.raises(UserError, match=f"process {process.pid} on .* writes there"):
            Lock(folder / ".lock", folder).__enter__()
    finally:
        process.kill()
        process.wait()
    assert objects(folder) == [".lock"]
    with Lock(folder / ".lock", folder):
        assert objects(folder) == [".lock"]
    assert objects(folder) == []


def test_an_owner_on_another_machine_is_known_by_its_heartbeat(folder, monkeypatch):
    for name, seconds in {"SETTLED": 0.0, "BEAT": 0.1, "STALE": 1.0}.items():
        monkeypatch.setattr(BucketLockFile, name, seconds)
    file = folder / ".lock"
    elsewhere = BucketLockFile(file)
    elsewhere.make({"machine": "another", "host": "node7", "pid": 12, "token": "theirs"})
    ended = threading.Event()

    def beat() -> None:
        while not ended.wait(0.1):
            elsewhere.beat({"machine": "another", "host": "node7", "pid": 12, "token": "theirs"})

    thread = threading.Thread(target=beat)
    thread.start()
    try:
        with pytest.raises(UserError, match="process 12 on node7"):
            Lock(file, folder).__enter__()
    finally:
        ended.set()
        thread.join()
    before = time.monotonic()
    with Lock(file, folder):
        assert time.monotonic() - before >= 0.9


def test_a_range_is_one_request_and_what_tensorstore_cannot_read_is_asked_of_gcsfs(bucket, folder, monkeypatch):
    path = folder / "a name with spaces, ümlauts and #?%.bin"
    path.write_bytes(content := bytes(range(256)))
    before = sum(bucket.requests().values())
    assert path.read_range(10, 20) == content[10:30]
    assert path.read_bytes() == content
    assert sum(bucket.requests().values()) == before + 2
    beyond = (path.read_range(250, 20), path.read_range(256, 1), path.read_range(0, 0))
    assert beyond == (content[250:], b"", b"")
    assert (path.read_up_to(300), path.read_up_to(7), path.read_up_to(256)) == (content, content[:7], content)
    assert sum(bucket.requests().values()) == before + 9  # four of them for ranges beyond the end
    asked = []
    for name in ("read", "read_up_to", "_get"):
        monkeypatch.setattr(bucket_reads, name, lambda *arguments, name=name: asked.append((name, *arguments)))
    assert (path.read_range(10, 20), path.read_bytes(), path.read_up_to(300)) == (content[10:30], content, content)
    at = ("bucket", f"{folder.name}/{path.name}")
    assert asked == [
        ("_get", path._fs, *at, 20, {"Range": "bytes=10-29"}, 206),
        ("read", *at),
        ("read_up_to", path._fs, *at, 300),
    ]


def test_a_large_range_is_read_by_tensorstore_and_a_small_one_is_not(bucket, folder, monkeypatch):
    path, content = folder / "large", bytes(range(256)) * 12_000
    path.write_bytes(content)
    read, asked = bucket_reads.read, []
    monkeypatch.setattr(bucket_reads, "read", lambda *arguments: asked.append(arguments) or read(*arguments))
    most = bucket_reads.SMALL
    assert path.read_range(3, most) == content[3 : most + 3] and not asked
    before = sum(bucket.requests().values())
    assert path.read_range(5, most + 1) == content[5 : most + 6] and len(asked) == 1
    assert sum(bucket.requests().values()) == before + 1


@pytest.mark.parametrize("most", (7, 10, 11, 300))
@pytest.mark.parametrize("kind", ("whole", "cut", "chunks", "refused", "last", "endless", "negative"))
def test_what_a_server_cuts_short_is_asked_of_gcsfs_and_the_next_answer_is_its_own(kind, most):
    head = {
        "whole": b"200 OK\r\nContent-Length: 10",
        "cut": b"200 OK\r\nContent-Length: 20",
        "chunks": b"200 OK\r\nTransfer-Encoding: chunked",
        "refused": b"503 Busy\r\nContent-Length: 10",
        "last": b"200 OK\r\nContent-Length: 10\r\nConnection: Close",
        "negative": b"200 OK\r\nContent-Length: -1",
        "endless": b"200 OK\r\nContent-Length: 10" + b"\r\na: b" * 100,
    }[kind]
    content = b"a\r\n0123456789\r\n0\r\n\r\n" if kind == "chunks" else b"0123456789"
    answers = [b"HTTP/1.1 %s\r\n\r\n%s" % (head, content), b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nnext"]

    class Server(socketserver.StreamRequestHandler):
        def handle(self):
            while answers and self.rfile.readline():
                while self.rfile.readline().strip():
                    pass
                self.wfile.write(answers.pop(0))
                if kind in ("cut", "last"):
                    return

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Server) as server:
        threading.Thread(target=server.serve_forever).start()
        try:
            credentials = types.SimpleNamespace(apply=lambda headers: None)
            gcsfs = types.SimpleNamespace(base=f"http://127.0.0.1:{server.server_address[1]}/", credentials=credentials)
            found = bucket_reads.read_up_to(gcsfs, "bucket", "x", most)
            is_whole = most <= 10 if kind == "cut" else kind in ("whole", "last")
            assert found == (b"0123456789"[:most] if is_whole else None)
            assert bucket_reads.read_up_to(gcsfs, "bucket", "x", 300) == b"next"
        finally:
            bucket_reads.forget()
            server.shutdown()


def test_an_object_that_was_replaced_is_read_anew(folder):
    (folder / "x").write_bytes(b"first")
    assert (folder / "x").read_bytes() == b"first"
    (folder / "x").write_bytes(b"second")
    assert (folder / "x").read_bytes() == b"second" and (folder / "x").read_range(0, 3) == b"sec"
    (folder / "x").unlink()
    with pytest.raises(FileNotFoundError):
        (folder / "x").read_bytes()
