"""The folder of a run. It belongs to the first config that ran in it."""

import dataclasses
import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax

from dualdiff_jax.config import RunConfig
from dualdiff_jax.config.resolve import differences, resolve, to_dict
from dualdiff_jax.distributed.process_group import barrier
from dualdiff_jax.errors import UserError
from dualdiff_jax.files import as_path, is_bucket, make_folder, write_text
from dualdiff_jax.json_files import read_object

# Fields that may differ when a run resumes: none of them changes the result of a run on unchanged data.
FREE_TO_CHANGE = (
    "train.log_every",
    "train.save_every",
    "train.keep_checkpoints",
    "train.keep_every",
    "train.stop_after_skipped",
    "train.stall_seconds",
    "lora.merge",
    "profile",
    "telemetry.",
    "validation.",
    "preview.",
    "mesh.",
    "data.read_threads",
    "data.prefetch_batches",
    "data.cache_images",
    "data.workers",
    "data.index_cache",
    "data.local_cache",
    "data.max_bad_share",
    "data.patience",
    "data.allow_changed",
)
FOLDERS = ("checkpoints", "damaged_checkpoints", "model", "lora", "samples", "profile", "tensorboard", "wandb")
REPLACED = ("model", "lora", "metrics.jsonl")  # what a run writes over; without a config it is not a run's
FILES = (".json", ".jsonl", ".damaged", ".txt")  # suffixes of the files that a run reads or appends to
VISIBLE_AFTER = 60.0  # seconds, at most, until a network file system shows a host the files of another


def prepare_workdir(workdir: Path, config: RunConfig) -> None:
    """Makes ``workdir`` and writes the config into it, unless a run is there already.

    The first host writes; the others wait and read.

    Args:
        workdir: the run's folder.
        config: the run's.

    Raises:
        UserError: the folder cannot be written, is not seen by all hosts, holds a pipe or a folder where a run has a
            file, or belongs to a run of another config, with the differences.
    """
    if jax.process_index() == 0:
        _check_kinds(workdir)
        _write_config(workdir, config)
    barrier("workdir")
    file = workdir / "config.json"
    seen_by = time.monotonic() + VISIBLE_AFTER
    while not (is_seen := file.exists()) and time.monotonic() < seen_by:
        time.sleep(1.0)
    if not is_seen:
        raise UserError(
            f"{workdir}: this host does not see the files of the first host there; name a folder of a file system that "
            "all hosts have mounted"
        )
    _check_stored_config(workdir, config)


def check_workdir(workdir: Path, config: RunConfig) -> None:
    """The checks of ``prepare_workdir`` that need no writing.

    Args:
        workdir: the run's folder, which may not exist.
        config: the run's.

    Raises:
        UserError: the folder holds a pipe or a folder where a run has a file, belongs to a run of another config, or
            holds files that are of no run and would be replaced; or its model is ``init_from``.
    """
    _check_kinds(workdir)
    if config.init_from and as_path(config.init_from).absolute() == (workdir / "model").absolute():
        raise UserError(f"{workdir}: its model/ is init_from, which the run would replace; name another --workdir")
    if (workdir / "config.json").exists():
        _check_stored_config(workdir, config)
    elif not (workdir / "checkpoints").exists():
        taken = [name for name in REPLACED if (workdir / name).exists()]
        if taken:
            raise UserError(
                f"{workdir}: holds {taken[0]} and no run, and a run would replace it; name another --workdir or move it"
            )


def _check_stored_config(workdir: Path, config: RunConfig) -> None:
    file = workdir / "config.json"
    try:
        stored = read_object(file)
    except UserError as error:
        raise UserError(
            f"{error}; remove it, and the same command writes it anew: a checkpoint has the config too"
        ) from error
    check_same_config(workdir, str(file), stored, config)


def _check_kinds(workdir: Path) -> None:
    """Refuses what would block a writer or end it in the middle of a run; a bucket has nothing of that kind."""
    if is_bucket(workdir):
        return
    for path in workdir.glob("*") if workdir.is_dir() else ():
        if path.name in FOLDERS and not path.is_dir():
            raise UserError(f"{path}: is no folder, and a run writes a folder of this name; move it away")
        if path.suffix in FILES and not path.is_file():
            raise UserError(f"{path}: is no regular file, and a run writes a file of this name; move it away")


def _write_config(workdir: Path, config: RunConfig) -> None:
    file = make_folder(workdir, "--workdir") / "config.json"
    try:
        if not file.exists():
            write_text(file, json.dumps(to_dict(config), indent=2) + "\n")
    except OSError as error:
        raise UserError(
            f"{file}: cannot be written ({error.strerror}); make room, or choose another --workdir"
        ) from error


def check_same_config(workdir: Path, where: str, stored: Mapping[str, Any], config: RunConfig) -> None:
    """Compares a stored config with the run's, except for fields that are free to change.

    Args:
        workdir: the run's folder, for the message.
        where: the file or checkpoint that holds ``stored``, for the message.
        stored: a config as plain dicts.
        config: the run's.

    Raises:
        UserError: ``stored`` cannot be read, or differs; with the differences.
    """
    try:
        old = resolve(stored, what=f"config in {where}")
    except UserError as error:
        raise UserError(
            f"{where}: cannot be read as this version's config; start in another --workdir\n{error}"
        ) from error
    changed = [line for line in differences(_as_read(old), _as_read(config)) if not line.startswith(FREE_TO_CHANGE)]
    if changed:
        raise UserError(
            f"{workdir}: belongs to a run with another config; name another --workdir, or undo\n  "
            + "\n  ".join(changed)
        )


def _as_read(config: RunConfig) -> RunConfig:
    """``config`` without the sources that are not read: earlier versions needed one for every stream."""
    return dataclasses.replace(config, data=dataclasses.replace(config.data, sources=config.read_sources))
