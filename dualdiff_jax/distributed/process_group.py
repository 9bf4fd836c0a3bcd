"""Processes that work as one: what they do together, from the first connection to the last barrier."""

import contextlib
import itertools
import logging
from collections.abc import Iterator

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from dualdiff_jax.distributed.launchers import find_process
from dualdiff_jax.distributed.rendezvous import bind_address, rendezvous
from dualdiff_jax.distributed.watch import SPACE, ProcessWatch, store

FOREVER = 7 * 24 * 3600 * 1000  # ms; if another process does not come, the watch ends the wait, not this bound


@contextlib.contextmanager
def distributed_run(
    coordinator: str | None, num_processes: int | None, process_id: int | None, timeout: int
) -> Iterator[None]:
    """A context in which JAX knows the devices of all processes; with one process it does nothing.

    Enter it before any device is used. An exception inside ends this process and all others, so none leaves the
    context, unless the process runs alone.

    Args:
        coordinator: HOST:PORT of process 0; None asks the launcher (``launchers.find_process``), as below.
        num_processes: how many processes there are.
        process_id: the number of this one, from 0.
        timeout: seconds within which all processes must have come.

    Raises:
        UserError: a process is missing after ``timeout``, or the flags contradict each other.
    """
    process = find_process(coordinator, num_processes, process_id, timeout=timeout)
    if process is None:
        yield
        return
    rendezvous(process, timeout)
    jax.config.update("jax_enable_preemption_service", False)  # it would take SIGTERM from training.interruption
    jax.distributed.initialize(
        process.coordinator,
        process.num_processes,
        process.process_id,
        process.local_device_ids,
        cluster_detection_method="deactivate",
        initialization_timeout=timeout,
        coordinator_bind_address=bind_address(process),
    )
    watch = ProcessWatch(process.process_id, process.num_processes)
    if process.process_id and not logging.getLogger().isEnabledFor(logging.DEBUG):
        logging.getLogger().setLevel(logging.ERROR)  # process 0 logs the warnings
    try:
        connect(_hosts_mesh())
        yield
        barrier("end")
    except BaseException as error:
        watch.fail(error)
    watch.stop()
    jax.distributed.shutdown()


def connect(mesh: Mesh) -> None:
    """Connects the devices of ``mesh`` across processes, by one small collective for each group of devices.

    XLA connects a group of devices when the first program that needs it runs. On CPUs Gloo then waits 30 s for the
    other processes, and no option extends that: if one of them compiles that program half a minute longer, the run
    ends. A connected group waits for half an hour. So all processes call this together, before they compile anything
    large. The groups are the devices that differ in a choice of axes alone, for each choice and, since Gloo's group is
    an ordered list, each order. On GPUs, whose communicators take memory and wait for minutes, only the group of all
    devices is connected.

    Args:
        mesh: the same on all processes. Nothing happens if it lies within one process.
    """
    if store() is None or len({device.process_index for device in mesh.devices.flat}) == 1:
        return
    axes = [name for name in mesh.axis_names if mesh.shape[name] > 1]
    sizes = range(1, len(axes) + 1) if mesh.devices.flat[0].platform == "cpu" else [len(axes)]
    everywhere = PartitionSpec(*axes)
    ones = jax.make_array_from_callback(
        tuple(mesh.shape[name] for name in axes),
        NamedSharding(mesh, everywhere),
        lambda index: np.ones([1] * len(axes), np.float32),
    )
    programs = [
        jax.jit(_sum_over(mesh, names, everywhere)).lower(ones).compile()
        for size in sizes
        for names in itertools.permutations(axes, size)
    ]
    barrier("connect")  # each has compiled, so all reach each sum within moments
    for program in programs:
        jax.block_until_ready(program(ones))


def barrier(name: str) -> None:
    """Waits until all processes have come here. All processes pass their barriers in the same order.

    Args:
        name: of the place in the code; may be used again.
    """
    if jax.process_count() > 1:
        store().wait_at_barrier(f"{SPACE}/barrier/{name}/{_count('barrier', name)}", FOREVER)


def broadcast_from_first(name: str, text: str) -> str:
    """Returns the ``text`` of process 0 on all processes.

    Args:
        name: of the place in the code; may be used again.
        text: of this process.
    """
    if jax.process_count() == 1:
        return text
    key = f"{SPACE}/broadcast/{name}/{_count('broadcast', name)}"
    if jax.process_index() == 0:
        store().key_value_set(key, text)
    return store().blocking_key_value_get(key, FOREVER)


@contextlib.contextmanager
def first_host_first(name: str) -> Iterator[None]:
    """A context that process 0 leaves before the others enter it: they find the files that it has made."""
    if jax.process_index():
        barrier(name)
    yield
    if not jax.process_index():
        barrier(name)


_counts: dict[tuple[str, str], int] = {}


def _count(kind: str, name: str) -> int:
    """Counts the uses of a name: a key in the store works once, and all processes use each name in the same order."""
    _counts[kind, name] = _counts.get((kind, name), 0) + 1
    return _counts[kind, name]


def _hosts_mesh() -> Mesh:
    """(processes, devices of each), the mesh of ``jax.experimental.multihost_utils``, which Orbax uses."""
    devices = sorted(jax.devices(), key=lambda device: (device.process_index, device.id))
    if len(devices) % jax.process_count():
        return Mesh(np.asarray(devices), ("device",))
    return Mesh(np.asarray(devices).reshape(jax.process_count(), -1), ("process", "device"))


def _sum_over(mesh: Mesh, names: tuple[str, ...], everywhere: PartitionSpec):
    return jax.shard_map(lambda x: jax.lax.psum(x, names), mesh=mesh, in_specs=everywhere, out_specs=everywhere)
