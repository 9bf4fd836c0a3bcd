"""The ``run`` item of a checkpoint: all that resuming needs besides the state, and its check when it is read.

next_step  records (the fingerprint of the data)  start  pending  config  versions  crc32 (of all others)
"""

import importlib.metadata
import json
import platform
import zlib
from collections.abc import Sequence
from typing import Any

from dualdiff_jax.config import RunConfig
from dualdiff_jax.config.resolve import resolve, to_dict
from dualdiff_jax.data.fingerprint import DataFingerprint
from dualdiff_jax.errors import UserError
from dualdiff_jax.json_files import checked, field

VERSIONED = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain")
NAME = "its run item"


def run_item(
    step: int, config: RunConfig, data: DataFingerprint, init_from: str, unlogged_metrics: Sequence
) -> dict[str, Any]:
    """What a checkpoint stores as JSON.

    Args:
        step: steps that the state has seen.
        config: the run's.
        data: its fingerprint.
        init_from: fingerprint of the model that the run started from.
        unlogged_metrics: of steps that are in no record yet, each a dict of numbers and lists.
    """
    item = {"next_step": step, "records": data, "start": init_from, "pending": list(unlogged_metrics)}
    item |= {"config": to_dict(config), "versions": versions()}
    return item | {"crc32": _crc32(item)}


def check_run_item(item: Any, step: int) -> dict[str, Any]:
    """Checks what was read, so that all of it can be used.

    Args:
        item: any JSON value.
        step: the step of the checkpoint, by its folder.

    Returns:
        ``item``.

    Raises:
        UserError: it is not what ``run_item`` makes for ``step``, or was changed since.
    """
    item = checked(item, dict, NAME)
    found = field(item, "next_step", int, NAME)
    if found != step:
        raise UserError(f"{NAME} is of step {found}")
    for key, kind in (("records", dict), ("start", str), ("config", dict), ("versions", dict)):
        field(item, key, kind, NAME)
    for name, fingerprint in item["records"].items():
        _check_fingerprint(fingerprint, f"{NAME}: records.{name}")
    for index, metrics in enumerate(field(item, "pending", list, NAME)):
        for name, value in checked(metrics, dict, f"{NAME}: pending[{index}]").items():
            _check_figure(value, f"{NAME}: pending[{index}].{name}")
    resolve(item["config"], what=f"config in {NAME}")
    if item.get("crc32", _crc32(item)) != _crc32(item):  # earlier versions stored none
        raise UserError(f"{NAME} was changed since it was written")
    return item


def _crc32(item: dict[str, Any]) -> int:
    fields = {key: value for key, value in item.items() if key != "crc32"}
    return zlib.crc32(json.dumps(fields, sort_keys=True).encode())


def _check_fingerprint(value: Any, name: str) -> None:
    """The fingerprint of a source, or the number of its records, which is all that earlier versions stored."""
    if not isinstance(value, dict):
        checked(value, int, name)
        return
    for key, kind in (("records", int), ("files", dict), ("images", str)):
        field(value, key, kind, name)


def _check_figure(value: Any, name: str) -> None:
    """A number, or lists of numbers: what ``telemetry.recorder.summary`` takes."""
    for entry in value if isinstance(value, list) else ():
        _check_figure(entry, name)
    if not isinstance(value, list):
        checked(value, float, name)


def versions() -> dict[str, str]:
    """Versions of Python and of the libraries that decide the bits of a result."""
    return {"python": platform.python_version()} | {name: importlib.metadata.version(name) for name in VERSIONED}
