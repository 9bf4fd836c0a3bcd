"""A run that is killed and started again ends like one that was not."""

import json
import random
import signal
import subprocess
import time
from collections.abc import Callable

import jax
import numpy as np
import pytest

from dualdiff_jax.config import MeshConfig
from dualdiff_jax.errors import UserError
from dualdiff_jax.sharding import make_mesh
from dualdiff_jax.training.loop import train
from dualdiff_jax.weights import load_model
from tests.end_to_end.command import ROOT, command, environment, refused, run
from tests.small_run import small_run, write_config, write_data

STEPS, SAVE_EVERY, LOG_EVERY = 400, 20, 30  # a record also spans saves


def weights(workdir) -> dict[str, np.ndarray]:
    _, found, _ = load_model(workdir / "model", make_mesh(MeshConfig(), jax.devices()[:1]))
    return {name: np.asarray(value) for name, value in found.items()}


def records(workdir) -> list[dict]:
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def same_run(found, expected) -> None:
    """Bit by bit: weights, and every figure that does not depend on the clock."""
    whole, resumed = weights(expected), weights(found)
    assert whole.keys() == resumed.keys()
    for name, value in whole.items():
        np.testing.assert_array_equal(resumed[name], value, err_msg=name)
    assert [learned(record) for record in records(found)] == [learned(record) for record in records(expected)]


def learned(record: dict) -> dict:
    of_the_clock = ("seconds", "_share", "_left", "per_second", "per_device")
    return {name: value for name, value in record.items() if not name.endswith(of_the_clock)}


@pytest.fixture(scope="module")
def started(tmp_path_factory):
    """(flags of a training without a workdir, workdir of one that was never stopped)."""
    root = tmp_path_factory.mktemp("resume")
    write_data(root / "data")
    write_config(root / "config.py", root / "data", steps=STEPS, save_every=SAVE_EVERY, log_every=LOG_EVERY)
    flags = ["--mode=train", f"--config={root / 'config.py'}"]
    done = run(*flags, f"--workdir={root / 'whole'}")
    assert done.returncode == 0, done.stderr
    return flags, root / "whole"


def newest(workdir) -> int:
    folders = (workdir / "checkpoints").glob("*")
    return max((int(folder.name) for folder in folders if folder.name.isdigit()), default=0)


def is_saving(workdir) -> bool:
    return any((workdir / "checkpoints").glob("*-tmp*"))


def start_until(workdir, flags: list[str], is_time: Callable[[], bool]) -> subprocess.Popen:
    """A training that has come to where ``is_time`` holds, and is not over."""
    process = subprocess.Popen(
        command(*flags, f"--workdir={workdir}"), cwd=ROOT, env=environment(), stderr=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + 240
    while time.monotonic() < deadline and process.poll() is None and not is_time():
        time.sleep(0.002)
    assert process.poll() is None, f"it ended before it could be stopped: {process.stderr.read()}"
    return process


def kill(process: subprocess.Popen) -> None:
    process.kill()
    process.communicate()


def test_killed_twice_and_resumed_is_bit_equal_to_never_stopped(started, tmp_path):
    """Once between two saves, once in the middle of one."""
    flags, whole = started
    killed = tmp_path / "killed"
    kill(start_until(killed, flags, lambda: newest(killed) >= SAVE_EVERY))
    kill(start_until(killed, flags, lambda: newest(killed) >= 5 * SAVE_EVERY and is_saving(killed)))
    done = run(*flags, f"--workdir={killed}")
    assert done.returncode == 0, done.stderr
    same_run(killed, whole)


def test_terminated_it_saves_the_step_and_ends_well(started, tmp_path):
    flags, whole = started
    stopped = tmp_path / "stopped"
    process = start_until(stopped, flags, lambda: newest(stopped) >= 3 * SAVE_EVERY)
    process.send_signal(signal.SIGTERM)
    _, told = process.communicate(timeout=60)
    step = newest(stopped)
    assert process.returncode == 0 and f"stopped by SIGTERM, saved at step {step}" in told, told
    assert not (stopped / "model").exists() and not is_saving(stopped)
    done = run(*flags, f"--workdir={stopped}")
    assert done.returncode == 0, done.stderr
    same_run(stopped, whole)


@pytest.mark.slow
def test_killed_at_ten_random_moments_is_bit_equal_to_never_stopped(started, tmp_path):
    """Every other time in the middle of a save; each process gets at least one checkpoint further."""
    flags, whole = started
    killed = tmp_path / "killed"
    rng = random.Random(0)
    saving = 0
    for number in range(10):
        before = newest(killed)
        in_save = number % 2 == 1
        process = start_until(
            killed,
            flags,
            lambda: newest(killed) > before and (not in_save or is_saving(killed)),  # noqa: B023
        )
        if not in_save:
            time.sleep(rng.uniform(0.0, 0.3))
        saving += is_saving(killed)
        kill(process)
        assert newest(killed) > before
    assert saving >= 4
    done = run(*flags, f"--workdir={killed}")
    assert done.returncode == 0, done.stderr
    same_run(killed, whole)


def test_a_finished_run_is_not_trained_again(tmp_path):
    config, _ = small_run(tmp_path / "data")
    mesh = make_mesh(config.mesh, jax.devices()[:1])
    calls = []
    train(config, tmp_path / "run", mesh, [(3, lambda step, ema: calls.append(step))])
    before = weights(tmp_path / "run")
    train(config, tmp_path / "run", mesh, [(3, lambda step, ema: calls.append(step))])
    assert calls == [3, 6]
    for name, value in weights(tmp_path / "run").items():
        np.testing.assert_array_equal(value, before[name])


def test_another_config_or_other_data_is_refused(tmp_path):
    config, _ = small_run(tmp_path / "data")
    mesh = make_mesh(config.mesh, jax.devices()[:1])
    train(config, tmp_path / "run", mesh)
    changed, _ = small_run(tmp_path / "data", optimizer={"learning_rate": 1e-3}, train={"log_every": 1})
    with pytest.raises(UserError, match="belongs to a run with another config") as error:
        train(changed, tmp_path / "run", mesh)
    assert "optimizer.learning_rate: 0.002 -> 0.001" in str(error.value)
    assert "log_every" not in str(error.value)
    file = tmp_path / "data" / "captions.json"
    file.write_text(json.dumps(json.loads(file.read_text())[1:]))
    with pytest.raises(UserError, match="the data changed since step 6"):
        train(config, tmp_path / "run", mesh)


def test_a_workdir_that_cannot_be_written_is_refused(tmp_path):
    write_data(tmp_path / "data")
    write_config(tmp_path / "config.py", tmp_path / "data")
    (tmp_path / "file").write_text("")
    flags = ["--mode=train", f"--config={tmp_path / 'config.py'}", f"--workdir={tmp_path / 'file' / 'run'}"]
    assert "choose another --workdir" in refused(*flags)
