"""From logical axes to shardings: of leaves, of activations inside a program, of batches."""

import functools
import logging
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import jax
import numpy as np
from jax.sharding import AbstractMesh, Mesh, NamedSharding, PartitionSpec

from dualdiff_jax.errors import UserError
from dualdiff_jax.sharding.rules import ACTIVATIONS, MESH_AXES, Axes, current_rules, rules_in_force

log = logging.getLogger(__name__)

AnyMesh: TypeAlias = Mesh | AbstractMesh

SMALL_LEAF = 1 << 20  # elements; a leaf below this may stay whole where its dims do not divide


def partition_spec(axes: Axes) -> PartitionSpec:
    """The mesh axes that each dim of an array is split over, by the table in force.

    Raises:
        ValueError: A logical axis is unknown, or two dims claim one mesh axis.
    """
    entries = [current_rules().mesh_axes(axis) for axis in axes]
    claimed = [name for entry in entries for name in entry]
    for name in MESH_AXES:
        if claimed.count(name) > 1:
            raise ValueError(f"two dims of logical axes {tuple(axes)} both go to mesh axis {name!r}")
    return PartitionSpec(*(entry[0] if len(entry) == 1 else entry or None for entry in entries))


def fitting_spec(mesh: AnyMesh, shape: Sequence[int], axes: Axes) -> tuple[PartitionSpec, list[int]]:
    """The one rule for "shard it or keep it whole": a dim is split if its size divides over its mesh axes.

    Args:
        mesh: Gives the size of each mesh axis.
        shape: Of the array.
        axes: One for each dim.

    Returns:
        The spec, in which a dim that does not divide stays whole, and the numbers of those dims.

    Raises:
        ValueError: ``shape`` and ``axes`` differ in length; otherwise as ``partition_spec`` does.
    """
    entries = list(partition_spec(axes))
    misfits = [dim for dim, (size, axis) in enumerate(zip(shape, axes, strict=True)) if size % _parts(mesh, axis)]
    return PartitionSpec(*(None if dim in misfits else entry for dim, entry in enumerate(entries))), misfits


def _parts(mesh: AnyMesh, axis: str | None) -> int:
    """How many parts a dim of logical axis ``axis`` is split into."""
    return math.prod(mesh.shape[name] for name in current_rules().mesh_axes(axis))


def leaf_sharding(mesh: AnyMesh, name: str, shape: Sequence[int], axes: Axes) -> NamedSharding:
    """The sharding of a leaf; a dim that does not divide stays whole, provided that the leaf is small.

    Args:
        mesh: Where the leaf will live.
        name: Of the leaf, for messages.
        shape: Of the leaf.
        axes: One for each dim.

    Raises:
        UserError: A dim of a large leaf does not divide.
        ValueError: As ``fitting_spec`` does.
    """
    spec, misfits = fitting_spec(mesh, shape, axes)
    for dim in misfits:
        axis, size, parts = axes[dim], shape[dim], _parts(mesh, axes[dim])
        if math.prod(shape) >= SMALL_LEAF:
            mesh_axes = " times ".join(map(repr, current_rules().mesh_axes(axis)))
            raise UserError(
                f"{name}: {axis} has size {size}, which does not divide over the {parts} devices of mesh axis "
                f"{mesh_axes}; choose a size of it that divides {size}"
            )
        log.info("%s %s stays whole along %s: %d does not divide by %d", name, shape, axis, size, parts)
    return NamedSharding(mesh, spec)


def warn_unsharded(shardings: Mapping[str, NamedSharding], axes: Mapping[str, Axes]) -> None:
    """Logs one warning, once, about the leaves that ``leaf_sharding`` left whole where the table splits them.

    Args:
        shardings: By leaf name.
        axes: Logical axes of each leaf, by leaf name.
    """
    names = [name for name, sharding in shardings.items() if sharding.spec != partition_spec(axes[name])]
    if names:
        _warn_once(
            f"{len(names)} of {len(shardings)} leaves, all of them small, do not divide over the mesh and are not "
            f"sharded as they could be: {', '.join(names[:3])}{', ...' if len(names) > 3 else ''} (--debug logs why)"
        )


