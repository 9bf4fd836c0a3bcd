"""Where arrays live: the mesh, and the one table from logical axes to mesh axes.

A parameter names what each of its dims *is* (``width``, ``heads``, ...); this table alone says where
that goes. Changing the strategy is changing the table.
"""

import logging
import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from dualdiff_jax.config import MeshConfig
from dualdiff_jax.errors import UserError

log = logging.getLogger(__name__)

MESH_AXES = ("data", "fsdp", "tensor", "context")

RULES: Mapping[str, str | tuple[str, ...] | None] = {
    "batch": ("data", "fsdp"),
    "sequence": "context",
    "width": "fsdp",
    "heads": "tensor",
    "mlp": "tensor",
    "vocab": "tensor",
    "head_dim": None,
    "layers": None,
    "patch": None,  # patch * patch * channels
    "frequency": None,  # of the timestep's sinusoids
    "text_width": None,  # T5's width where it enters the MMDiT, whose own width is sharded
    "projection": None,  # q, k, v; gate and value; the six modulation vectors
    "modulated": None,  # the width that a modulation vector acts on
    "bucket": None,  # relative distances
    "token": None,  # null image tokens
    "row": None,  # of the position table
    "column": None,
}

SMALL_LEAF = 1 << 16  # elements; a leaf below this may stay whole where its dims do not divide


def make_mesh(config: MeshConfig, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """All ``devices`` (default: every one there is) as a mesh over ``MESH_AXES``.

    Raises ``UserError`` where the sizes do not multiply to the number of devices.
    """
    devices = list(jax.devices() if devices is None else devices)
    fsdp = len(devices) if config.fsdp == -1 else config.fsdp
    if fsdp != len(devices):
        raise UserError(
            f"mesh.fsdp is {fsdp}, but there are {len(devices)} devices; give {len(devices)}, or -1 for all"
        )
    shape = (1, fsdp, 1, 1)
    return Mesh(np.asarray(devices).reshape(shape), MESH_AXES, axis_types=(AxisType.Auto,) * len(MESH_AXES))


def partition_spec(axes: Sequence[str | None]) -> PartitionSpec:
    """The table's answer for one array. Raises ``ValueError`` if two dims claim one mesh axis."""
    spec = tuple(None if axis is None else RULES[axis] for axis in axes)
    claimed = [name for entry in spec if entry for name in ((entry,) if isinstance(entry, str) else entry)]
    for name in set(claimed):
        if claimed.count(name) > 1:
            raise ValueError(f"two dims of logical axes {tuple(axes)} both go to mesh axis {name!r}")
    return PartitionSpec(*spec)


def leaf_sharding(mesh: Mesh, name: str, shape: Sequence[int], axes: Sequence[str | None]) -> NamedSharding:
    """The sharding of the leaf ``name``; a small leaf whose dims do not divide is replicated."""
    spec = partition_spec(axes)
    for size, entry, axis in zip(shape, spec, axes, strict=True):
        parts = _parts(mesh, entry)
        if size % parts:
            if math.prod(shape) >= SMALL_LEAF:
                raise UserError(
                    f"{name}: {axis} has size {size}, which does not divide over the {parts} devices of mesh axis "
                    f"{entry!r}; choose a number of devices that divides {size}"
                )
            log.info("%s %s stays whole on every device: %s %d does not divide by %d", name, shape, axis, size, parts)
            return replicated(mesh)
    return NamedSharding(mesh, spec)


def _parts(mesh: Mesh, entry: str | tuple[str, ...] | None) -> int:
    names = () if entry is None else (entry,) if isinstance(entry, str) else entry
    return math.prod(mesh.shape[name] for name in names)


def replicated(mesh: Mesh) -> NamedSharding:
    return NamedSharding(mesh, PartitionSpec())


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """For arrays whose leading dim is the batch."""
    return NamedSharding(mesh, partition_spec(("batch",)))


def place_batch(mesh: Mesh, batch: Any) -> Any:
    """This host's rows of a pytree of batches, as arrays over the whole mesh."""
    sharding = batch_sharding(mesh)
    return jax.tree.map(lambda rows: jax.make_array_from_process_local_data(sharding, rows), batch)


def check_batch(mesh: Mesh, size: int, name: str) -> None:
    """Raises ``UserError`` unless a batch of ``size`` divides over the mesh."""
    parts = _parts(mesh, RULES["batch"])
    if size % parts:
        raise UserError(f"{name} is {size}, which does not divide over {parts} devices; give a multiple of {parts}")
