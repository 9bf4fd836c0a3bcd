"""``TASK.json``: what was evaluated, how, and the score once there is one."""

import contextlib
import hashlib
import importlib.metadata
import json
import platform
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax

import dualdiff_jax
from dualdiff_jax.errors import UserError, quoted, reason
from dualdiff_jax.files import write_text
from dualdiff_jax.json_files import field, read_object

PACKAGES = ("dualdiff-jax", "jax", "jaxlib", "numpy", "pillow", "transformers", "pycocoevalcap")
# What has to be the same for predictions to go on; a dot leads into a section.
FIXED = ("task", "split", "settings", "model.fingerprint", "data.fingerprint")
NEEDED = {"task": str, "settings": dict, "data": dict}
OPTIONAL = {"split": str, "score": float, "unit": str}  # null where there is none

Record = dict[str, Any]


def versions() -> dict[str, str]:
    """Versions of Python, this package's source, and the packages that a score may depend on, where installed."""
    found = {"python": platform.python_version(), "source": _source()}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def _source() -> str:
    """A hash of all modules of this package."""
    digest, root = hashlib.sha256(), Path(dualdiff_jax.__file__).parent
    for file in sorted(root.rglob("*.py")):
        digest.update(f"{file.relative_to(root)}\n".encode() + file.read_bytes())
    return digest.hexdigest()[:12]


def devices() -> str:
    """The devices that took part, such as ``8 x NVIDIA H100``."""
    return f"{jax.device_count()} x {jax.devices()[0].device_kind}"


def command() -> list[str]:
    """The words that started the program."""
    return list(sys.argv)


def read_record(file: Path) -> Record | None:
    """The record in ``file``, None where there is none.

    Raises:
        UserError: it cannot be read, or is none.
    """
    if not file.exists():
        return None
    record = read_object(file)
    try:
        for name, kind in NEEDED.items():
            field(record, name, kind, str(file))
        for name, kind in OPTIONAL.items():
            if record.get(name) is not None:
                field(record, name, kind, str(file))
    except UserError as error:
        raise UserError(f"{error}; it is no record of an evaluation, choose another folder") from error
    return record


def write_record(file: Path, record: Mapping[str, Any]) -> None:
    """Writes a record in one step. Raises ``UserError`` where that fails."""
    try:
        write_text(file, json.dumps(record, indent=2) + "\n")
    except OSError as error:
        raise UserError(
            f"{file}: cannot be written ({reason(error)}); make room, or choose another --output"
        ) from error


@contextlib.contextmanager
def file_faults(path: Path, what: str) -> Iterator[None]:
    """Turns an ``OSError`` into a ``UserError``: ``path`` cannot be ``what``, "read" or "written"."""
    try:
        yield
    except OSError as error:
        raise UserError(
            f"{path}: cannot be {what} ({reason(error)}); mend that, and the same command goes on"
        ) from error


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """``field: before -> now`` for each of ``FIXED`` that differs between two records."""
    return [line for name in FIXED for line in _changes(name, at(before, name), at(now, name))]


def at(record: Any, name: str) -> Any:
    """What is under ``name`` in a record, where a dot leads into a section; None where there is nothing."""
    for part in name.split("."):
        record = record.get(part) if isinstance(record, Mapping) else None
    return record


def _changes(name: str, before: Any, now: Any) -> Iterator[str]:
    if isinstance(before, Mapping) and isinstance(now, Mapping):
        for key in dict.fromkeys((*before, *now)):
            yield from _changes(f"{name}.{key}", before.get(key), now.get(key))
    elif before != now:
        yield f"{name}: {quoted(before)} -> {quoted(now)}"
