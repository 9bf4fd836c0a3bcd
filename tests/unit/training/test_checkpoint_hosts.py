"""What a checkpoint does where there are several hosts, each rule alone; tests/multidevice runs them on real ones."""

import types
from pathlib import Path

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest

from dualdiff_jax.sharding import make_mesh
from dualdiff_jax.training import checkpoint
from dualdiff_jax.training.checkpoint import Checkpoints
from dualdiff_jax.training.setup import TrainSetup
from tests.small_run import first_state, small_run

RECORDS = {"some source": 40}


@pytest.fixture(scope="module")
def setup(tmp_path_factory) -> TrainSetup:
    train = {"steps": 40, "save_every": 4, "keep_checkpoints": 2, "keep_every": 8}
    config, _ = small_run(tmp_path_factory.mktemp("data"), model={"mmdit": {"depth": 1}}, train=train)
    return TrainSetup(config, make_mesh(config.mesh, jax.devices()[:1]))


@pytest.fixture(scope="module")
def state(setup):
    return first_state(setup.config, setup.mesh)[0]


@pytest.fixture
def barriers(monkeypatch) -> list[str]:
    names: list[str] = []
    monkeypatch.setattr(checkpoint, "barrier", names.append)
    return names


def as_host(monkeypatch, index: int, count: int, agree=np.array) -> None:
    """Lets the module, and nothing below it, believe in ``count`` hosts."""
    there = types.SimpleNamespace(process_index=lambda: index, process_count=lambda: count, tree=jax.tree)
    monkeypatch.setattr(checkpoint, "jax", there)
    together = types.SimpleNamespace(broadcast_one_to_all=agree, process_allgather=agree)
    monkeypatch.setattr(checkpoint, "multihost_utils", together)


def opened(monkeypatch, setup: TrainSetup, workdir: Path, index: int, count: int, agree=np.array) -> Checkpoints:
    """Opened as one host, then told that there are several."""
    checkpoints = Checkpoints(workdir, setup)
    as_host(monkeypatch, index, count, agree)
    return checkpoints


@pytest.mark.parametrize("index", [0, 1])
def test_the_first_host_clears_half_written_saves_and_all_wait_for_it(setup, tmp_path, monkeypatch, barriers, index):
    partial = tmp_path / "checkpoints" / "6.orbax-checkpoint-tmp-1"
    partial.mkdir(parents=True)
    as_host(monkeypatch, index, 1)
    Checkpoints(tmp_path, setup)
    assert partial.exists() == (index == 1)
    assert len(barriers) == 1


@pytest.mark.parametrize("index", [0, 1])
def test_the_first_host_moves_damaged_checkpoints_and_all_wait_for_it(
    setup, state, tmp_path, monkeypatch, barriers, index
):
    checkpoints = Checkpoints(tmp_path, setup)
    checkpoints.save(4, state, RECORDS)
    assert checkpoints.close(4)
    barriers.clear()
    checkpoints = opened(monkeypatch, setup, tmp_path, index, 1)
    barriers.clear()
    checkpoints._set_aside({}, 4)
    assert barriers == [] and checkpoints.steps() == [4]
    checkpoints._set_aside({4: "a reason"}, 2)
    assert len(barriers) == 1
    assert checkpoints.steps() == ([] if index == 0 else [4])
    assert (tmp_path / "damaged_checkpoints").exists() == (index == 0)


@pytest.mark.parametrize("count", [1, 2])
def test_orbax_saves_in_the_background_and_waits_at_our_barrier_where_hosts_are_several(
    setup, tmp_path, monkeypatch, count
):
    found = {}
    monkeypatch.setattr(checkpoint.ocp, "CheckpointManager", lambda folder, **given: found.update(given))
    as_host(monkeypatch, 0, count)
    checkpoints = Checkpoints(tmp_path, setup)
    options: ocp.CheckpointManagerOptions = found["options"]
    assert options.enable_async_checkpointing is True
    assert (options.max_to_keep, options.keep_period) == (2, 8)
    expected = checkpoints._agreement.wait if count == 2 else None
    assert options.async_options.barrier_sync_fn == expected


def test_several_hosts_write_only_where_the_first_has_more_room_than_the_state_takes(
    setup, state, tmp_path, monkeypatch, caplog, barriers
):
    size = sum(leaf.nbytes for leaf in jax.tree.leaves(state))
    for free, why in ((size, "there is no room"), (size + 1, "")):
        checkpoints = opened(monkeypatch, setup, tmp_path, 0, 2)
        monkeypatch.setattr(checkpoint, "free_bytes", lambda folder, free=free: free)
        checkpoints._look_for_room(state)
        assert checkpoints._agreement.failure() == why
        monkeypatch.undo()
    checkpoints = opened(monkeypatch, setup, tmp_path, 0, 2)
    monkeypatch.setattr(checkpoint, "free_bytes", lambda folder: 0)
    monkeypatch.setattr(checkpoints._manager, "save", None)
    checkpoints.save(4, state, RECORDS)
    assert "there is no room" in caplog.text and "there is none before it" in caplog.text
    assert checkpoints._retry_at == 5
    assert [step for step in range(5, 9) if checkpoints.is_due(step)] == [5, 8]


def test_another_host_looks_whether_it_may_write_and_not_for_room(setup, state, tmp_path, monkeypatch):
    checkpoints = opened(monkeypatch, setup, tmp_path, 1, 2)
    monkeypatch.setattr(checkpoint, "free_bytes", lambda folder: 0)
    checkpoints._look_for_room(state)
    assert checkpoints._agreement.failure() == ""

    def refuse(folder):
        raise OSError("no permission")

    monkeypatch.setattr(checkpoint, "probe", refuse)
    checkpoints._look_for_room(state)
    assert checkpoints._agreement.failure() == "no permission"


def test_a_failed_save_leaves_a_manager_that_is_closed_for_a_new_one(setup, tmp_path):
    checkpoints = Checkpoints(tmp_path, setup)
    closed, old = [], checkpoints._manager
    checkpoints._manager = types.SimpleNamespace(close=lambda: closed.append(True))
    checkpoints._give_up_if_failed("", 5)
    assert closed == []
    checkpoints._give_up_if_failed("full", 5)
    assert closed == [True] and checkpoints._manager is not old and checkpoints.steps() == []
    old.close()


def test_a_save_that_follows_a_failed_one_is_the_last_try(setup, state, tmp_path):
    checkpoints = Checkpoints(tmp_path, setup)
    checkpoints._give_up_if_failed("full", 5)
    checkpoints.save(5, state, RECORDS)
    assert checkpoints.close(5)
    checkpoints = Checkpoints(tmp_path, setup)
    checkpoints._retry_at = 6
    checkpoints.save(6, state, RECORDS)
    assert checkpoints._retry_at is None
    assert checkpoints.close(6)


@pytest.mark.parametrize("others", [True, False])
def test_a_checkpoint_counts_where_every_host_can_read_it(setup, state, tmp_path, monkeypatch, others):
    checkpoints = Checkpoints(tmp_path, setup)
    checkpoints.save(4, state, RECORDS)
    assert checkpoints.close(4)
    checkpoints = opened(monkeypatch, setup, tmp_path, 0, 2, agree=lambda x: np.array([bool(x), others]))
    damaged: dict[int, str] = {}
    found = checkpoints._read(4, damaged, run=ocp.args.JsonRestore())
    assert (found is not None) == others
    assert damaged == ({} if others else {4: "another host cannot read it"})
