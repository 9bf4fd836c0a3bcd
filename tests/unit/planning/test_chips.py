"""The facts of the chips agree with each other."""

import pytest

from dualdiff_jax.hardware import CHIPS, peak_flops
from dualdiff_jax.planning.gpu_targets import GPU_TARGETS

GPUS = [name for name, chip in CHIPS.items() if chip.platform == "gpu"]


def test_every_gpu_can_be_planned_for():
    assert sorted(GPU_TARGETS) == sorted(GPUS)


@pytest.mark.parametrize("name", GPUS)
def test_what_the_compiler_is_told_agrees_with_the_data_sheet(name):
    chip, target = CHIPS[name], GPU_TARGETS[name]
    assert target.bandwidth == pytest.approx(chip.bandwidth, rel=0.05)
    assert 1.0 <= target.memory / chip.memory < 1.1
    assert target.name.startswith(chip.kinds[0])  # as the device would name itself
    for line in (f"core_count: {target.cores}\n", f"major: {target.capability} ", f'"{target.name}"'):
        assert line in target.text


@pytest.mark.parametrize("name", [name for name in CHIPS if name not in GPUS])
def test_a_tpus_clock_fits_its_peak(name):
    """A matrix unit multiplies and adds 128 x 128 or 256 x 256 numbers a cycle; a chip has a small number of them."""
    units = CHIPS[name].flops / CHIPS[name].clock / (2 * 128 * 128)
    assert min(abs(units / count - 1) for count in (4, 8, 16)) < 0.01


@pytest.mark.parametrize(
    "kind, peak",
    [
        ("TPU7x", 1153.5e12),  # half a chip
        ("TPU v6 lite", 918e12),
        ("NVIDIA A100-SXM4-80GB", 312e12),
        ("NVIDIA H100 80GB HBM3", 989e12),
        ("NVIDIA H100 PCIe", None),
        ("NVIDIA H100 NVL", None),
        ("NVIDIA H200", 989e12),
        ("NVIDIA H200 NVL", None),
        ("NVIDIA B200", 2250e12),
        ("NVIDIA GB200", 2500e12),
        ("NVIDIA B300", None),
    ],
)
def test_the_peak_of_a_device_by_its_kind(kind, peak):
    assert peak_flops(kind) == peak
