"""Topologies: devices that are not here, as a compiler sees them, by name.

v5p:4x4x4  v6e:8x8  tpu7x:2x2x1  a TPU slice by its shape (needs the package libtpu); each chip of tpu7x is two devices
h100:8  h100:4x8                 GPUs of one node; nodes x GPUs of each (needs JAX's CUDA plugin)
"""

import contextlib
import dataclasses
import importlib.util
import logging
import os
import re
from collections.abc import Iterator, Sequence
from typing import Any

import jax
from jax.experimental import topologies

from dualdiff_jax.errors import UserError, reason
from dualdiff_jax.hardware import CHIPS, Chip
from dualdiff_jax.planning.gpu_targets import GPU_TARGETS

KNOWN = (
    "v4:2x2x2, v5e:4x4, v5e:8x8, v5e:16x16, v5p:2x2x2, v5p:4x4x4, v6e:4x4, v6e:8x8, v6e:16x16, tpu7x:2x2x1, "
    "a100:8, h100:8, h100:4x8, h200:8, b200:8, gb200:72"
)
GPUS_OF_A_NODE = {"gb200": 72}  # that NVLink joins
OTHERWISE = 8  # GPUs of a node
CUDA_PLUGINS = ("jax_cuda12_plugin", "jax_cuda13_plugin")
TPU_OPTIONS = {"v4": {"chip_config_name": "megacore"}}  # JAX on a v4 treats the two cores of a chip as one device


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
    if not match or match[1] not in CHIPS:
        raise UserError(f"--topology={name}: is unknown; names look like {KNOWN}")
    chip, shape = CHIPS[match[1]], [int(size) for size in match[2].split("x")]
    if 0 in shape:
        raise UserError(f"--topology={name}: has no devices; names look like {KNOWN}")
    if chip.platform == "gpu":
        if len(shape) > 2:
            raise UserError(
                f"--topology={name}: give the number of GPUs, or nodes x GPUs of each; names look like {KNOWN}"
            )
        nodes, most = shape[0] if len(shape) == 2 else 1, GPUS_OF_A_NODE.get(match[1], OTHERWISE)
        if shape[-1] > most:
            instead = f"{match[1]}:{-(-nodes * shape[-1] // most)}x{most}"
            raise UserError(f"--topology={name}: a node has up to {most} GPUs; give nodes x GPUs, as in {instead}")
        return Topology(name, chip, nodes, _gpus(name, match[1], nodes, shape[-1]))
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


def _gpus(name: str, kind: str, nodes: int, each: int) -> Sequence[Any]:
    if not any(map(importlib.util.find_spec, CUDA_PLUGINS)):
        raise UserError(f"--topology={name}: needs JAX's CUDA plugin; run: pip install 'jax[cuda12]' (or jax[cuda13])")
    try:
        return topologies.get_topology_desc(
            platform="cuda",
            topology_name=kind,
            target_config=GPU_TARGETS[kind].text,
            topology=f"{nodes}x1x{each}",
        ).devices
    except Exception as error:  # the plugin raises many kinds
        raise UserError(
            f"--topology={name}: the CUDA compiler refuses this shape ({reason(error)}); names look like {KNOWN}"
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
