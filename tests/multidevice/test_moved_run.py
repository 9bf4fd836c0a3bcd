"""A run that stops and continues on another number of devices or processes comes to the same end."""

import json
from pathlib import Path

import numpy as np
import pytest

from dualdiff_jax.weights import load_model
from tests.multidevice.hosts import finish, free_port, start
from tests.multidevice.moved_run import STEPS, mesh_of, settings

ROUNDING = 1e-5  # relative, of a loss; sums over devices are taken in another order


def run(*arguments: tuple[str, ...], devices: int) -> None:
    """Runs a process for each of the arguments, side by side; all must succeed."""
    processes = [start("-m", "tests.multidevice.moved_run", *each, devices=devices) for each in arguments]
    printed = finish(processes)
    assert all(process.returncode == 0 for process in processes), "\n".join(printed)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A folder with one run all on eight devices, and one that continued on four and then on two."""
    folder = tmp_path_factory.mktemp("moved")
    settings(folder)  # writes the data
    run(("devices", str(folder)), devices=8)
    return folder


def losses(workdir: Path) -> list[float]:
    logged = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    assert [record["step"] for record in logged] == list(range(1, STEPS + 1))
    return [record["loss"] for record in logged]


def weights(workdir: Path) -> dict[str, np.ndarray]:
    return {name: np.asarray(value) for name, value in load_model(workdir / "model", mesh_of(1))[1].items()}


def assert_same_end(workdir: Path, expected_workdir: Path) -> None:
    """If a gradient is zero but for rounding, AdamW turns the rounding into steps of up to the learning rate."""
    np.testing.assert_allclose(losses(workdir), losses(expected_workdir), rtol=ROUNDING)
    found, expected = weights(workdir), weights(expected_workdir)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        difference = np.linalg.norm(found[name] - value) / max(np.linalg.norm(value), 1e-12)
        assert difference < 1e-3 or np.abs(found[name] - value).max() < 1e-3 * STEPS, name


@pytest.mark.slow
def test_from_eight_devices_to_four_to_two(folder):
    assert_same_end(folder / "moved", folder / "unmoved")


@pytest.mark.slow
def test_from_two_processes_to_one(folder):
    """A signal asks one of the two to stop; both stop after the same step, which is saved."""
    port = str(free_port())
    run(*(("host", str(folder), str(number), port) for number in (0, 1)), devices=4)
    assert {path.name for path in (folder / "hosts" / "checkpoints").iterdir()} == {"4"}
    assert not (folder / "hosts" / "model").exists()
    run(("alone", str(folder)), devices=8)
    assert_same_end(folder / "hosts", folder / "unmoved")
