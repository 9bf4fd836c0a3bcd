"""However eight devices share the work, and whatever is recomputed to save memory, the step is that of one device.

The cases in ``QUICK`` are part of every run of the tests; the others are slow.
"""

import functools
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.multidevice.eight import run_module
from tests.multidevice.layouts import CASES, MANY, REFERENCE

BOUND = 1e-5


QUICK = (REFERENCE, "data 2, fsdp 2, tensor 2", "fsdp 4, context 2", "microbatches 4, fsdp 2")
NUMBERS = {name: str(number) for number, name in enumerate(CASES)}
SLOW_CASES = {name: pytest.param(name, marks=pytest.mark.slow) for name in CASES if name not in QUICK}


def cases(*names: str):
    """A parametrization over ``names``, in which the slow ones are marked."""
    return pytest.mark.parametrize("case", [SLOW_CASES.get(name, name) for name in names])


@pytest.fixture(scope="module")
def file_of(tmp_path_factory) -> Callable[[str, str], Path]:
    """A function (case, ending) -> its file; the first call for a quick or a slow case computes all of its group."""
    folder = tmp_path_factory.mktemp("layouts")

    def file_of(case: str, ending: str) -> Path:
        file = folder / f"{NUMBERS[case]}{ending}"
        if not file.exists():
            group = QUICK if case in QUICK else SLOW_CASES
            run_module("tests.multidevice.layouts", folder, MANY, *(NUMBERS[name] for name in group))
        return file

    return file_of


@pytest.fixture(scope="module")
def found(file_of) -> Callable[[str], dict[str, np.ndarray]]:
    """A function: case -> its arrays."""
    return functools.cache(lambda case: dict(np.load(file_of(case, ".npz"))))


def found_placements(file_of, case: str) -> dict:
    return json.loads(file_of(case, ".json").read_text())


def parts(found: dict[str, np.ndarray], *names: str) -> dict[str, np.ndarray]:
    return {key: value for key, value in found.items() if key.split(" ")[0] in names}


def far(found: dict[str, np.ndarray], expected: dict[str, np.ndarray], bound: float = BOUND) -> dict[str, float]:
    """Name -> norm of the difference over the norm, for those above the bound."""
    assert found.keys() == expected.keys() and expected
    errors = {}
    for name in expected:
        size = np.linalg.norm(expected[name])
        errors[name] = float(np.linalg.norm(found[name] - expected[name]) / (size or 1.0))
    return {name: error for name, error in errors.items() if not error <= bound}


CHANGED = [name for name in CASES if name != REFERENCE]


@cases(*CHANGED)
def test_losses_and_gradients(found, case):
    """The first moment is a tenth of the clipped gradient. The update's norm includes entries that are rounding."""
    expected = parts(found(REFERENCE), "metrics", "mu", "nu")
    expected = {name: value for name, value in expected.items() if "update_norm" not in name}
    assert not far({name: found(case)[name] for name in expected}, expected)


@cases(*CHANGED)
def test_updates_and_averages(found, case):
    """Where a gradient is above a thousandth of its leaf's largest: AdamW divides a smaller one by its own size."""
    reference, compared, all_of_them = found(REFERENCE), 0, 0
    for part in ("params", "ema_params"):
        ours, theirs = {}, {}
        for name, value in parts(reference, part).items():
            gradient = np.abs(reference[name.replace(part, "mu", 1)])
            keep = gradient >= 1e-3 * gradient.max()
            ours[name], theirs[name] = found(case)[name][keep], value[keep]
            compared, all_of_them = compared + keep.sum(), all_of_them + keep.size
        assert not far(ours, theirs)
    assert compared > 0.8 * all_of_them


@cases("fsdp", "data 2, fsdp 2, tensor 2", "fsdp 4, context 2", "microbatches 2")
def test_a_case_does_not_compute_the_same_way(found, case):
    """The order of sums differs: equality to the bit everywhere would mean that a case changes nothing."""
    reference = parts(found(REFERENCE), "mu")
    assert any(not np.array_equal(found(case)[name], value) for name, value in reference.items())


# Case -> leaf -> (mesh axes of each dim, times by which each dim is smaller on one device).
KERNEL, EMBEDDING, HEAD = "mmdit.blocks.image.mlp_in.kernel", "t5.embedding", "mmdit.blocks.text.qkv.kernel"
PLACEMENTS = {
    "replicated": {KERNEL: ([None, "fsdp", "tensor"], [1, 1, 1]), EMBEDDING: (["tensor", "fsdp"], [1, 1])},
    "fsdp": {KERNEL: ([None, "fsdp", "tensor"], [1, 8, 1]), EMBEDDING: (["tensor", "fsdp"], [1, 8])},
    "data 2, fsdp 2, tensor 2": {
        KERNEL: ([None, "fsdp", "tensor"], [1, 2, 2]),
        HEAD: ([None, "fsdp", None, "tensor", None], [1, 2, 1, 2, 1]),
    },
    "fsdp 4, context 2": {KERNEL: ([None, "fsdp", "tensor"], [1, 4, 1]), EMBEDDING: (["tensor", "fsdp"], [1, 4])},
    "fsdp 4, context 2, other rules": {
        KERNEL: ([None, ["fsdp", "context"], None], [1, 8, 1]),
        EMBEDDING: ([None, ["fsdp", "context"]], [1, 8]),
        HEAD: ([None, ["fsdp", "context"], None, "tensor", None], [1, 8, 1, 1, 1]),
    },
    "blocks in a loop, fsdp, remat dots": {KERNEL: ([None, "fsdp", "tensor"], [1, 8, 1])},
}


@cases(*PLACEMENTS)
def test_placements(file_of, case):
    """Parameters, averages and moments lie where the table puts them, and the step leaves them there."""
    where = found_placements(file_of, case)
    for part in ("params", "ema_params", "mu", "nu"):
        for leaf, (spec, parts) in PLACEMENTS[case].items():
            array = where[f"{part} {leaf}"]
            assert array["spec"] == spec, (part, leaf)
            assert [size * n for size, n in zip(array["shard"], parts, strict=True)] == array["shape"], (part, leaf)


PARTS = {"replicated": 8, "data 2, fsdp 2, tensor 2": 4, "fsdp 4, context 2": 4}


@cases(*PARTS)
def test_batches_are_split_over_data_and_fsdp_alone(file_of, case):
    where, parts = found_placements(file_of, case), PARTS[case]
    batch = {name: array for name, array in where.items() if name.startswith("batch ")}
    assert len(batch) == 6
    for name, array in batch.items():
        assert array["spec"][0] == ["data", "fsdp"] and array["shard"][0] * parts == MANY, name
        assert array["shard"][1:] == array["shape"][1:], name
