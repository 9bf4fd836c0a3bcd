"""From nested mappings to the frozen sections of config/, and back."""

import dataclasses
import difflib
import types
import typing
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

from dualdiff_jax.config import RunConfig
from dualdiff_jax.config.fields import ConfigError, field_types, is_section, value_faults, without_none
from dualdiff_jax.config.recipe import fill
from dualdiff_jax.errors import QUOTED, quoted

if TYPE_CHECKING:
    import ml_collections

    Given = Mapping[str, Any] | ml_collections.ConfigDict

Section = TypeVar("Section")


@typing.overload
def resolve(given: "Given", *, what: str = ...) -> RunConfig: ...
@typing.overload
def resolve(given: "Given", cls: type[Section], *, what: str = ...) -> Section: ...
def resolve(given: "Given", cls: type = RunConfig, *, what: str = "config") -> Any:
    """Builds a section and all sections inside it from nested mappings.

    Lists become tuples, and ints become floats where the field is a float.

    Args:
        given: field name -> value. A field that is left out takes its default; of a ``RunConfig``, that of its
            ``recipe`` (config/recipe.py).
        cls: the section to build.
        what: names the config in the message.

    Raises:
        ConfigError: with all faults of all sections, each after its dotted path: fields that do not exist or are
            missing, and what the sections themselves refuse.
    """
    if hasattr(given, "to_dict"):
        given = typing.cast(Any, given).to_dict()
    faults: list[str] = []
    if cls is RunConfig and isinstance(given, Mapping):
        given = fill(given, faults)
    config = _build(cls, given, "", faults)
    if faults:
        raise ConfigError(f"the {what}", faults)
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
    """The section ``cls`` from a mapping; None if it has faults, which are appended to ``faults``."""
    if not isinstance(given, Mapping):
        faults.append(_at(path, f"expected a section with fields, found {quoted(given)}"))
        return None
    here = f"{path}." if path else ""
    fields, hints = {field.name: field for field in dataclasses.fields(cls)}, field_types(cls)
    before = len(faults)
    for name in given:
        if name not in fields:
            name = (str(name) if str(name).isprintable() else ascii(name))[:QUOTED]
            near = difflib.get_close_matches(name, fields, n=1, cutoff=0.5)
            hint = f"; did you mean {here}{near[0]}?" if near else f"; there are {', '.join(fields)}"
            faults.append(f"{here}{name}: no such field{hint}")
    values = {}
    for name, field in fields.items():
        if name in given:
            count = len(faults)
            values[name] = _convert(hints[name], given[name], here + name, faults)
            if len(faults) == count:
                faults += value_faults(here + name, hints[name], values[name], field.metadata)
        elif is_section(hints[name]):
            values[name] = _build(hints[name], {}, here + name, faults)
        elif field.default is dataclasses.MISSING:
            faults.append(f"{here}{name}: must be given")
    if len(faults) > before:
        return None
    try:
        return cls(**values)
    except ConfigError as error:  # each field alone is right, so the faults are contradictions
        faults += [_at(path, fault) for fault in error.faults]
        return None


def _convert(hint: Any, value: Any, path: str, faults: list[str]) -> Any:
    """``value`` in the form that a field of type ``hint`` wants it; a value that cannot take it stays as it is."""
    origin = typing.get_origin(hint)
    if is_section(hint):
        return _build(hint, value, path, faults)
    if origin in (typing.Union, types.UnionType):
        return None if value is None else _convert(without_none(hint), value, path, faults)
    if origin is tuple and isinstance(value, list | tuple):
        item = typing.get_args(hint)[0]
        return tuple(_convert(item, v, f"{path}[{index}]", faults) for index, v in enumerate(value))
    if hint is float and type(value) is int:
        return float(value)
    return value


def _at(path: str, fault: str) -> str:
    return f"{path}: {fault}" if path else fault
