"""A run that is killed and started again ends like one that was not."""

import json
import signal
import subprocess
import time

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

STEPS, SAVE_EVERY = 400, 20


def weights(workdir) -> dict[str, np.ndarray]:
    _, found, _ = load_model(workdir / "model", make_mesh(MeshConfig(), jax.devices()[:1]))
    return {name: np.asarray(value) for name, value in found.items()}


def records(workdir) -> list[dict]:
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def kill_when(workdir, step: int, flags: list[str]) -> None:
    """Starts a run and kills it as soon as a checkpoint of ``step`` or later stands."""
    process = subprocess.Popen(command(*flags), cwd=ROOT, env=environment(), stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 240
        while time.monotonic() < deadline and process.poll() is None:
            done = [int(folder.name) for folder in (workdir / "checkpoints").glob("*") if folder.name.isdigit()]
            if max(done, default=0) >= step:
                break
            time.sleep(0.01)
        assert process.poll() is None, "the run ended before it could be killed"
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()


def test_killed_twice_and_resumed_is_bit_equal_to_never_stopped(tmp_path):
    write_data(tmp_path / "data")
    write_config(tmp_path / "config.py", tmp_path / "data", steps=STEPS, save_every=SAVE_EVERY, log_every=10)
    flags = ["--mode=train", f"--config={tmp_path / 'config.py'}"]
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert run(*flags, f"--workdir={whole}").returncode == 0
    for step in (SAVE_EVERY, 5 * SAVE_EVERY):
        kill_when(killed, step, [*flags, f"--workdir={killed}"])
    done = run(*flags, f"--workdir={killed}")
    assert done.returncode == 0, done.stderr
    expected, found = weights(whole), weights(killed)
    assert expected.keys() == found.keys()
    for name, value in expected.items():
        np.testing.assert_array_equal(found[name], value, err_msg=name)
    logged = [{k: r[k] for k in ("step", "loss", "gradient_norm")} for r in records(killed)]
    assert logged == [{k: r[k] for k in ("step", "loss", "gradient_norm")} for r in records(whole)]


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
