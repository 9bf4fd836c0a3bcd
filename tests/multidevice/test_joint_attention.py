"""The TPU's kernel over both streams gives on eight devices what it gives on one; each device runs it on its share."""

import json

import numpy as np
import pytest

from tests.multidevice.eight import run_module
from tests.multidevice.joint_attention import BATCH, HEAD_DIM, HEADS, LAYOUTS, LENGTHS


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("joint_attention")
    run_module("tests.multidevice.joint_attention", folder, 8)
    return folder


@pytest.mark.parametrize("layout", [name for name in LAYOUTS if name != "one device"])
def test_outputs_and_gradients_are_those_of_one_device(folder, layout):
    with np.load(folder / f"{layout}.npz") as found, np.load(folder / "one device.npz") as expected:
        assert len(expected.files) == 4
        for name in expected.files:
            assert np.linalg.norm(found[name] - expected[name]) <= 2e-6 * np.linalg.norm(expected[name])


def test_each_device_runs_the_kernel_on_its_examples_and_heads_and_shared_sequences_go_elsewhere(folder):
    taken = json.loads((folder / "taken.json").read_text())
    shape = [3, LENGTHS[0]]
    assert taken["fsdp"] == [[BATCH // 4, *shape, HEADS * HEAD_DIM]]
    assert taken["fsdp and tensor"] == [[BATCH // 4, *shape, HEADS * HEAD_DIM // 2]]
    assert taken["context"] == []
