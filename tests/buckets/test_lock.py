"""One owner at a time for a folder of a bucket."""

import json
import os
import subprocess
import sys
import time

import pytest

from dualdiff_jax.errors import UserError
from dualdiff_jax.files import as_path, lock
from dualdiff_jax.files.lock import Lock
from dualdiff_jax.files.lock_file import BucketLockFile
from dualdiff_jax.files.owner import this_process

OWNER = """
import sys, time
from dualdiff_jax.files import as_path
from dualdiff_jax.files.lock import Lock
with Lock(as_path(sys.argv[1]), as_path("gs://bucket/run")):
    print("held", flush=True)
    time.sleep(600)
"""


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    for owner, name, seconds in (
        (BucketLockFile, "BEAT", 0.1),
        (BucketLockFile, "STALE", 1.0),
        (BucketLockFile, "SETTLED", 0.05),
        (lock, "GRACE", 0.3),
        (lock, "POLL", 0.05),
    ):
        monkeypatch.setattr(owner, name, seconds)


@pytest.fixture
def file(bucket, request):
    return as_path(f"{bucket.root}/{request.node.name}/.lock")


def test_a_second_owner_gets_a_sentence_and_the_first_keeps_the_lock(file):
    with Lock(file, file.parent):
        with pytest.raises(UserError, match=rf"process {os.getpid()} on .* writes there; wait until it ends"):
            Lock(file, file.parent).__enter__()
        assert BucketLockFile(file).read()[0]["pid"] == os.getpid()
    assert not file.exists()


def test_a_killed_owner_on_this_machine_is_taken_over_at_once(file, monkeypatch):
    process = subprocess.Popen([sys.executable, "-c", OWNER, str(file)], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None and process.stdout.readline() == "held\n"
        with pytest.raises(UserError, match=f"process {process.pid} on"):
            Lock(file, file.parent).__enter__()
    finally:
        process.kill()
        process.wait()
    monkeypatch.setattr(BucketLockFile, "STALE", 600.0)
    monkeypatch.setattr(lock, "GRACE", 600.0)
    start = time.monotonic()
    with Lock(file, file.parent):
        assert BucketLockFile(file).read()[0]["pid"] == os.getpid()
    assert time.monotonic() - start < 60


def test_an_owner_on_another_machine_is_gone_when_it_has_been_silent(file):
    owner = this_process() | {"machine": "another", "token": "theirs", "beat": 7}
    file.write_text(json.dumps(owner))
    start = time.monotonic()
    with Lock(file, file.parent):
        assert time.monotonic() - start >= 1.0
        assert BucketLockFile(file).read()[0]["token"] != "theirs"


def test_an_owner_that_was_taken_over_notices(file):
    with Lock(file, file.parent) as held:
        held.check()
        file.write_text(json.dumps(this_process() | {"token": "theirs", "host": "elsewhere"}))
        deadline = time.monotonic() + 60
        while held._taken_by is None and time.monotonic() < deadline:
            time.sleep(0.05)
        with pytest.raises(UserError, match=r"on elsewhere, since .* took it over; this process writes no more"):
            held.check()
    assert file.exists()  # theirs
