"""A run that is killed and started again has the same end, bit for bit, as one that was never stopped."""

import dataclasses
import json
import math
import random
import re
import shutil
import signal
import subprocess
from pathlib import Path

import jax
import numpy as np
import pytest

from dualdiff_jax.config import MeshConfig
from dualdiff_jax.data.mixture import Mixture
from dualdiff_jax.data.tokenizer import Tokenizer
from dualdiff_jax.errors import UserError
from dualdiff_jax.files import remove
from dualdiff_jax.sharding import make_mesh
from dualdiff_jax.training import loop
from dualdiff_jax.training.loop import train
from dualdiff_jax.training.setup import TrainSetup
from dualdiff_jax.weights import load_model
from tests.end_to_end.command import PROGRESS, refused, run, run_module
from tests.small_run import small_run, write_config, write_data

STEPS, SAVE_EVERY, LOG_EVERY = 60, 5, 7  # a record also spans saves


def weights(workdir) -> dict[str, np.ndarray]:
    _, found, _ = load_model(workdir / "model", make_mesh(MeshConfig(), jax.devices()[:1]))
    return {name: np.asarray(value) for name, value in found.items()}


def records(workdir) -> list[dict]:
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def same_run(found, expected) -> None:
    """Compares, bit for bit, the weights and every metric that does not depend on the clock."""
    one, other = weights(expected), weights(found)
    assert one.keys() == other.keys()
    for name, value in one.items():
        np.testing.assert_array_equal(other[name], value, err_msg=name)
    assert [learned(record) for record in records(found)] == [learned(record) for record in records(expected)]


def learned(record: dict) -> dict:
    clock = ("seconds", "_share", "_left", "per_second", "per_device")
    return {name: value for name, value in record.items() if not name.endswith(clock)}


@pytest.fixture(scope="module")
def run_to_end(tmp_path_factory) -> tuple[list[str], Path, str]:
    """(flags of a training without a workdir, workdir of a run that was never stopped, its stderr)."""
    root = tmp_path_factory.mktemp("resume")
    write_data(root / "data")
    write_config(root / "config.py", root / "data", steps=STEPS, save_every=SAVE_EVERY, log_every=LOG_EVERY)
    flags = ["--mode=train", f"--config={root / 'config.py'}"]
    return flags, root / "uninterrupted", resume(flags, root / "uninterrupted")


@pytest.fixture
def uninterrupted(run_to_end) -> tuple[list[str], Path]:
    return run_to_end[:2]


def test_a_run_prints_its_progress_and_nothing_else(run_to_end):
    lines = run_to_end[2].splitlines()
    assert all(re.match(PROGRESS, line) for line in lines), lines
    assert len(lines) == math.ceil(STEPS / LOG_EVERY)


def newest(workdir) -> int:
    folders = (workdir / "checkpoints").glob("*")
    return max((int(folder.name) for folder in folders if folder.name.isdigit()), default=0)


def is_saving(workdir) -> bool:
    return any((workdir / "checkpoints").glob("*-tmp*"))


def end(workdir, flags: list[str], how: str, step: int) -> subprocess.CompletedProcess:
    """Starts or resumes a run that ends itself; see ``ending_run``."""
    return run_module("tests.end_to_end.ending_run", how, str(step), *flags, f"--workdir={workdir}")


def kill(workdir, flags: list[str], how: str, step: int) -> None:
    finished = end(workdir, flags, how, step)
    assert finished.returncode == -signal.SIGKILL, finished.stderr
    assert newest(workdir) == (step - 1) // SAVE_EVERY * SAVE_EVERY and is_saving(workdir) == (how == "kill_in_save")


def resume(flags: list[str], workdir) -> str:
    """Runs to the end; returns stderr."""
    finished = run(*flags, f"--workdir={workdir}")
    assert finished.returncode == 0, finished.stderr
    return finished.stderr


def test_killed_twice_and_resumed_is_bit_equal_to_never_stopped(uninterrupted, tmp_path):
    """Once between two saves, once in the middle of one."""
    flags, expected = uninterrupted
    killed = tmp_path / "killed"
    kill(killed, flags, "kill", 3 * SAVE_EVERY + 2)
    kill(killed, flags, "kill_in_save", 5 * SAVE_EVERY)
    resume(flags, killed)
    same_run(killed, expected)


def test_terminated_it_saves_the_step_and_ends_well(uninterrupted, tmp_path):
    flags, expected = uninterrupted
    stopped, step = tmp_path / "stopped", 3 * SAVE_EVERY + 2
    finished = end(stopped, flags, "terminate", step)
    assert finished.returncode == 0 and f"stopped by SIGTERM, saved at step {step}" in finished.stderr, finished.stderr
    assert newest(stopped) == step and not (stopped / "model").exists() and not is_saving(stopped)
    resume(flags, stopped)
    same_run(stopped, expected)


