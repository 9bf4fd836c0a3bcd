"""What a device can do, each chip's facts once: for MFU while a run trains, and for plans of chips that are not here.

Figures are the vendors' data sheets': dense bfloat16 operations, memory and its bandwidth of one device, and what
one device sends to its neighbours inside a slice or node, and to other nodes. Of a TPU's memory it is what the
compiler leaves to a program.
"""

import dataclasses

GIB = 1 << 30


@dataclasses.dataclass(frozen=True)
class Network:
    """Bytes a second that one device sends."""

    within: float  # to the devices of the same slice or node
    across: float  # to other nodes


@dataclasses.dataclass(frozen=True)
class Chip:
    """One device."""

    name: str  # as reports say it
    kinds: tuple[str, ...]  # how its ``jax.Device.device_kind`` begins
    platform: str  # ``gpu`` or ``tpu``: attention kernels and compiler flags are chosen by it
    flops: float  # dense bfloat16 operations a second
    memory: int = 0  # bytes; 0 where no plan can be made for it
    bandwidth: float = 0.0  # bytes a second
    network: Network = Network(0.0, 0.0)


# By the name that a topology begins with. Those with memory can be planned for.
CHIPS = {
    "v4": Chip("TPU v4", ("TPU v4",), "tpu", 275e12, int(30.75 * GIB), 1.23e12, Network(3.0e11, 6.25e9)),
    "v5e": Chip(
        "TPU v5e", ("TPU v5 lite", "TPU v5e"), "tpu", 197e12, int(15.75 * GIB), 8.19e11, Network(2.0e11, 6.25e9)
    ),
    "v5p": Chip("TPU v5p", ("TPU v5",), "tpu", 459e12, int(95.73 * GIB), 2.765e12, Network(6.0e11, 6.25e9)),
    "v6e": Chip("TPU v6e", ("TPU v6",), "tpu", 918e12, int(31.24 * GIB), 1.638e12, Network(4.48e11, 1.25e10)),
    "v7x": Chip("TPU v7x", ("TPU7x",), "tpu", 2307e12),
    "a100": Chip("NVIDIA A100", ("NVIDIA A100",), "gpu", 312e12),
    "h100": Chip("NVIDIA H100 SXM", ("NVIDIA H100",), "gpu", 989e12, 80 * 10**9, 3.35e12, Network(4.5e11, 5.0e10)),
    "h200": Chip("NVIDIA H200", ("NVIDIA H200",), "gpu", 989e12),
    "b200": Chip("NVIDIA B200", ("NVIDIA B200",), "gpu", 2250e12),
}


def peak_flops(device_kind: str) -> float | None:
    """Dense bfloat16 operations a second of a ``jax.Device.device_kind``; None where it is not known."""
    found = [(len(kind), chip.flops) for chip in CHIPS.values() for kind in chip.kinds if device_kind.startswith(kind)]
    return max(found)[1] if found else None  # the longest: "TPU v5 lite" is no "TPU v5"