@functools.cache
def _warn_once(message: str) -> None:
    log.warning("%s", message)


class _MeshProgram:
    """See ``with_mesh``."""

    def __init__(self, mesh: Mesh, program: Any):
        self._mesh, self._program, self._rules = mesh, program, current_rules()

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        with jax.set_mesh(self._mesh), rules_in_force(self._rules):
            return self._program(*args, **kwargs)

    def lower(self, *args: Any, **kwargs: Any) -> Any:
        with jax.set_mesh(self._mesh), rules_in_force(self._rules):
            return self._program.lower(*args, **kwargs)


def with_mesh(mesh: Mesh, program: Callable) -> _MeshProgram:
    """A jitted program that is always called, lowered and so traced with one mesh and one table in force.

    Args:
        mesh: The mesh.
        program: What ``jax.jit`` returns. The table is the one in force where it is wrapped.
    """
    return _MeshProgram(mesh, program)


def constrain(x: jax.Array, kind: str) -> jax.Array:
    """``x`` laid out by the table over the mesh in force (``jax.set_mesh``); without a mesh, ``x`` as it is.

    Args:
        x: An activation. The compiler lays out a dim that does not divide.
        kind: A name of ``ACTIVATIONS``.

    Raises:
        ValueError: The kind is unknown, or has another number of dims than ``x``.
    """
    if kind not in ACTIVATIONS:
        raise ValueError(f"activation {kind!r} is none of {', '.join(ACTIVATIONS)}")
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty:
        return x
    return jax.lax.with_sharding_constraint(x, fitting_spec(mesh, x.shape, ACTIVATIONS[kind])[0])


def replicated(mesh: AnyMesh) -> NamedSharding:
    """For arrays that every device holds whole."""
    return NamedSharding(mesh, PartitionSpec())


def batch_sharding(mesh: AnyMesh) -> NamedSharding:
    """For arrays whose leading dim is the batch."""
    return NamedSharding(mesh, partition_spec(("batch",)))


def batch_parts(mesh: AnyMesh) -> int:
    """How many parts a batch is split into."""
    return _parts(mesh, "batch")


def place_batch(mesh: Mesh, batch: Any) -> Any:
    """One batch of all hosts.

    Args:
        mesh: Of all hosts.
        batch: A pytree of arrays (b / hosts, ...): this host's rows.

    Returns:
        The pytree of arrays (b, ...), split over the mesh.
    """
    sharding = batch_sharding(mesh)
    return jax.tree.map(lambda rows: jax.make_array_from_process_local_data(sharding, rows), batch)


MICROBATCH = "train.global_batch_size / train.microbatches"  # as ``check_batch`` names it


def check_batch(mesh: AnyMesh, size: int, name: str) -> None:
    """Checks that a batch divides over the mesh, and that no two processes share a part of it.

    Each process reads records of its own, so devices of two processes that hold the same rows would disagree.

    Args:
        mesh: Of all hosts.
        size: Number of examples.
        name: What a message calls the batch.

    Raises:
        UserError: It does not divide, or a part of it lies on devices of several processes.
    """
    parts = batch_parts(mesh)
    if size % parts:
        raise UserError(f"{name} is {size}, which does not divide over {parts} devices; give a multiple of {parts}")
    if isinstance(mesh, Mesh):
        mesh_axes = current_rules().mesh_axes("batch")
        split = [mesh.axis_names.index(axis) for axis in mesh_axes]
        devices = np.moveaxis(mesh.devices, split, range(len(split))).reshape(parts, -1)
        if any(len({device.process_index for device in part}) > 1 for part in devices):
            raise UserError(
                "mesh: devices of several processes would hold the same rows of a batch, but each process reads "
                f"records of its own; a batch is split over {' and '.join(mesh_axes) or 'no axis'}, so all other axes "
                "together must divide the devices of one process"
            )
