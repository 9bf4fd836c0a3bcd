"""A run whose folder lies in a bucket has the same end, bit for bit, as one on a disk, whatever happens to either."""

import contextlib
import dataclasses
import json
import os
import random
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
import pytest

from dualdiff_jax.config import MeshConfig, RunConfig
from dualdiff_jax.errors import UserError
from dualdiff_jax.files import as_path, move
from dualdiff_jax.files.appended import LineLog
from dualdiff_jax.files.bucket_path import BucketPath
from dualdiff_jax.files.listing import file_sizes
from dualdiff_jax.sharding import make_mesh
from dualdiff_jax.training.checkpoint import Checkpoints
from dualdiff_jax.training.initial_weights import init_from_fingerprint
from dualdiff_jax.training.loop import train
from dualdiff_jax.weights import load_model
from tests.end_to_end.command import HANG, ROOT, command, environment, run
from tests.end_to_end.test_resume import learned
from tests.small_run import small_run, write_config

STEPS, SAVE_EVERY = 6, 3
TRAIN = {"steps": STEPS, "save_every": SAVE_EVERY, "log_every": 1}
COMMIT = "commit_success.txt"


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("root")


@pytest.fixture(scope="module")
def config(root) -> RunConfig:
    return small_run(root / "data", train=TRAIN)[0]


@pytest.fixture(scope="module")
def flags(root, config) -> list[str]:
    write_config(root / "config.py", root / "data", **TRAIN)
    return ["--mode=train", f"--config={root / 'config.py'}"]


@pytest.fixture(scope="module")
def mesh(config):
    return make_mesh(config.mesh, jax.devices()[:1])


@pytest.fixture(scope="module")
def on_disk(config, mesh, tmp_path_factory) -> Path:
    workdir = tmp_path_factory.mktemp("disk") / "run"
    train(config, workdir, mesh)
    return workdir


@pytest.fixture(scope="module")
def in_bucket(config, mesh, bucket):
    """The folder of a run in the bucket, and what lay in the working directory of the process afterwards."""
    with tempfile.TemporaryDirectory() as empty, contextlib.chdir(empty):
        assert train(config, f"{bucket.root}/run", mesh) == as_path(f"{bucket.root}/run/model")
        return as_path(f"{bucket.root}/run"), os.listdir(empty)


@pytest.fixture
def workdir(bucket, request):
    yield as_path(f"{bucket.root}/{request.node.name}")
    bucket.fail()


def same_run(found, expected) -> None:
    """Compares, bit for bit, the model's files and every metric that does not depend on the clock."""
    mesh = make_mesh(MeshConfig(), jax.devices()[:1])
    ours, theirs = (load_model(workdir / "model", mesh)[1] for workdir in (found, expected))
    assert ours.keys() == theirs.keys()
    for name, value in theirs.items():
        np.testing.assert_array_equal(ours[name], value, err_msg=name)
    assert records(found) == records(expected)


def records(workdir) -> list[dict]:
    return [learned(json.loads(line)) for line in LineLog(workdir / "metrics.jsonl").read().splitlines()]


def wait_for(happens: Callable[[], bool]) -> None:
    deadline = time.monotonic() + HANG
    while not happens():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def names(folder) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_it_ends_as_on_a_disk_and_leaves_nothing_on_the_disk(on_disk, in_bucket):
    workdir, left = in_bucket
    same_run(workdir, on_disk)
    assert left == []
    assert names(workdir) == {"checkpoints", "config.json", "metrics.000001.jsonl", "model"}
    assert names(workdir / "model") == names(on_disk / "model")


@pytest.mark.slow
def test_faults_of_the_service_change_nothing(config, mesh, on_disk, workdir, bucket):
    bucket.fail(unavailable=0.05, reset=0.02, delay=0.005)
    train(config, workdir, mesh)
    bucket.fail()
    same_run(workdir, on_disk)


def test_a_bucket_that_is_read_only_for_a_while_costs_no_step(
    config, mesh, on_disk, workdir, bucket, caplog, monkeypatch
):
    is_due = Checkpoints.is_due

    def is_due_after_the_failure(checkpoints, step):
        if step == SAVE_EVERY + 1:
            wait_for(lambda: not checkpoints.is_saving())
        due = is_due(checkpoints, step)
        if step == SAVE_EVERY + 1:
            bucket.fail()
        return due

    def refuse(step, weights):
        if step == SAVE_EVERY - 1:
            bucket.fail(refused=True)

    monkeypatch.setattr(Checkpoints, "is_due", is_due_after_the_failure)
    train(config, workdir, mesh, [(1, refuse)])
    same_run(workdir, on_disk)
    assert "a checkpoint cannot be written (" in caplog.text and "no permission" in caplog.text
    assert "metrics.jsonl: cannot be written" in caplog.text


