"""All findings about a run. No model is allocated, nothing is compiled, and no fault hides another."""

import math
from collections.abc import Iterator
from pathlib import Path

import jax
from jax.sharding import Mesh

from dualdiff_jax.config import MeshConfig, RunConfig
from dualdiff_jax.config.fields import in_units
from dualdiff_jax.data.tokenizer import Tokenizer
from dualdiff_jax.errors import UserError
from dualdiff_jax.files import as_path
from dualdiff_jax.hardware import memory_limit
from dualdiff_jax.models.bundle import rules_of
from dualdiff_jax.readiness.finding import Finding, attempt, faulty
from dualdiff_jax.readiness.folders import disk_finding, folder_findings
from dualdiff_jax.readiness.machine import free_host_memory, machine_findings
from dualdiff_jax.readiness.records import data_findings
from dualdiff_jax.sharding import make_mesh, rules_in_force
from dualdiff_jax.training.initial_weights import random_and_frozen
from dualdiff_jax.training.loop import checks
from dualdiff_jax.training.setup import TrainSetup
from dualdiff_jax.weights import check_leaves, load_config


def findings(config: RunConfig, workdir: str) -> Iterator[Finding]:
    """Everything that ``--mode=train`` would need, in the order in which it would need it.

    Args:
        config: the run's.
        workdir: its folder, which need not exist.

    Yields:
        One finding for each check.
    """
    has_devices = True
    for finding in machine_findings():
        has_devices = has_devices and not (finding.what == "devices" and finding.status == "fault")
        yield finding
    tokenizer = None
    try:
        tokenizer = Tokenizer(config.data.tokenizer)
        yield Finding("tokenizer", f"{config.data.tokenizer}: {tokenizer.vocab_size} tokens")
    except UserError as error:
        yield faulty("tokenizer", error)
    yield from folder_findings(config, workdir)
    if has_devices:
        yield from _training(config, workdir, tokenizer)
    yield from data_findings(config, tokenizer)


def _training(config: RunConfig, workdir: str, tokenizer: Tokenizer | None) -> Iterator[Finding]:
    """The mesh, and what training checks on it; where there is no mesh, on one device what depends on none."""
    mesh, skipped, faults = None, set[str](), set[str]()
    try:
        mesh = make_mesh(config.mesh)
        yield Finding("mesh", ", ".join(f"{name} {size}" for name, size in mesh.shape.items()))
    except UserError as error:
        yield faulty("mesh", error)
        skipped.add("batch")
    if tokenizer is None:
        skipped |= {"vocabulary", "init_from"}
    if not config.init_from:
        skipped.add("init_from")
    one = mesh or make_mesh(MeshConfig(), jax.local_devices()[:1])
    setups: list[TrainSetup] = []
    with rules_in_force(rules_of(config.mesh, config.model)):
        for what, test in checks(config, tokenizer, one, setups).items():  # pyright: ignore[reportArgumentType]
            if what not in skipped:
                yield (found := attempt(what, lambda test=test: test() or "fits"))
                faults |= {what} if found.status == "fault" else set()
        if config.init_from and "init_from" not in faults:
            yield attempt("weights of init_from", lambda: _stored(as_path(config.init_from)))
        for setup in setups:
            if random := random_and_frozen(config, setup.trainable.changed_leaves):
                yield Finding("frozen weights", random, "warning", "give --config.init_from=MODEL_DIR")
            yield from _memory(setup, workdir, on_mesh=mesh)


def _stored(folder: Path) -> str:
    return f"{folder}: {len(check_leaves(folder, load_config(folder)))} arrays"


def _memory(setup: TrainSetup, workdir: str, on_mesh: Mesh | None) -> Iterator[Finding]:
    """What the state needs of the disk, of the host and of each device; all of it follows from shapes."""
    leaves = jax.tree.leaves(setup.abstract_state)
    state = sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in leaves)
    try:
        yield disk_finding(setup.config, as_path(workdir).absolute(), state)
    except (UserError, OSError) as error:
        yield faulty("disk", error)
    is_cpu = jax.devices()[0].platform == "cpu"
    share, free = state * (2 if is_cpu else 1) / jax.process_count(), free_host_memory()
    found = f"{in_units(free)} free, {in_units(share)} needed to save and to restore the state"
    is_enough = free >= share
    advice = "" if is_enough else "end other processes, or use a host with more memory"
    yield Finding("host memory", found, "ok" if is_enough else "warning", advice)
    limit = memory_limit(jax.local_devices()[0])
    if not limit or on_mesh is None:
        return
    part = sum(math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize for leaf in leaves)
    found = f"{in_units(part)} of {in_units(limit)} for the state; --mode=plan computes the rest"
    is_enough = part < limit
    advice = "" if is_enough else "spread the state over more devices (mesh.layout, mesh.tensor), or train less of it"
    yield Finding("device memory", found, "ok" if is_enough else "fault", advice)