@pytest.mark.slow
def test_killed_ten_times_is_bit_equal_to_never_stopped(uninterrupted, tmp_path):
    """Every other time in the middle of a save; each process gets one checkpoint further."""
    flags, expected = uninterrupted
    killed = tmp_path / "killed"
    rng = random.Random(0)
    for number in range(10):
        saved = newest(killed) + SAVE_EVERY
        if number % 2:
            kill(killed, flags, "kill_in_save", saved + SAVE_EVERY)
        else:
            kill(killed, flags, "kill", saved + rng.randrange(1, SAVE_EVERY))
        assert newest(killed) == saved
    resume(flags, killed)
    same_run(killed, expected)


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


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """(config, mesh, workdir of its run over six steps, its data)."""
    root = tmp_path_factory.mktemp("trained")
    config, _ = small_run(root / "data", model={"mmdit": {"depth": 1}}, train={"log_every": 1})
    mesh = make_mesh(config.mesh, jax.devices()[:1])
    train(config, root / "run", mesh)
    return config, mesh, root / "run", root / "data"


@pytest.fixture
def stopped(trained, tmp_path) -> Path:
    """A copy of the workdir as it was after step 3."""
    workdir = shutil.copytree(trained[2], tmp_path / "run")
    for left in ("checkpoints/6", "model", "metrics.jsonl"):
        remove(workdir / left)
    return workdir


@pytest.fixture
def captions(trained):
    """The file of the captions, which gets its content back."""
    file = trained[3] / "captions.json"
    content = file.read_text()
    yield file
    file.write_text(content)


def test_another_config_or_fewer_records_are_refused(trained, captions, monkeypatch):
    config, mesh, workdir, data = trained
    sections = {"model": {"mmdit": {"depth": 1}}, "optimizer": {"learning_rate": 1e-3}, "train": {"log_every": 2}}
    with pytest.raises(UserError, match="belongs to a run with another config") as error:
        train(small_run(data, **sections)[0], workdir, mesh)
    assert "optimizer.learning_rate: 0.002 -> 0.001" in str(error.value)
    assert "log_every" not in str(error.value)
    captions.write_text(json.dumps(json.loads(captions.read_text())[1:]))
    monkeypatch.setattr(TrainSetup, "init_params", lambda _: pytest.fail("weights are read before the refusal"))
    with pytest.raises(UserError, match="the data changed since step 6: .*'captions' .40 records -> 39, captions.json"):
        train(config, workdir, mesh)


def test_touched_data_are_the_same_to_the_bit(trained, stopped):
    config, mesh, workdir, data = trained
    for file in data.rglob("*.*"):
        file.touch()
    train(config, stopped, mesh)
    assert [learned(record) for record in records(stopped)] == [learned(record) for record in records(workdir)[3:]]
    found = weights(stopped)
    for name, value in weights(workdir).items():
        np.testing.assert_array_equal(found[name], value, err_msg=name)


def test_edited_data_are_taken_only_if_that_is_meant(trained, stopped, captions):
    config, mesh, workdir, _ = trained
    captions.write_text(captions.read_text().replace("handwritten", "handpainted"))
    with pytest.raises(UserError, match=r"since step 3: source 'images' \(captions.json\), source 'captions' \(capt"):
        train(config, stopped, mesh)
    meant = dataclasses.replace(config, data=dataclasses.replace(config.data, allow_changed=True))
    train(meant, stopped, mesh)
    assert [record["step"] for record in records(stopped)] == [4, 5, 6]
    assert [learned(record) for record in records(stopped)] != [learned(record) for record in records(workdir)[3:]]
    train(config, stopped, mesh)  # its newest checkpoint is of the edited data


def test_a_host_with_other_data_than_the_first_is_refused(trained, captions, tmp_path, monkeypatch):
    config, mesh, *_ = trained
    tokenizer = Tokenizer(config.data.tokenizer)
    first = json.dumps(Mixture(config.data, tokenizer, seed=0, global_batch_size=4).fingerprint())
    monkeypatch.setattr(loop, "broadcast_from_first", lambda name, text: first)
    captions.write_text(captions.read_text().replace("handwritten", "handpainted"))
    with pytest.raises(UserError) as error:
        train(config, tmp_path / "run", mesh)
    assert str(error.value) == (
        "the data of this host differ from the first host's in source 'images' (captions.json), source 'captions' "
        "(captions.json); give all hosts the same data"
    )


def test_a_workdir_that_cannot_be_written_is_refused(tmp_path):
    write_data(tmp_path / "data")
    write_config(tmp_path / "config.py", tmp_path / "data")
    (tmp_path / "file").write_text("")
    flags = ["--mode=train", f"--config={tmp_path / 'config.py'}", f"--workdir={tmp_path / 'file' / 'run'}"]
    assert "choose another --workdir" in refused(*flags)
