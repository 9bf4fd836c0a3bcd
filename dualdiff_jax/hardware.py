"""The facts of each chip, once: for the MFU of a training run, and for plans on chips that are not here.

The figures are the vendors', for one device as JAX counts devices: dense bfloat16 operations, memory, memory bandwidth,
and the bandwidth that a device sends with, to devices of the same slice or node and to other nodes. The memory of a TPU
is the part that its compiler leaves to a program. A TPU's clock follows from its peak and the size of its matrix units.

TPUs: cloud.google.com/tpu/docs/v4, v5e, v5p, v6e and tpu7x, the tables named "System architecture". They give the
bandwidth between chips in both directions together, of which a device sends half.
GPUs: NVIDIA's data sheets of the A100 80GB SXM, H100 SXM, H200 SXM, DGX B200 (eighths of the system) and GB200 NVL72
(72nds of the system). They give operations with sparsity, twice the dense ones, and NVLink in both directions together.
Other nodes are reached by one network card a GPU, as in NVIDIA's reference systems: 200 Gb/s beside an A100, 400 Gb/s
beside the others.
"""

import dataclasses
from typing import Any

GIB = 1 << 30
GB = 10**9


@dataclasses.dataclass(frozen=True)
class Network:
    """Bytes per second that one device sends."""

    within: float  # to the devices of the same slice or node
    across: float  # to other nodes

    def seconds(self, sent: float, across: float) -> float:
        """How long a device sends ``sent`` bytes, ``across`` of them to other nodes."""
        return (sent - across) / self.within + across / self.across


@dataclasses.dataclass(frozen=True)
class Chip:
    """Facts of one device."""

    name: str  # in reports
    kinds: tuple[str, ...]  # prefixes of its ``jax.Device.device_kind``
    platform: str  # ``gpu`` or ``tpu``, which decides attention kernels and compiler flags
    flops: float  # dense bfloat16 operations per second
    memory: int  # bytes
    bandwidth: float  # bytes per second
    network: Network
    clock: float = 0.0  # cycles per second, of TPUs, whose compiler estimates cycles


# By the first part of a topology's name.
CHIPS = {
    "v4": Chip("TPU v4", ("TPU v4",), "tpu", 275e12, int(30.75 * GIB), 1.23e12, Network(3.0e11, 6.25e9), 1.05e9),
    "v5e": Chip(
        "TPU v5e", ("TPU v5 lite", "TPU v5e"), "tpu", 197e12, int(15.75 * GIB), 8.19e11, Network(2.0e11, 6.25e9), 1.5e9
    ),
    "v5p": Chip("TPU v5p", ("TPU v5",), "tpu", 459e12, int(95.73 * GIB), 2.765e12, Network(6.0e11, 6.25e9), 1.75e9),
    "v6e": Chip("TPU v6e", ("TPU v6",), "tpu", 918e12, int(31.24 * GIB), 1.638e12, Network(4.0e11, 1.25e10), 1.75e9),
    # Ironwood. A chip is two devices, each with half of its 2,307 TFLOP/s, 192 GiB, 7.38 TB/s and network.
    "tpu7x": Chip(
        "TPU v7x (half a chip)", ("TPU7x",), "tpu", 1153.5e12, int(94.74 * GIB), 3.69e12, Network(3.0e11, 6.25e9), 2.2e9
    ),
    "a100": Chip("NVIDIA A100 SXM", ("NVIDIA A100",), "gpu", 312e12, 80 * GB, 2.039e12, Network(3.0e11, 2.5e10)),
    "h100": Chip("NVIDIA H100 SXM", ("NVIDIA H100",), "gpu", 989e12, 80 * GB, 3.35e12, Network(4.5e11, 5.0e10)),
    "h200": Chip("NVIDIA H200 SXM", ("NVIDIA H200",), "gpu", 989e12, 141 * GB, 4.8e12, Network(4.5e11, 5.0e10)),
    "b200": Chip("NVIDIA B200", ("NVIDIA B200",), "gpu", 2250e12, 180 * GB, 8.0e12, Network(9.0e11, 5.0e10)),
    "gb200": Chip("NVIDIA GB200", ("NVIDIA GB200",), "gpu", 2500e12, 186 * GB, 8.0e12, Network(9.0e11, 5.0e10)),
}


# Cards with a lower peak, memory and network than the SXM module of the same name, to which the figures above belong.
_OTHER_BOARDS = ("H100 PCIe", "H100 NVL", "H200 NVL")


def peak_flops(device_kind: str) -> float | None:
    """Dense bfloat16 operations per second of a ``jax.Device.device_kind``; None for an unknown device."""
    chip = chip_of(device_kind)
    return chip.flops if chip else None


def chip_of(device_kind: str) -> Chip | None:
    """The chip of a ``jax.Device.device_kind``; None for an unknown one, such as a PCIe or NVL card of Hopper."""
    if device_kind.endswith(_OTHER_BOARDS):
        return None
    found = {kind: chip for chip in CHIPS.values() for kind in chip.kinds if device_kind.startswith(kind)}
    return found[max(found, key=len)] if found else None  # "TPU v5" is also a prefix of "TPU v5 lite"


def memory_limit(device: Any) -> int:
    """Bytes that JAX may use of a ``jax.Device``; 0 where it does not say, as on a CPU."""
    return int((device.memory_stats() or {}).get("bytes_limit", 0)) if device.platform != "cpu" else 0