@pytest.mark.slow
def test_a_bucket_that_stays_read_only_ends_the_run_with_a_sentence_and_it_goes_on_later(
    config, mesh, on_disk, workdir, bucket
):
    saved = workdir / "checkpoints" / str(SAVE_EVERY) / COMMIT

    def refuse(step, weights):
        if step == SAVE_EVERY + 1:
            wait_for(saved.exists)
            bucket.fail(refused=True)

    hooks = [(1, refuse)]
    with pytest.raises(UserError, match=f"{workdir}: step 6 could not be saved"):
        train(config, workdir, mesh, hooks)
    with pytest.raises(UserError, match=f"^{workdir}.*: (may not be written|cannot be made) .*no permission"):
        train(config, workdir, mesh)
    bucket.fail()
    assert saved.exists()
    train(config, workdir, mesh)
    same_run(workdir, on_disk)


class Killed(BaseException):
    pass


def test_a_damaged_checkpoint_is_set_aside_and_a_kill_meanwhile_loses_nothing(
    config, mesh, on_disk, in_bucket, monkeypatch
):
    workdir, _ = in_bucket
    damaged = workdir / "checkpoints" / str(STEPS)
    (damaged / "run" / "metadata").unlink()
    before = set(file_sizes(damaged))

    def end(*arguments, **options):
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(BucketPath, "rmtree", end)
        with pytest.raises(Killed):
            move(damaged, workdir / "damaged_checkpoints" / "cut off")
    assert set(file_sizes(damaged)) == before
    train(config, workdir, mesh)
    same_run(workdir, on_disk)
    aside = [name for name in names(workdir / "damaged_checkpoints") if name.startswith(f"{STEPS}-")]
    assert set(file_sizes(workdir / "damaged_checkpoints" / aside[0])) == before


@pytest.mark.slow
def test_a_half_written_checkpoint_is_removed_and_one_from_a_disk_is_read(config, mesh, on_disk, workdir):
    for file in on_disk.rglob("*"):
        if file.is_file() and (on_disk / "model") not in file.parents and file.parent != on_disk / "checkpoints" / "6":
            (workdir / file.relative_to(on_disk).as_posix()).write_bytes(file.read_bytes())
    half = workdir / "checkpoints" / str(STEPS)  # without the description that Orbax writes at the end
    assert half.is_dir() and not (half / "_CHECKPOINT_METADATA").exists()
    steps = []
    train(config, workdir, mesh, [(1, lambda step, weights: steps.append(step))])
    assert steps == list(range(SAVE_EVERY + 1, STEPS + 1))
    same_run(workdir, on_disk)


def test_init_from_has_the_same_fingerprint_on_a_disk_and_in_a_bucket(config, on_disk, workdir):
    for file in (on_disk / "model").rglob("*"):
        if file.is_file():
            (workdir / file.relative_to(on_disk).as_posix()).write_bytes(file.read_bytes())
    found = [
        init_from_fingerprint(dataclasses.replace(config, init_from=str(folder / "model")))
        for folder in (on_disk, workdir)
    ]
    assert found[0] == found[1] != init_from_fingerprint(config)


def killed_when(happens: Callable[[], bool], workdir, flags: list[str]) -> bool:
    """Starts or resumes a run and kills it as soon as ``happens``; returns whether it still ran then."""
    process = subprocess.Popen(
        command(*flags, f"--workdir={workdir}"),
        cwd=ROOT,
        env=environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        wait_for(lambda: process.poll() is not None or happens())
    finally:
        process.kill()
    return process.wait() != 0


@pytest.mark.slow
def test_killed_in_a_save_and_in_the_export_it_ends_as_if_never_stopped(config, mesh, on_disk, workdir, flags):
    first = workdir / "checkpoints" / str(SAVE_EVERY)
    assert killed_when(lambda: bool(file_sizes(first)), workdir, flags) and not (first / COMMIT).exists()
    assert killed_when(lambda: bool(file_sizes(workdir / "model")), workdir, flags)
    assert (first / COMMIT).exists() and not (workdir / "model" / "model.json").exists()
    train(config, workdir, mesh)
    same_run(workdir, on_disk)


@pytest.mark.slow
def test_killed_ten_times_at_random_it_ends_as_if_never_stopped(on_disk, workdir, bucket, flags):
    rng, kills = random.Random(0), 0
    for _ in range(10):
        last = sent(bucket) + rng.randrange(1, 60)
        kills += killed_when(lambda last=last: sent(bucket) >= last, workdir, flags)
    assert kills >= 5
    finished = run(*flags, f"--workdir={workdir}")
    assert finished.returncode == 0 and finished.stdout == f"{workdir}/model\n", finished.stderr
    same_run(workdir, on_disk)


def sent(bucket) -> int:
    return bucket.requests().get("POST upload", 0)
