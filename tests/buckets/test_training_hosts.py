"""Two processes that have nothing but a bucket in common are one run, and so is the one process that goes on alone."""

import json
import subprocess
import time
from pathlib import Path

import jax
import numpy as np
import pytest

from dualdiff_jax.config import MeshConfig
from dualdiff_jax.files import as_path
from dualdiff_jax.files.appended import LineLog
from dualdiff_jax.sharding import make_mesh
from dualdiff_jax.weights import load_model
from tests.end_to_end.command import HANG, ROOT
from tests.end_to_end.test_resume import learned
from tests.multidevice.hosts import finish, free_port, start
from tests.small_run import write_config, write_data

STEPS, SAVE_EVERY = 6, 2


@pytest.fixture(scope="module")
def flags(tmp_path_factory) -> list[str]:
    root = tmp_path_factory.mktemp("data")
    write_data(root / "data")
    write_config(root / "config.py", root / "data", steps=STEPS, save_every=SAVE_EVERY, log_every=1)
    return [str(ROOT / "main.py"), "--mode=train", f"--config={root / 'config.py'}"]


def start_apart(tmp_path: Path, *arguments: str) -> list[subprocess.Popen]:
    """Starts both processes of a run, each in an empty folder of its own."""
    port, processes = free_port(), []
    for number in (0, 1):
        folder = tmp_path / f"host {number}"
        folder.mkdir(exist_ok=True)
        cluster = (f"--coordinator=127.0.0.1:{port}", "--num_processes=2", f"--process_id={number}")
        timeout = f"--initialization_timeout={HANG:.0f}"
        processes.append(start(*arguments, *cluster, timeout, devices=1, cwd=folder))
    return processes


def same_run(found, expected) -> None:
    mesh = make_mesh(MeshConfig(), jax.devices()[:1])
    ours, theirs = (load_model(workdir / "model", mesh)[1] for workdir in (found, expected))
    for name, value in theirs.items():
        np.testing.assert_array_equal(ours[name], value, err_msg=name)
    one, other = (
        [learned(json.loads(line)) for line in LineLog(workdir / "metrics.jsonl").read().splitlines()]
        for workdir in (found, expected)
    )
    assert one == other and [record["step"] for record in one] == list(range(1, STEPS + 1))


@pytest.mark.slow
def test_one_is_killed_and_two_or_one_go_on(bucket, flags, tmp_path):
    expected = as_path(f"{bucket.root}/uninterrupted")
    printed = finish(two := start_apart(tmp_path, *flags, f"--workdir={expected}"))
    assert [process.returncode for process in two] == [0, 0], "\n".join(printed)
    for name in ("two", "alone"):
        workdir = as_path(f"{bucket.root}/{name}")
        processes = start_apart(tmp_path, *flags, f"--workdir={workdir}")
        deadline = time.monotonic() + HANG
        while not (workdir / "checkpoints" / str(SAVE_EVERY) / "commit_success.txt").exists():
            assert all(process.poll() is None for process in processes) and time.monotonic() < deadline
            time.sleep(0.01)
        processes[1].kill()
        printed = finish(processes)
        assert processes[0].returncode != 0 or (workdir / "model" / "model.json").exists(), printed[0]
        if name == "two":
            printed = finish(processes := start_apart(tmp_path, *flags, f"--workdir={workdir}"))
            assert [process.returncode for process in processes] == [0, 0], "\n".join(printed)
        else:
            printed = finish([one := start(*flags, f"--workdir={workdir}", devices=2, cwd=tmp_path / "host 0")])
            assert one.returncode == 0, printed
        same_run(workdir, expected)
        assert [list((tmp_path / f"host {number}").iterdir()) for number in (0, 1)] == [[], []]
