"""Where arrays live: the mesh, and the one table from logical axes to mesh axes.

A parameter names what each of its dims *is* (``width``, ``heads``, ...); this table alone says where
that goes. Activations name theirs too (``constrain``). Changing the strategy is changing the table.

The mesh has the axes ``data`` (replicas), ``fsdp`` (parameter shards), ``tensor`` (heads and mlp) and
``context`` (the sequence). Between nodes (TPU slices, GPU hosts) lies the slow network: ``data`` goes
there first, then ``fsdp``; ``tensor`` and ``context`` stay inside a node.
"""

import functools
import logging
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import mesh_utils
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
    "activation": None,  # the width of an activation, whose batch is sharded
    "patch": None,  # patch * patch * channels
    "frequency": None,  # of the timestep's sinusoids
    "text_width": None,  # T5's width where it enters the MMDiT, whose own width is sharded
    "projection": None,  # q, k, v; gate and value; the six modulation vectors
    "modulated": None,  # the width that a modulation vector acts on
    "bucket": None,  # relative distances
    "token": None,  # null image tokens
    "row": None,  # of the position table, or of a convolution's kernel
    "column": None,
    "channel": None,  # inputs of a convolution, whose outputs are sharded
}

STREAM_AXES = ("batch", "sequence", "activation")  # of a residual stream (b, s, d)
SMALL_LEAF = 1 << 20  # elements; a leaf below this may stay whole where its dims do not divide


