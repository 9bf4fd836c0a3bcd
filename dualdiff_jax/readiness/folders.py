"""The folders that a run writes: whether it may, whose they are, and what room there is."""

from collections.abc import Iterator
from pathlib import Path

from dualdiff_jax.config import DataConfig, RunConfig
from dualdiff_jax.config.fields import in_units
from dualdiff_jax.data.records.ranges import local_cache
from dualdiff_jax.errors import UserError
from dualdiff_jax.files import as_path, check_holds_arrays, free_bytes, is_bucket, unwritable
from dualdiff_jax.files.lock import owner_now
from dualdiff_jax.files.probe import probe
from dualdiff_jax.readiness.finding import Finding, attempt, faulty
from dualdiff_jax.training.checkpoint import check_steps
from dualdiff_jax.training.half_written import COMMIT, is_step
from dualdiff_jax.training.workdir import check_workdir

CLOCKS_APART = 60.0  # seconds, at most, without a warning


def folder_findings(config: RunConfig, workdir: str) -> Iterator[Finding]:
    """The workdir and the caches: written to, owned by nobody else, of the same run, on a clock that is right."""
    yield from _writable("workdir", workdir, "--workdir")
    if config.data.index_cache:
        yield from _writable("data.index_cache", config.data.index_cache, "data.index_cache")
    if config.data.local_cache:
        yield from _local_cache(config.data)
    try:
        folder = as_path(workdir)
        check_holds_arrays(folder)
    except UserError as error:
        yield faulty("run in the workdir", error)
        return
    yield attempt("run in the workdir", lambda: _same_run(folder, config))
    yield attempt("owner of the workdir", lambda: _no_owner(folder))
    yield attempt("newest checkpoint", lambda: _newest(folder, config.train.steps))


def _local_cache(data: DataConfig) -> Iterator[Finding]:
    try:
        local_cache(data)
    except UserError as error:
        yield faulty("data.local_cache", error)
        return
    yield from _writable("data.local_cache", data.local_cache, "data.local_cache")


def _writable(what: str, name: str, flag: str) -> Iterator[Finding]:
    try:
        ahead = probe(as_path(name).absolute())
    except UserError as error:
        yield faulty(what, error)
        return
    except OSError as error:
        yield faulty(what, unwritable(as_path(name), flag, error))
        return
    yield Finding(what, f"{name}: a file was written, read back and removed")
    if not is_bucket(as_path(name)):
        is_apart = abs(ahead) > CLOCKS_APART
        found = (
            f"{abs(ahead):.0f} s {'ahead of' if ahead > 0 else 'behind'} this host's" if is_apart else "as the host's"
        )
        advice = "set both by one time server" if is_apart else ""
        yield Finding(f"clock of {what}", found, "warning" if is_apart else "ok", advice)


def _same_run(workdir: Path, config: RunConfig) -> str:
    check_workdir(workdir, config)
    return "a run of this config, which resumes" if (workdir / "config.json").exists() else "none, a new one begins"


def _no_owner(workdir: Path) -> str:
    if workdir.is_dir() and (owner := owner_now(workdir)):
        raise UserError(f"{workdir}: {owner} writes there; wait until it ends, or name another folder")
    return "no process writes there"


def checkpoint_steps(workdir: Path) -> list[int]:
    """The steps that have a complete checkpoint, ascending."""
    folders = [folder for folder in (workdir / "checkpoints").glob("*") if is_step(folder.name)]
    return sorted(int(f.name) for f in folders if not is_bucket(f) or (f / COMMIT).exists())


def _newest(workdir: Path, last: int) -> str:
    steps = checkpoint_steps(workdir)
    check_steps(workdir / "checkpoints", steps, last)
    return f"step {steps[-1]} of {last}" if steps else "none"


def disk_finding(config: RunConfig, workdir: Path, state: int) -> Finding:
    """Whether the disk has room for the checkpoints that the run keeps, and for the one that is being written.

    Args:
        config: the run's.
        workdir: its folder.
        state: bytes of a checkpoint.
    """
    train = config.train
    kept = train.keep_checkpoints + (train.steps // train.keep_every if train.keep_every else 0)
    there = len(checkpoint_steps(workdir))
    needed, free = max(1, kept + 1 - there) * state, free_bytes(workdir)
    room = "a bucket" if is_bucket(workdir) else f"{in_units(free)} free"
    found = f"{room}, {in_units(needed)} needed for checkpoints of {in_units(state)}"
    if free >= needed:
        return Finding("disk", found)
    advice = f"make room at {workdir}, or keep fewer checkpoints (train.keep_checkpoints, train.keep_every)"
    return Finding("disk", found, "fault" if free < state else "warning", advice)
