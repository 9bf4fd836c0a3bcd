"""The facts of each chip, once: for the MFU of a training run, and for plans on chips that are not here.

The figures are from the vendors' data sheets, for one device: dense bfloat16 operations, memory, memory bandwidth,
and the bandwidth to devices of the same slice or node and to other nodes. The memory of a TPU is the part that its
compiler leaves to a program.
"""

import dataclasses

GIB = 1 << 30


@dataclasses.dataclass(frozen=True)
class Network:
    """Bytes per second that one device sends."""

    within: float  # to the devices of the same slice or node
    across: float  # to other nodes


@dataclasses.dataclass(frozen=True)
class Chip:
    """Facts of one device."""

    name: str  # in reports
    kinds: tuple[str, ...]  # prefixes of its ``jax.Device.device_kind``
    platform: str  # ``gpu`` or ``tpu``, which decides attention kernels and compiler flags
    flops: float  # dense bfloat16 operations per second
    memory: int = 0  # bytes; 0 if the project makes no plans for this chip
    bandwidth: float = 0.0  # bytes per second
    network: Network = Network(0.0, 0.0)


# By the first part of a topology's name. Plans can be made for chips with memory.
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
    """Dense bfloat16 operations per second of a ``jax.Device.device_kind``; None for an unknown device."""
    found = [(len(kind), chip.flops) for chip in CHIPS.values() for kind in chip.kinds if device_kind.startswith(kind)]
    return max(found)[1] if found else None  # the longest prefix: "TPU v5" is also one of "TPU v5 lite"