def make_mesh(config: MeshConfig, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """All ``devices`` (default: every one there is) as a mesh over ``MESH_AXES``.

    Raises ``UserError`` where the sizes do not multiply to the number of devices, or do not fit its nodes.
    """
    devices = list(jax.devices() if devices is None else devices)
    node_of = nodes_of(devices)
    nodes = len(set(node_of))
    sizes = mesh_sizes(config, len(devices), nodes)
    across = _across_nodes(sizes, nodes)
    within = tuple(size // over for size, over in zip(sizes, across, strict=True))
    if nodes > 1:
        is_slice = len({getattr(device, "slice_index", 0) for device in devices}) > 1
        arranged = mesh_utils.create_hybrid_device_mesh(within, across, devices, process_is_granule=not is_slice)
    else:
        arranged = np.asarray(devices).reshape(sizes)
    mesh = Mesh(arranged, MESH_AXES, axis_types=(AxisType.Auto,) * len(MESH_AXES))
    log.info("mesh: %s over %d nodes", ", ".join(f"{n} {s}" for n, s in mesh.shape.items()), nodes)
    return mesh


def mesh_sizes(config: MeshConfig, devices: int, nodes: int) -> tuple[int, int, int, int]:
    """The size of each mesh axis for so many devices; ``UserError`` where they cannot be met."""
    data, fsdp, tensor, context = config.data, config.fsdp, config.tensor, config.context
    if config.layout == "replicated":
        data, fsdp = -1, 1
    elif config.layout == "fsdp":
        data, fsdp = 1, -1
    elif config.layout == "hybrid":
        data, fsdp = nodes, -1
    sizes = [data, fsdp, tensor, context]
    known = math.prod(size for size in sizes if size != -1)
    said = ", ".join(
        f"{name} {'the rest' if size == -1 else size}" for name, size in zip(MESH_AXES, sizes, strict=True)
    )
    if devices % known or (-1 not in sizes and known != devices):
        divisors = [n for n in range(1, devices + 1) if devices % n == 0]
        raise UserError(
            f"mesh: {said} does not fit {devices} devices; their product must be {devices}"
            f" (sizes that divide it: {', '.join(map(str, divisors))}), or give one axis -1 for the rest"
        )
    return tuple(devices // known if size == -1 else size for size in sizes)


def nodes_of(devices: Sequence[jax.Device]) -> list[int]:
    """The node of each device: a part that a fast network joins. TPU slices and NVLink domains say so themselves.

    GPUs that do not are taken process by process, if a process has several.
    """
    slices = [getattr(device, "slice_index", 0) for device in devices]
    processes = [device.process_index for device in devices]
    if len(set(slices)) > 1 or devices[0].platform != "gpu" or len(set(processes)) == len(devices):
        return slices
    return processes


def _across_nodes(sizes: Sequence[int], nodes: int) -> tuple[int, int, int, int]:
    """How much of each axis lies between nodes: of ``data`` what it can, of ``fsdp`` what is left."""
    data = math.gcd(sizes[0], nodes)
    fsdp = nodes // data
    if sizes[1] % fsdp:
        raise UserError(
            f"mesh: data {sizes[0]} and fsdp {sizes[1]} cannot span {nodes} nodes; tensor and context must lie inside "
            f"a node, so data * fsdp must be a multiple of {nodes}"
        )
    return data, fsdp, 1, 1


def partition_spec(axes: Sequence[str | None]) -> PartitionSpec:
    """The table's answer for one array. Raises ``ValueError`` if two dims claim one mesh axis."""
    spec = tuple(None if axis is None else RULES[axis] for axis in axes)
    claimed = [name for entry in spec if entry for name in ((entry,) if isinstance(entry, str) else entry)]
    for name in set(claimed):
        if claimed.count(name) > 1:
            raise ValueError(f"two dims of logical axes {tuple(axes)} both go to mesh axis {name!r}")
    return PartitionSpec(*spec)


def leaf_sharding(mesh: Mesh, name: str, shape: Sequence[int], axes: Sequence[str | None]) -> NamedSharding:
    """The sharding of the leaf ``name``; a dim that does not divide stays whole, which for a large leaf is an error."""
    spec = list(partition_spec(axes))
    for dim, (size, entry, axis) in enumerate(zip(shape, spec, axes, strict=True)):
        parts = _parts(mesh, entry)
        if size % parts:
            if math.prod(shape) >= SMALL_LEAF:
                raise UserError(
                    f"{name}: {axis} has size {size}, which does not divide over the {parts} devices of mesh axis "
                    f"{entry!r}; choose a size of it that divides {size}"
                )
            log.info("%s %s stays whole along %s: %d does not divide by %d", name, shape, axis, size, parts)
            spec[dim] = None
    return NamedSharding(mesh, PartitionSpec(*spec))


def warn_unsharded(shardings: Mapping[str, NamedSharding], axes: Mapping[str, Sequence[str | None]]) -> None:
    """One warning, once, of the leaves that ``leaf_sharding`` could not shard as the table says."""
    names = [name for name, sharding in shardings.items() if sharding.spec != partition_spec(axes[name])]
    if names:
        _warn_once(
            f"{len(names)} of {len(shardings)} leaves, all of them small, do not divide over the mesh and are not "
            f"sharded as they could be: {', '.join(names[:3])}{', ...' if len(names) > 3 else ''} (--debug tells why)"
        )


@functools.cache
def _warn_once(message: str) -> None:
    log.warning("%s", message)


def with_mesh(mesh: Mesh, program: Callable) -> Callable:
    """A jitted program that is always called, lowered and so traced with ``mesh`` in force."""

    def in_force(function: Callable) -> Callable:
        @functools.wraps(function)
        def call(*args, **kwargs):
            with jax.set_mesh(mesh):
                return function(*args, **kwargs)

        return call

    call = in_force(program)
    call.lower = in_force(program.lower)
    return call


def constrain(x: jax.Array, *axes: str | None) -> jax.Array:
    """``x`` laid out by the table over the mesh that is in force (``jax.set_mesh``); without one, ``x``.

    A dim that does not divide is left to the compiler.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty:
        return x
    spec = partition_spec(axes)
    fits = (entry if size % _parts(mesh, entry) == 0 else None for size, entry in zip(x.shape, spec, strict=True))
    return jax.lax.with_sharding_constraint(x, PartitionSpec(*fits))


def _parts(mesh: Mesh, entry: str | tuple[str, ...] | None) -> int:
    names = () if entry is None else (entry,) if isinstance(entry, str) else entry
    return math.prod(mesh.shape[name] for name in names)


def replicated(mesh: Mesh) -> NamedSharding:
    return NamedSharding(mesh, PartitionSpec())


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """For arrays whose leading dim is the batch."""
    return NamedSharding(mesh, partition_spec(("batch",)))


def batch_parts(mesh: Mesh) -> int:
    """How many parts a batch is split into."""
    return _parts(mesh, RULES["batch"])


def place_batch(mesh: Mesh, batch: Any) -> Any:
    """This host's rows of a pytree of batches, as arrays over the whole mesh."""
    sharding = batch_sharding(mesh)
    return jax.tree.map(lambda rows: jax.make_array_from_process_local_data(sharding, rows), batch)


def check_batch(mesh: Mesh, size: int, name: str) -> None:
    """Raises ``UserError`` unless a batch of ``size`` divides over the mesh."""
    parts = batch_parts(mesh)
    if size % parts:
        raise UserError(f"{name} is {size}, which does not divide over {parts} devices; give a multiple of {parts}")
