"""However eight devices share the work, and whatever is recomputed to save memory, the step is that of one device."""

import json
from pathlib import Path

import numpy as np
import pytest

from tests.multidevice.eight import run_module
from tests.multidevice.layouts import CASES, MANY, REFERENCE

BOUND = 1e-5


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """The files of every case."""
    folder = tmp_path_factory.mktemp("layouts")
    run_module("tests.multidevice.layouts", folder, MANY)
    return folder


@pytest.fixture(scope="module")
def found(folder) -> dict[str, dict[str, np.ndarray]]:
    return {name: dict(np.load(folder / f"{number}.npz")) for number, name in enumerate(CASES)}


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


@pytest.mark.parametrize("case", CHANGED)
def test_losses_and_gradients(found, case):
    """The first moment is a tenth of the clipped gradient. The update's norm includes entries that are rounding."""
    expected = parts(found[REFERENCE], "metrics", "mu", "nu")
    expected = {name: value for name, value in expected.items() if "update_norm" not in name}
    assert not far({name: found[case][name] for name in expected}, expected)


@pytest.mark.parametrize("case", CHANGED)
def test_updates_and_averages(found, case):
    """Where a gradient is above a thousandth of its leaf's largest: AdamW divides a smaller one by its own size."""
    reference, compared, all_of_them = found[REFERENCE], 0, 0
    for part in ("params", "ema_params"):
        ours, theirs = {}, {}
        for name, value in parts(reference, part).items():
            gradient = np.abs(reference[name.replace(part, "mu", 1)])
            keep = gradient >= 1e-3 * gradient.max()
            ours[name], theirs[name] = found[case][name][keep], value[keep]
            compared, all_of_them = compared + keep.sum(), all_of_them + keep.size
        assert not far(ours, theirs)
    assert compared > 0.8 * all_of_them


def test_the_cases_do_not_all_compute_the_same_way(found):
    """The order of sums differs: equality to the bit everywhere would mean that a case changes nothing."""
    reference = parts(found[REFERENCE], "mu")
    for case in ("fsdp", "data 2, fsdp 2, tensor 2", "fsdp 4, context 2", "microbatches 2"):
        assert any(not np.array_equal(found[case][name], value) for name, value in reference.items()), case


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


@pytest.mark.parametrize("case", PLACEMENTS)
def test_placements(folder, case):
    """Parameters, averages and moments lie where the table puts them, and the step leaves them there."""
    where = json.loads((folder / f"{list(CASES).index(case)}.json").read_text())
    for part in ("params", "ema_params", "mu", "nu"):
        for leaf, (spec, parts) in PLACEMENTS[case].items():
            array = where[f"{part} {leaf}"]
            assert array["spec"] == spec, (part, leaf)
            assert [size * n for size, n in zip(array["shard"], parts, strict=True)] == array["shape"], (part, leaf)


@pytest.mark.parametrize("case, parts", [("replicated", 8), ("data 2, fsdp 2, tensor 2", 4), ("fsdp 4, context 2", 4)])
def test_batches_are_split_over_data_and_fsdp_alone(folder, case, parts):
    where = json.loads((folder / f"{list(CASES).index(case)}.json").read_text())
    batch = {name: array for name, array in where.items() if name.startswith("batch ")}
    assert len(batch) == 6
    for name, array in batch.items():
        assert array["spec"][0] == ["data", "fsdp"] and array["shard"][0] * parts == MANY, name
        assert array["shard"][1:] == array["shape"][1:], name
