"""A checkpoint is there whole; one that is not is told, and the one before is used; a full disk stops nothing."""

import dataclasses
import json
import os
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dualdiff_jax.errors import UserError
from dualdiff_jax.sharding import make_mesh
from dualdiff_jax.training import checkpoint
from dualdiff_jax.training.checkpoint import Checkpoints
from dualdiff_jax.training.run_item import check_run_item, run_item
from dualdiff_jax.training.setup import TrainSetup
from tests.full_disk import full_disk
from tests.small_run import first_state, small_run

# A restore that fails leaves TensorStore's other reads to the garbage collector.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")

RECORDS = {"some source": {"records": 40, "files": {"list.json": "-1:12"}, "images": "34"}}
EDITED = {"some source": {"records": 40, "files": {"list.json": "-1:ab"}, "images": "34"}}
SMALL = {"mmdit": {"depth": 1}}


@pytest.fixture(scope="module")
def settings(tmp_path_factory):
    return small_run(tmp_path_factory.mktemp("data"), model=SMALL, train={"steps": 40, "save_every": 2})[0]


@pytest.fixture(scope="module")
def mesh(settings):
    return make_mesh(settings.mesh, jax.devices()[:1])


@pytest.fixture(scope="module")
def state(settings, mesh):
    return first_state(settings, mesh)[0]


def at(state, step):
    """A state that can be told from those of other steps."""
    params = {name: value + step for name, value in state.params.items()}
    return dataclasses.replace(state, step=jnp.int32(step), params=params)


@pytest.fixture(scope="module")
def written(settings, mesh, state, tmp_path_factory):
    """A workdir with checkpoints of steps 2 and 4."""
    workdir = tmp_path_factory.mktemp("written")
    checkpoints = Checkpoints(workdir, TrainSetup(settings, mesh))
    for step in (2, 4):
        checkpoints.save(step, at(state, step), RECORDS, [{"loss": 0.1 * step}])
    assert checkpoints.close(4)
    return workdir


@pytest.fixture
def workdir(written, tmp_path):
    return shutil.copytree(written, tmp_path / "run")


def restore(workdir, settings, mesh, records=RECORDS):
    return Checkpoints(workdir, TrainSetup(settings, mesh)).restore(records)


def arrays(folder):
    """The largest file that holds values."""
    return max(folder.glob("state/**/d/*"), key=lambda path: path.stat().st_size)


