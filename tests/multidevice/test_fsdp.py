"""Eight devices that share the parameters compute what one device computes, and each loads what the other has saved.

The eight are in a process of their own, since a process cannot change how many devices it has.
"""

import json
from pathlib import Path

import numpy as np
import pytest

from dualdiff_jax.data.batch import Batch
from dualdiff_jax.models.bundle import leaf_specs
from tests.multidevice.eight import run_module
from tests.multidevice.two_steps import MANY, STEPS, Arrays, Placements, load, settings

BOUND = 1e-5
STREAMS = Batch._fields


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """The files of one device and of eight after both steps."""
    folder = tmp_path_factory.mktemp("fsdp")
    run_module("tests.multidevice.two_steps", folder, MANY)
    return folder


def arrays(file: Path) -> Arrays:
    with np.load(file) as saved:
        return dict(saved)


def placements(folder: Path, part: str) -> Placements:
    """The placements of one part of the state, of the frozen weights or of the batch, on eight devices."""
    found = json.loads((folder / f"placements_{MANY}.json").read_text())
    return {name.removeprefix(f"{part} "): where for name, where in found.items() if name.startswith(f"{part} ")}


def by_step(found: Arrays, part: str) -> dict[tuple[int, str], np.ndarray]:
    """(step, name) -> array, for one part of the state."""
    split = {name: name.replace(":", "").split(" ") for name in found}
    return {(int(words[1]), words[3]): found[name] for name, words in split.items() if words[2] == part}


def both_runs(folder: Path, part: str) -> tuple[dict, dict]:
    found, expected = (by_step(arrays(folder / f"found_{devices}.npz"), part) for devices in (MANY, 1))
    assert found.keys() == expected.keys() and len(expected) >= 6 * STEPS
    return found, expected


def assert_equal_but_for_rounding(found: dict, expected: dict, bound: float = BOUND) -> None:
    """Bounds, for every array, the norm of the difference over the norm."""
    errors = {}
    for name in expected:
        difference, size = np.linalg.norm(found[name] - expected[name]), np.linalg.norm(expected[name])
        errors[name] = float(difference / size) if size else float(difference)
    assert not {name: error for name, error in errors.items() if not error <= bound}


def test_losses_and_norms_of_eight_devices_are_those_of_one(folder):
    """The update's norm has a bound of its own, for it includes the entries that ``is_above_rounding`` leaves out."""
    found, expected = both_runs(folder, "metrics")
    is_update = {key: key[1] == "update_norm" for key in expected}
    assert sum(is_update.values()) == STEPS
    assert_equal_but_for_rounding(found, {key: value for key, value in expected.items() if not is_update[key]})
    assert_equal_but_for_rounding(found, {key: value for key, value in expected.items() if is_update[key]}, 1e-3)


@pytest.mark.parametrize("moment", ["mu", "nu"])
def test_gradients_of_eight_devices_are_those_of_one(folder, moment):
    """The moments start at zero: after the first step ``mu`` is a tenth of the clipped gradient."""
    assert_equal_but_for_rounding(*both_runs(folder, moment))


@pytest.mark.parametrize("part", ["params", "ema_params"])
def test_updates_and_averages_of_eight_devices_are_those_of_one(folder, part):
    found, expected = both_runs(folder, part)
    keep = is_above_rounding(folder)
    assert sum(map(np.sum, keep.values())) > 0.8 * sum(map(np.size, keep.values()))
    above = [{key: value[keep[key[1]]] for key, value in run.items()} for run in (found, expected)]
    assert_equal_but_for_rounding(*above)
    early, late = (np.concatenate([expected[step, name].ravel() for name in keep]) for step in (1, STEPS))
    assert (early != late).mean() > 0.8


def is_above_rounding(folder: Path) -> dict[str, np.ndarray]:
    """By leaf, True where the gradient of every step is above a thousandth of the leaf's largest.

    AdamW divides a gradient by its own size, so an entry whose gradient is zero but for rounding moves either way. Such
    entries exist: those behind the flat end of a GELU, and the whole bias of the attention's keys.
    """
    _, gradients = both_runs(folder, "mu")
    keep = {name: np.ones(value.shape, bool) for (_, name), value in gradients.items()}
    for (_, name), value in gradients.items():
        keep[name] &= np.abs(value) >= 1e-3 * np.abs(value).max()
    return keep


def test_every_leaf_that_a_loss_depends_on_has_a_gradient(folder):
    """So that the comparisons above compare something."""
    zero = {name for (_, name), value in both_runs(folder, "mu")[1].items() if not value.any()}
    assert zero == {"mmdit.null_image"}


@pytest.mark.parametrize("part", ["params", "ema_params", "mu", "nu", "frozen"])
def test_every_leaf_is_split_by_its_width(folder, part):
    """Each device holds an eighth of a leaf with a width, in its spec and in the shape of its shard."""
    specs = leaf_specs(settings(folder)[0].model)
    found = placements(folder, part)
    is_constant = {name: not spec.trainable for name, spec in specs.items()}
    assert found.keys() == {name for name in specs if is_constant[name] == (part == "frozen")}
    for name, where in found.items():
        axes = specs[name].axes
        assert [entry == "fsdp" for entry in where["spec"]] == [axis == "width" for axis in axes], name
        parts = [MANY if axis == "width" else 1 for axis in axes]
        assert [size * n for size, n in zip(where["shard"], parts, strict=True)] == where["shape"], name


def test_every_array_of_a_batch_is_split_by_its_rows(folder):
    found = placements(folder, "batch")
    assert found.keys() == {f"{stream} {name}" for stream in STREAMS for name in ("image", "token_ids", "is_answer")}
    for name, where in found.items():
        assert where["spec"] == [["data", "fsdp"], *[None] * (len(where["shape"]) - 1)], name
        assert where["shard"] == [where["shape"][0] // MANY, *where["shape"][1:]], name


def test_eight_devices_load_what_one_saved(folder):
    assert_same_state(arrays(folder / "loaded.npz"), arrays(folder / "found_1.npz"))


def test_one_device_loads_what_eight_saved(folder):
    assert_same_state(load(folder, saved_on=MANY, devices=1), arrays(folder / f"found_{MANY}.npz"))


def assert_same_state(loaded: Arrays, saved: Arrays) -> None:
    """Compares bit by bit: a checkpoint has the state after the last step, a model folder has its averages."""
    last = f"step {STEPS}: "
    expected = {name.removeprefix(last): value for name, value in saved.items() if name.startswith(last)}
    expected = {name: value for name, value in expected.items() if not name.startswith("metrics ")}
    averages = {name.removeprefix("ema_params "): v for name, v in expected.items() if name.startswith("ema_params ")}
    models = {name.removeprefix("model "): value for name, value in loaded.items() if name.startswith("model ")}
    assert loaded.keys() == expected.keys() | {f"model {name}" for name in models}
    for name, value in expected.items():
        np.testing.assert_array_equal(loaded[name], value, err_msg=name)
    assert models.keys() == averages.keys() | {"mmdit.positions"}
    for name, value in averages.items():
        np.testing.assert_array_equal(models[name], value, err_msg=name)
