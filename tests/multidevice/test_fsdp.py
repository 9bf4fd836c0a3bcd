"""Eight devices that share the parameters compute what one computes, and each reads what the other has written.

The eight are in a process of their own, since a process cannot change how many devices it has.
"""

from pathlib import Path

import numpy as np
import pytest

from dualdiff_jax.models.bundle import leaf_specs
from tests.multidevice.eight import run_module
from tests.multidevice.two_steps import MANY, STEPS, Arrays, load, settings

BOUND = 1e-5


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Where one device and eight have made and saved their two steps."""
    folder = tmp_path_factory.mktemp("fsdp")
    run_module("tests.multidevice.two_steps", folder, MANY)
    return folder


def arrays(file: Path) -> Arrays:
    with np.load(file) as stored:
        return dict(stored)


def by_step(found: Arrays, part: str) -> dict[tuple[int, str], np.ndarray]:
    """(step, name) -> array, of one part of the state."""
    split = {name: name.replace(":", "").split(" ") for name in found}
    return {(int(words[1]), words[3]): found[name] for name, words in split.items() if words[2] == part}


def both_runs(folder: Path, part: str) -> tuple[dict, dict]:
    found, expected = (by_step(arrays(folder / f"found_{devices}.npz"), part) for devices in (MANY, 1))
    assert found.keys() == expected.keys() and len(expected) >= 6 * STEPS
    return found, expected


def assert_equal_but_for_rounding(found: dict, expected: dict, bound: float = BOUND) -> None:
    """Of every array the norm of the difference, over the norm."""
    errors = {}
    for name in expected:
        difference, size = np.linalg.norm(found[name] - expected[name]), np.linalg.norm(expected[name])
        errors[name] = float(difference / size) if size else float(difference)
    assert not {name: error for name, error in errors.items() if not error <= bound}


def test_losses_and_norms_of_eight_devices_are_those_of_one(folder):
    """The update's norm apart, for it holds the entries that ``is_above_rounding`` leaves out."""
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
    start, end = (np.concatenate([expected[step, name].ravel() for name in keep]) for step in (1, STEPS))
    assert (start != end).mean() > 0.8


def is_above_rounding(folder: Path) -> dict[str, np.ndarray]:
    """By leaf, True where the gradient of every step is above a thousandth of the leaf's largest.

    AdamW divides a gradient by its own size, so an entry whose gradient is the rounding of zero moves either way.
    There are such: what goes through the flat end of a GELU, and the whole bias of the attention's keys.
    """
    _, gradients = both_runs(folder, "mu")
    keep = {name: np.ones(value.shape, bool) for (_, name), value in gradients.items()}
    for (_, name), value in gradients.items():
        keep[name] &= np.abs(value) >= 1e-3 * np.abs(value).max()
    return keep


def test_every_leaf_that_a_loss_can_see_has_a_gradient(folder):
    """So that the comparisons above compare something."""
    zero = {name for (_, name), value in both_runs(folder, "mu")[1].items() if not value.any()}
    assert zero == {"mmdit.null_image"}


def test_leaves_with_a_width_are_really_cut_into_eight(folder):
    """Of the parameters, their averages and both moments, each device holds an eighth."""
    specs = leaf_specs(settings(folder)[0].model)
    shards = arrays(folder / f"shards_{MANY}.npz")
    assert len(shards) == 4 * (len(specs) - 1)  # all but the position table, which is no part of the state
    for name, (size, largest) in shards.items():
        parts = MANY if "width" in specs[name.split(" ")[1]].axes else 1
        assert largest * parts == size, name
    assert {"params t5.embedding", "mu mmdit.blocks.image.qkv.kernel"} <= shards.keys()


def test_eight_devices_load_what_one_saved(folder):
    assert_same_state(arrays(folder / "loaded.npz"), arrays(folder / "found_1.npz"))


def test_one_device_loads_what_eight_saved(folder):
    assert_same_state(load(folder, saved_on=MANY, devices=1), arrays(folder / f"found_{MANY}.npz"))


def assert_same_state(loaded: Arrays, saved: Arrays) -> None:
    """Bit by bit: the checkpoint holds the state after the last step, the model folder its averages."""
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
