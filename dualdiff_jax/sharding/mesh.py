"""The mesh: all devices of a run, arranged by axis.

Its axes are ``data`` (replicas), ``fsdp`` (parameter shards), ``tensor`` (heads and mlp) and ``context`` (the
sequence). Between nodes (TPU slices, GPU hosts) lies the slow network: ``data`` goes there first, then ``fsdp``;
``tensor`` and ``context`` stay inside a node.
"""

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh

from dualdiff_jax.config import MeshConfig
from dualdiff_jax.errors import UserError
from dualdiff_jax.sharding.rules import MESH_AXES

log = logging.getLogger(__name__)

Sizes = tuple[int, int, int, int]  # one of each of MESH_AXES

# Layout -> sizes of data and fsdp, given the number of nodes; -1 is the rest of the devices.
LAYOUTS: Mapping[str, Callable[[MeshConfig, int], tuple[int, int]]] = {
    "replicated": lambda config, nodes: (-1, 1),
    "fsdp": lambda config, nodes: (1, -1),
    "hybrid": lambda config, nodes: (nodes, -1),
    "sizes": lambda config, nodes: (config.data, config.fsdp),
}


def make_mesh(config: MeshConfig, devices: Sequence[Any] | None = None) -> Mesh:
    """All devices as a mesh over ``MESH_AXES``.

    Args:
        config: The layout, and the sizes that it leaves open.
        devices: As ``jax.devices`` lists them; None takes those of all processes.

    Raises:
        UserError: The sizes do not multiply to the number of devices, or do not fit the nodes.
        ValueError: The layout is unknown.
    """
    devices = list(jax.devices() if devices is None else devices)
    nodes = len(set(nodes_of(devices)))
    sizes = mesh_sizes(config, len(devices), nodes)
    across = _across_nodes(sizes, nodes)
    within = tuple(size // count for size, count in zip(sizes, across, strict=True))
    if nodes > 1:
        is_slice = len({getattr(device, "slice_index", 0) for device in devices}) > 1
        arranged = mesh_utils.create_hybrid_device_mesh(within, across, devices, process_is_granule=not is_slice)
    else:
        arranged = np.asarray(devices).reshape(sizes)
    mesh = Mesh(arranged, MESH_AXES, axis_types=(AxisType.Auto,) * len(MESH_AXES))
    log.info("mesh: %s over %d nodes", ", ".join(f"{n} {s}" for n, s in mesh.shape.items()), nodes)
    return mesh


def mesh_sizes(config: MeshConfig, devices: int, nodes: int) -> Sizes:
    """The size of each mesh axis.

    Args:
        config: The layout, and the sizes that it leaves open.
        devices: Number of all devices.
        nodes: Number of nodes that they are spread over.

    Raises:
        UserError: The sizes do not multiply to ``devices``.
        ValueError: The layout is unknown.
    """
    if config.layout not in LAYOUTS:
        raise ValueError(f"mesh layout {config.layout!r} is none of {', '.join(LAYOUTS)}")
    sizes = (*LAYOUTS[config.layout](config, nodes), config.tensor, config.context)
    known = math.prod(size for size in sizes if size != -1)
    if devices % known or (-1 not in sizes and known != devices):
        named = zip(MESH_AXES, sizes, strict=True)
        product = ", ".join(f"{name} {'the rest' if size == -1 else size}" for name, size in named)
        divisors = [n for n in range(1, devices + 1) if devices % n == 0]
        raise UserError(
            f"mesh: {product} does not fit {devices} devices; their product must be {devices}"
            f" (sizes that divide it: {', '.join(map(str, divisors))}), or give one axis -1 for the rest"
        )
    data, fsdp, tensor, context = (devices // known if size == -1 else size for size in sizes)
    return data, fsdp, tensor, context


def nodes_of(devices: Sequence[Any]) -> list[int]:
    """The node of each device. A fast network joins the devices of one node.

    TPU slices and NVLink domains are numbered by their devices (``slice_index``). Where GPUs have no such numbers,
    each process is a node, provided that some process has several devices.
    """
    slices = [getattr(device, "slice_index", 0) for device in devices]
    processes = [device.process_index for device in devices]
    if len(set(slices)) > 1 or devices[0].platform != "gpu" or len(set(processes)) == len(devices):
        return slices
    return processes


def _across_nodes(sizes: Sizes, nodes: int) -> Sizes:
    """How much of each axis lies between nodes: as much of ``data`` as divides, the rest of ``fsdp``."""
    data = math.gcd(sizes[0], nodes)
    fsdp = nodes // data
    if sizes[1] % fsdp:
        raise UserError(
            f"mesh: data {sizes[0]} and fsdp {sizes[1]} cannot span {nodes} nodes; tensor and context must lie inside "
            f"a node, so data * fsdp must be a multiple of {nodes}"
        )
    return data, fsdp, 1, 1
