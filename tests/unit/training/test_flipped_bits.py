"""A checkpoint with a flipped bit gives the state that was saved, or makes way for the one before it."""

import dataclasses
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest

from dualdiff_jax.sharding import make_mesh
from dualdiff_jax.training.checkpoint import Checkpoints
from dualdiff_jax.training.run_item import run_item
from dualdiff_jax.training.setup import TrainSetup
from tests.flipped_bits import flipped_bits
from tests.small_run import small_run

RECORDS = {"some source": {"records": 40, "files": {"list.json": "-1:12"}, "images": "34"}}


@pytest.fixture(scope="module")
def setup(tmp_path_factory):
    train = {"steps": 4, "save_every": 2}
    config, _ = small_run(tmp_path_factory.mktemp("data"), model={"mmdit": {"depth": 1}}, train=train)
    return TrainSetup(config, make_mesh(config.mesh, jax.devices()[:1]))


@pytest.fixture(scope="module")
def states(setup):
    """The states of steps 2 and 4."""
    return {step: random_state(setup, step) for step in (2, 4)}


def random_state(setup, step):
    rng = np.random.default_rng(step)
    state = jax.tree.map(
        lambda leaf: jax.device_put(np.asarray(100 * rng.random(leaf.shape)).astype(leaf.dtype), leaf.sharding),
        setup.abstract_state,
    )
    return dataclasses.replace(state, step=jnp.int32(step))


@pytest.mark.parametrize(
    ("count", "seed"),
    [(12, 0), pytest.param(100, 1, marks=pytest.mark.slow), pytest.param(100, 2, marks=pytest.mark.slow)],
)
def test_a_flipped_bit_changes_no_state_unnoticed(setup, states, tmp_path, caplog, count, seed):
    written = tmp_path / "written"
    checkpoints = Checkpoints(written, setup)
    for step, state in states.items():
        checkpoints.save(step, state, RECORDS, [{"loss": 0.1 * step}])
    assert checkpoints.close(4)
    used = []
    for number, file in enumerate(flipped_bits(written / "checkpoints" / "4", count, seed)):
        workdir = shutil.copytree(written, tmp_path / str(number))
        found, metrics = Checkpoints(workdir, setup).restore(RECORDS)
        used.append(int(found.step))
        jax.tree.map(np.testing.assert_array_equal, found, states[used[-1]])
        assert metrics == [{"loss": 0.1 * used[-1]}], file
        shutil.rmtree(workdir)
    assert used.count(2) > max(count / 4 - 3, 0)  # files have random names, so that few flips may hit few arrays
    assert caplog.text.count("checkpoint of step 4 is damaged (") == used.count(2)
    if count >= 100:
        assert ".mmdit.blocks." in caplog.text and "was changed since it was written" in caplog.text


def test_a_checkpoint_of_earlier_versions_has_no_checksums(setup, states, tmp_path):
    run = run_item(2, setup.config, RECORDS, Checkpoints(tmp_path, setup)._init_from, [{"loss": 0.2}])
    del run["crc32"]
    items = ocp.args.Composite(state=ocp.args.StandardSave(states[2]), run=ocp.args.JsonSave(run))
    with ocp.CheckpointManager(Path(tmp_path / "checkpoints")) as manager:
        manager.save(2, args=items)
    found, metrics = Checkpoints(tmp_path, setup).restore(RECORDS)
    jax.tree.map(np.testing.assert_array_equal, found, states[2])
    assert metrics == [{"loss": 0.2}]
