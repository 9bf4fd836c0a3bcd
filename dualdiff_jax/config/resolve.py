"""From nested mappings to the frozen dataclasses of config/, and back; every fault is told at once."""

import dataclasses
import difflib
import types
import typing
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Literal

from dualdiff_jax.config import RunConfig
from dualdiff_jax.errors import UserError

if TYPE_CHECKING:
    import ml_collections


def resolve(
    given: "Mapping[str, Any] | ml_collections.ConfigDict", cls: type = RunConfig, *, what: str = "config"
) -> Any:
    """Turns nested mappings into a validated ``cls``; raises one ``UserError`` with all faults."""
    if hasattr(given, "to_dict"):
        given = given.to_dict()
    faults: list[str] = []
    config = _build(cls, given, "", faults)
    if faults:
        count = "a fault" if len(faults) == 1 else f"{len(faults)} faults"
        raise UserError(f"the {what} has {count}:\n" + "\n".join(f"  {fault}" for fault in faults))
    return config


def to_dict(config: Any) -> dict[str, Any]:
    """A resolved config as plain dicts, lists and numbers: what JSON holds and ``resolve`` takes back."""
    return dataclasses.asdict(config)


def differences(old: Any, new: Any, path: str = "") -> Iterator[str]:
    """Yields ``field: old -> new`` for every leaf in which two resolved configs differ."""
    if dataclasses.is_dataclass(old) and type(old) is type(new):
        for field in dataclasses.fields(old):
            here = f"{path}.{field.name}" if path else field.name
            yield from differences(getattr(old, field.name), getattr(new, field.name), here)
    elif old != new:
        yield f"{path}: {old!r} -> {new!r}"


def _build(cls: type, given: Any, path: str, faults: list[str]) -> Any:
    """The dataclass ``cls`` from a mapping; None when that was impossible (faults then say why)."""
    if not isinstance(given, Mapping):
        faults.append(f"{path}: expected a section with fields, found {given!r}")
        return None
    here = f"{path}." if path else ""
    fields = {field.name: field for field in dataclasses.fields(cls)}
    hints = typing.get_type_hints(cls)
    for name in given:
        if name not in fields:
            near = difflib.get_close_matches(str(name), fields, n=1, cutoff=0.5)
            hint = f"; did you mean {here}{near[0]}?" if near else f"; there are {', '.join(fields)}"
            faults.append(f"{here}{name}: no such field{hint}")
    before = len(faults)
    values = {}
    for name, field in fields.items():
        if name in given:
            values[name] = _convert(hints[name], given[name], here + name, field.metadata, faults)
        elif dataclasses.is_dataclass(hints[name]):
            values[name] = _build(hints[name], {}, here + name, faults)
        elif field.default is dataclasses.MISSING:
            faults.append(f"{here}{name}: must be given")
    if len(faults) > before:
        return None
    config = cls(**values)
    for contradiction in getattr(config, "contradictions", lambda: ())():
        faults.append(f"{path}: {contradiction}" if path else contradiction)
    return config


def _convert(hint: Any, value: Any, path: str, metadata: Mapping[str, Any], faults: list[str]) -> Any:
    """``value`` as type ``hint``, within the bounds in ``metadata``; otherwise a fault is noted."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if dataclasses.is_dataclass(hint):
        return _build(hint, value, path, faults)
    if origin in (typing.Union, types.UnionType):
        if value is None:
            return None
        return _convert(next(a for a in arguments if a is not type(None)), value, path, metadata, faults)
    if origin is Literal:
        if value not in arguments:
            faults.append(f"{path}: {value!r} is none of {', '.join(map(repr, arguments))}")
        return value
    if origin is tuple:
        if not isinstance(value, list | tuple):
            faults.append(f"{path}: expected a list, found {value!r}")
            return ()
        return tuple(_convert(arguments[0], v, f"{path}[{i}]", metadata, faults) for i, v in enumerate(value))
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if type(value) is not hint:
        faults.append(f"{path}: expected {hint.__name__}, found {value!r}")
        return value
    low, high = metadata.get("low"), metadata.get("high")
    if hint is float and value != value:
        faults.append(f"{path}: is not a number")
    elif low is not None and value < low:
        faults.append(f"{path}: {value!r} is below {low!r}")
    elif high is not None and value > high:
        faults.append(f"{path}: {value!r} is above {high!r}")
    return value