def halve(folder):
    """Every file that holds values: under load a file may end in what a later one has replaced, which nobody reads."""
    for file in folder.glob("state/**/d/*"):
        os.truncate(file, file.stat().st_size // 2)


def empty(folder):
    shutil.rmtree(folder)
    folder.mkdir()


DAMAGES = {
    "truncated array files": halve,
    "empty array file": lambda folder: os.truncate(arrays(folder), 0),
    "missing array file": lambda folder: arrays(folder).unlink(),
    "missing metadata": lambda folder: (folder / "state" / "_METADATA").unlink(),
    "missing manifest": lambda folder: (folder / "state" / "manifest.ocdbt").unlink(),
    "empty folder": empty,
    "missing item": lambda folder: shutil.rmtree(folder / "state"),
    "unreadable item": lambda folder: next((folder / "run").glob("*")).write_text("{"),
    "empty item": lambda folder: empty(folder / "run"),
}


def test_a_checkpoint_beyond_the_last_step_is_refused_for_what_it_is(workdir, settings, mesh):
    fewer = dataclasses.replace(settings, train=dataclasses.replace(settings.train, steps=3))
    with pytest.raises(UserError, match=r"checkpoints/4: lies beyond train.steps 3, so it is not of this run; move it"):
        restore(workdir, fewer, mesh)
    assert {path.name for path in (workdir / "checkpoints").iterdir()} == {"2", "4"}


@pytest.mark.parametrize("content", [b"[]", b"3", b"[" * 5000, b"\xff"])
def test_a_damaged_description_is_removed_and_the_checkpoint_is_used(workdir, settings, mesh, caplog, content):
    (workdir / "checkpoints" / "4" / checkpoint.DESCRIPTION).write_bytes(content)
    assert Checkpoints(workdir, TrainSetup(settings, mesh)).steps() == [2, 4]
    assert "it only describes the checkpoint, and is removed" in caplog.text


def pipe(path):
    path.unlink() if path.is_file() else shutil.rmtree(path)
    os.mkfifo(path)


@pytest.mark.parametrize("name", ["", checkpoint.DESCRIPTION, "run/metadata", "state/manifest.ocdbt"])
def test_a_pipe_in_a_checkpoint_is_set_aside_before_anything_waits(workdir, settings, mesh, caplog, name):
    pipe(workdir / "checkpoints" / "4" / name)
    assert Checkpoints(workdir, TrainSetup(settings, mesh)).steps() == [2]
    assert "checkpoint of step 4 is damaged" in caplog.text and "is no regular file" in caplog.text


RUN_ITEMS = [
    ({"next_step": 2}, "is of step 2"),
    ({"next_step": "4"}, "next_step: found"),
    ({"next_step": True}, "next_step: found"),
    ({"records": 3}, "records: found 3, expected an object"),
    ({"records": {"a": "40"}}, "records.a: found '40'"),
    ({"records": {"a": {"records": 40, "files": []}}}, r"records.a: files: found \[\]"),
    ({"start": None}, "start: found None"),
    ({"config": []}, "config: found"),
    ({"config": {"seed": "x"}}, "seed: expected int, found 'x'"),
    ({"versions": "1"}, "versions: found"),
    ({"pending": {}}, "pending: found"),
    ({"pending": [3]}, r"pending\[0\]: found 3"),
    ({"pending": [{"loss": 1.0}, {"loss": "x"}]}, r"pending\[1\].loss: found 'x'"),
    ({"pending": [{"loss": [[1.0], [None]]}]}, r"pending\[0\].loss: found None"),
    ({"pending": [{"loss": 3.0}]}, "its run item was changed since it was written"),
    ({"start": "stars"}, "its run item was changed since it was written"),
    ({"crc32": None}, "its run item was changed since it was written"),
]


def test_a_run_item_of_a_wrong_form_is_damage(settings):
    right = run_item(4, settings, RECORDS, "start", [{"loss": 1.0, "by_t": [[1.0], [2]]}])
    assert check_run_item(json.loads(json.dumps(right)), 4)["next_step"] == 4
    for change, fault in [*RUN_ITEMS, *(({key: ...}, f"lacks '{key}'") for key in right if key != "crc32")]:
        item = {key: value for key, value in (right | change).items() if value is not ...}
        with pytest.raises(UserError, match=fault):
            check_run_item(json.loads(json.dumps(item)), 4)
    for item in (None, 3, [], "x"):
        with pytest.raises(UserError, match="expected an object"):
            check_run_item(item, 4)


def test_a_run_item_of_a_wrong_form_makes_way_for_the_checkpoint_before(workdir, settings, mesh, caplog):
    file = next((workdir / "checkpoints" / "4" / "run").glob("metadata"))
    file.write_text(json.dumps(json.loads(file.read_text()) | {"pending": 3}))
    assert int(restore(workdir, settings, mesh)[0].step) == 2
    assert "pending: found 3, expected a list" in caplog.text


def test_what_was_saved_comes_back(workdir, settings, mesh, state):
    found, unlogged_metrics = restore(workdir, settings, mesh)
    jax.tree.map(np.testing.assert_array_equal, found, at(state, 4))
    assert unlogged_metrics == [{"loss": 0.4}]


@pytest.mark.parametrize(
    "sections",
    [
        {"optimizer": {"name": "adafactor"}, "train": {"trainable": ("t5.embedding[mask]",)}},
        {"optimizer": {"name": "muon"}, "train": {"trainable": ()}, "lora": {"rank": 2}},
    ],
)
def test_states_of_other_shapes_come_back_too(tmp_path, mesh, sections):
    """Factored moments, leaves that an optimizer leaves out, a row, low-rank factors."""
    config, _ = small_run(tmp_path / "data", model=SMALL, **sections)
    state, _ = first_state(config, mesh)
    state = dataclasses.replace(state, opt_state=jax.tree.map(lambda leaf: leaf + 1, state.opt_state))
    checkpoints = Checkpoints(tmp_path / "run", TrainSetup(config, mesh))
    checkpoints.save(2, state, RECORDS)
    assert checkpoints.close(2)
    found, _ = restore(tmp_path / "run", config, mesh)
    assert jax.tree.structure(found) == jax.tree.structure(state)
    jax.tree.map(np.testing.assert_array_equal, found, state)


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_checkpoint_is_told_and_the_one_before_is_used(workdir, settings, mesh, state, caplog, damage):
    DAMAGES[damage](workdir / "checkpoints" / "4")
    checkpoints = Checkpoints(workdir, TrainSetup(settings, mesh))
    found, unlogged_metrics = checkpoints.restore(RECORDS)
    jax.tree.map(np.testing.assert_array_equal, found, at(state, 2))
    assert unlogged_metrics == [{"loss": 0.2}]
    assert "checkpoint of step 4 is damaged" in caplog.text and "from the checkpoint of step 2" in caplog.text
    assert checkpoints.steps() == [2] and len(list((workdir / "damaged_checkpoints").iterdir())) == 1
    checkpoints.save(4, at(state, 4), RECORDS)  # the run comes by there again
    assert checkpoints.close(4)
    jax.tree.map(np.testing.assert_array_equal, restore(workdir, settings, mesh)[0], at(state, 4))


def test_a_half_written_checkpoint_is_cleared_away(workdir, settings, mesh):
    """What a kill leaves behind: the folder still has the name under which it is written."""
    partial = workdir / "checkpoints" / "6.orbax-checkpoint-tmp"
    shutil.copytree(workdir / "checkpoints" / "4", partial)
    found, _ = restore(workdir, settings, mesh)
    assert int(found.step) == 4 and not partial.exists()


def test_where_all_are_damaged_each_is_named_and_none_is_moved(workdir, settings, mesh):
    for step in "24":
        empty(workdir / "checkpoints" / step)
    with pytest.raises(UserError, match="no checkpoint can be read") as error:
        restore(workdir, settings, mesh)
    assert "step 2: " in str(error.value) and "step 4: " in str(error.value)
    assert {path.name for path in (workdir / "checkpoints").iterdir()} == {"2", "4"}


def test_another_model_is_refused_with_the_differences(workdir, settings, mesh):
    """By the checkpoint itself: there is no config.json in this workdir."""
    wider = dataclasses.replace(settings.model, mmdit=dataclasses.replace(settings.model.mmdit, width=32))
    with pytest.raises(UserError, match="model.mmdit.width: 16 -> 32"):
        restore(workdir, dataclasses.replace(settings, model=wider), mesh)
    assert {path.name for path in (workdir / "checkpoints").iterdir()} == {"2", "4"}


def test_other_data_and_another_start_are_refused(workdir, settings, mesh, tmp_path):
    with pytest.raises(UserError) as error:
        restore(workdir, settings, mesh, EDITED)
    assert str(error.value) == (
        "the data changed since step 4: source 'some source' (list.json); restore the data, start in another workdir, "
        "or give --config.data.allow_changed=True to go on with the data as they are now"
    )
    checkpoints = Checkpoints(workdir, TrainSetup(settings, mesh))
    checkpoints._init_from = "of another folder"
    with pytest.raises(UserError, match="is not the model folder that this run started from"):
        checkpoints.restore(RECORDS)


def test_other_data_are_taken_by_those_who_mean_it(workdir, settings, mesh, caplog):
    meant = dataclasses.replace(settings, data=dataclasses.replace(settings.data, allow_changed=True))
    assert restore(workdir, meant, mesh, EDITED)[0].step == 4
    assert "the data changed since step 4: source 'some source' (list.json); training goes on with" in caplog.text


def test_a_checkpoint_of_an_earlier_version_has_counts_alone(settings, mesh, state, tmp_path):
    checkpoints = Checkpoints(tmp_path, TrainSetup(settings, mesh))
    checkpoints.save(2, at(state, 2), {"some source": 40, "without weight": 9})
    assert checkpoints.close(2)
    assert restore(tmp_path, settings, mesh)[0].step == 2
    with pytest.raises(UserError, match=r"since step 2: source 'some source' \(40 records -> 41\); restore"):
        restore(tmp_path, settings, mesh, {"some source": RECORDS["some source"] | {"records": 41}})


def test_other_versions_are_told(workdir, settings, mesh, caplog, monkeypatch):
    monkeypatch.setattr(checkpoint, "versions", lambda: {"jax": "99.0"})
    assert int(restore(workdir, settings, mesh)[0].step) == 4
    assert "rounding may differ" in caplog.text and "'jax': '99.0'" in caplog.text


def test_the_newest_and_the_multiples_stay(settings, mesh, state, tmp_path):
    kept = dataclasses.replace(settings.train, keep_checkpoints=2, keep_every=4)
    checkpoints = Checkpoints(tmp_path, TrainSetup(dataclasses.replace(settings, train=kept), mesh))
    for step in range(2, 13, 2):
        checkpoints.save(step, state, RECORDS)
    assert checkpoints.close(12)
    assert sorted(int(path.name) for path in (tmp_path / "checkpoints").iterdir()) == [4, 8, 10, 12]


def test_a_full_disk_is_told_and_the_save_is_tried_again(workdir, settings, mesh, state, caplog):
    checkpoints = Checkpoints(workdir, TrainSetup(settings, mesh))
    with full_disk() as fill:
        fill(True)
        assert checkpoints.is_due(6)
        checkpoints.save(6, at(state, 6), RECORDS)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(checkpoints, "is_saving", lambda: False)  # by the next step it is over
            assert checkpoints.is_due(7) is False
    assert "a checkpoint cannot be written" in caplog.text and "the last good one is of step 4" in caplog.text
    assert "the next try is at step 8" in caplog.text
    assert checkpoints.steps() == [2, 4]
    checkpoints.save(8, at(state, 8), RECORDS)
    assert checkpoints.close(8)
    jax.tree.map(np.testing.assert_array_equal, restore(workdir, settings, mesh)[0], at(state, 8))
    assert {path.name for path in (workdir / "checkpoints").iterdir()} == {"4", "8"}  # what was half written is gone


def test_a_failed_save_is_due_again_after_a_tenth_of_the_interval(settings, mesh, tmp_path):
    often = dataclasses.replace(settings.train, save_every=100)
    checkpoints = Checkpoints(tmp_path, TrainSetup(dataclasses.replace(settings, train=often), mesh))
    checkpoints._give_up_if_failed("No space left on device", 210)
    assert [step for step in range(201, 301) if checkpoints.is_due(step)] == [210, 300]


def test_the_run_item_says_what_it_was(written, settings):
    run = json.loads(next((written / "checkpoints" / "4" / "run").glob("*")).read_text())
    assert run["next_step"] == 4 and run["records"] == RECORDS
    assert run["config"]["optimizer"]["learning_rate"] == settings.optimizer.learning_rate
    assert {"python", "jax", "orbax-checkpoint"} <= run["versions"].keys()
