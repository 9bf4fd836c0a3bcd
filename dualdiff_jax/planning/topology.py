"""Topologies: devices that are not here, as a compiler sees them, by name.

v5p:4x4x4  v6e:8x8     a TPU slice by its shape (needs the package libtpu)
h100:8  h100:4x8       GPUs of one node; nodes x GPUs of each (needs JAX's CUDA plugin)
"""

import contextlib
import dataclasses
import logging
import os
import re
from collections.abc import Iterator, Sequence
from typing import Any

import jax
from jax.experimental import topologies

from dualdiff_jax.errors import UserError, reason
from dualdiff_jax.hardware import CHIPS, Chip

KNOWN = "v4:2x2x2, v5e:4x4, v5e:8x8, v5e:16x16, v5p:2x2x2, v5p:4x4x4, v6e:4x4, v6e:8x8, v6e:16x16, h100:8, h100:4x8"
TPU_OPTIONS = {"v4": {"chip_config_name": "megacore"}}  # JAX on a v4 treats the two cores of a chip as one device

# The properties of an H100 that XLA needs to compile for it.
H100 = """
gpu_device_info {
  threads_per_block_limit: 1024
  threads_per_warp: 32
  shared_memory_per_block: 49152
  shared_memory_per_core: 233472
  threads_per_core_limit: 2048
  core_count: 132
  fpus_per_core: 128
  block_dim_limit_x: 2147483647
  block_dim_limit_y: 65535
  block_dim_limit_z: 65535
  memory_bandwidth: 3352320000000
  l2_cache_size: 52428800
  clock_rate_ghz: 1.98
  device_memory_size: 84978434048
  shared_memory_per_block_optin: 232448
  cuda_compute_capability { major: 9 minor: 0 }
  registers_per_core_limit: 65536
  registers_per_block_limit: 65536
}
platform_name: "CUDA"
dnn_version_info { major: 9 minor: 10 }
device_description_str: "NVIDIA H100 80GB HBM3"
"""


@dataclasses.dataclass(frozen=True)
class Topology:
    """Devices to compile for."""

    name: str
    chip: Chip
    nodes: int  # groups of devices that a fast network joins
    devices: Sequence[Any]  # device descriptions that ``jax.sharding.Mesh`` accepts


def open_topology(name: str) -> Topology:
    """Looks up a topology.

    Args:
        name: as in the table at the head of this file.

    Raises:
        UserError: the name is unknown, or the compiler for these devices is missing or refuses the shape.
    """
    match = re.fullmatch(r"(\w+):(\d+(?:x\d+)*)", name)
    if not match or match[1] not in CHIPS or not CHIPS[match[1]].memory:
        raise UserError(f"--topology={name}: is unknown; names look like {KNOWN}")
    chip, shape = CHIPS[match[1]], [int(size) for size in match[2].split("x")]
    if chip.platform == "gpu":
        if len(shape) > 2:
            raise UserError(
                f"--topology={name}: give the number of GPUs, or nodes x GPUs of each; names look like {KNOWN}"
            )
        nodes = shape[0] if len(shape) == 2 else 1
        return Topology(name, chip, nodes, _gpus(name, nodes, shape[-1]))
    return Topology(name, chip, 1, _tpus(name, match[1]))


def _tpus(name: str, kind: str) -> Sequence[Any]:
    try:
        import libtpu  # noqa: F401  # pyright: ignore[reportMissingImports]  # optional
    except ImportError:
        raise UserError(f"--topology={name}: needs the TPU compiler; run: pip install libtpu") from None
    try:
        with _quiet():
            return topologies.get_topology_desc(platform="tpu", topology_name=name, **TPU_OPTIONS.get(kind, {})).devices
    except Exception as error:  # the plugin raises many kinds
        raise UserError(
            f"--topology={name}: the TPU compiler refuses this shape ({reason(error)}); names look like {KNOWN}"
        ) from error


def _gpus(name: str, nodes: int, each: int) -> Sequence[Any]:
    try:
        return topologies.get_topology_desc(
            platform="cuda", topology_name="h100", target_config=H100, topology=f"{nodes}x1x{each}"
        ).devices
    except Exception as error:
        raise UserError(
            f"--topology={name}: needs JAX's CUDA plugin; run: pip install 'jax[cuda12]' (or jax[cuda13])"
        ) from error


def quiet_backends() -> None:
    """Starts JAX without its plugins' messages about missing devices."""
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")  # there is no TPU whose metadata could be queried
    os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")  # no TPU to contend for, so several plans may run at once
    logging.getLogger("jax._src.xla_bridge").setLevel(logging.CRITICAL)
    with _quiet():
        jax.devices()


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Discards stderr of the whole process: libtpu writes there that it finds no TPU."""
    saved, null = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 2)
    try:
        yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)
        os.close(null)
