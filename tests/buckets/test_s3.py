"""Amazon's buckets, against moto: files, folders and locks work; arrays are refused with a sentence."""

import logging
import subprocess
import sys
from pathlib import Path

import pytest

from dualdiff_jax.errors import UserError
from dualdiff_jax.files import as_path, check_holds_arrays, move, new_file, new_folder
from dualdiff_jax.files.bucket_path import file_system
from dualdiff_jax.files.lock import Lock
from dualdiff_jax.files.lock_file import BucketLockFile

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def root():
    import boto3
    import s3fs
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
            for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
                patch.setenv(name, "any")
            patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
            boto3.client("s3").create_bucket(Bucket="bucket")
            file_system.cache_clear()
            s3fs.S3FileSystem.clear_instance_cache()
            yield "s3://bucket"
    finally:
        file_system.cache_clear()
        server.stop()


def objects(folder) -> list[str]:
    return sorted(str(path)[len(str(folder)) + 1 :] for path in folder.rglob("*"))


def test_an_object_behaves_as_a_file(root):
    file = as_path(f"{root}/dir/a file.txt")
    assert not file.exists()
    file.write_text("grün")
    assert file.read_text() == "grün" and file.stat().st_size == 5 and file.is_file() and file.parent.is_dir()
    assert [path.name for path in file.parent.iterdir()] == ["a file.txt"]
    assert file.read_range(2, 2) == "ü".encode() and file.read_range(40, 2) == b""
    stamp = file.stat().st_mtime_ns
    file.write_text("grau!")
    assert file.stat().st_mtime_ns != stamp
    with pytest.raises(FileExistsError):
        file.create(b"")
    with new_file(file) as partial:
        partial.write_bytes(bytes(12_000_000))
    assert file.stat().st_size == 12_000_000
    file.unlink()
    with pytest.raises(FileNotFoundError):
        file.read_bytes()
    with pytest.raises(OSError, match="no such object or bucket|No such file"):
        as_path("s3://no-such-bucket/x").read_bytes()


def test_folders_and_locks(root, monkeypatch):
    monkeypatch.setattr(BucketLockFile, "SETTLED", 0.0)
    folder = as_path(f"{root}/folders")
    with new_folder(folder / "m", "mark") as partial:
        (partial / "deep" / "x").write_text("1")
        (partial / "mark").write_text("")
    move(folder / "m", folder / "k")
    assert objects(folder) == ["k/deep/x", "k/mark"]
    with Lock(folder / ".lock", folder):
        assert ".lock" in objects(folder)
    assert ".lock" not in objects(folder)


def test_arrays_are_refused_before_anything_is_written(root):
    with pytest.raises(UserError, match=r"s3://bucket/model: Orbax writes and reads arrays on disks and in gs://"):
        check_holds_arrays(f"{root}/model")
    check_holds_arrays("gs://bucket/model")
    check_holds_arrays("/disk/model")


def test_the_command_refuses_a_workdir_there(root, tmp_path):
    command = [sys.executable, str(ROOT / "main.py"), "--mode=train", f"--config={ROOT / 'configs' / 'demo.py'}"]
    done = subprocess.run([*command, f"--workdir={root}/run"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 1 and "s3://bucket/run: Orbax writes" in done.stderr and "Traceback" not in done.stderr
    assert objects(as_path(root + "/run")) == [] and list(tmp_path.iterdir()) == []
