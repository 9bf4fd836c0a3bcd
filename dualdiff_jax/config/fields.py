"""How a section of the config is declared. A section is frozen, takes keywords only, and cannot be built wrong."""

import dataclasses
import functools
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, TypeVar

from dualdiff_jax.errors import UserError

Section = TypeVar("Section")


class ConfigError(UserError):
    """A config that is wrong; the message lists every fault.

    Args:
        what: the config, for the message.
        faults: one sentence each, as a rule after the name of the field.
    """

    def __init__(self, what: str, faults: Sequence[str]):
        super().__init__(what, faults)
        self.what, self.faults = what, tuple(faults)

    def __str__(self) -> str:
        count = "a fault" if len(self.faults) == 1 else f"{len(self.faults)} faults"
        return f"{self.what} has {count}:\n" + "\n".join(f"  {fault}" for fault in self.faults)


def bounded(*, default: Any = dataclasses.MISSING, low: float | None = None, high: float | None = None) -> Any:
    """A field whose number (or each number of a tuple) lies in [low, high]."""
    return dataclasses.field(default=default, metadata={"low": low, "high": high})


@typing.dataclass_transform(frozen_default=True, kw_only_default=True, field_specifiers=(bounded,))
def frozen(cls: type[Section]) -> type[Section]:
    """Makes a section of ``cls``: a frozen dataclass whose constructor, and so ``dataclasses.replace``, checks it.

    The constructor checks the type, the choice (``Literal``) and the bounds of each field. If all are right, it calls
    the section's method ``contradictions``, where there is one: a generator of sentences about fields that do not go
    together. It raises one ``ConfigError`` with all faults.
    """
    checked: Any = cls
    checked.__post_init__ = _check
    return dataclasses.dataclass(frozen=True, kw_only=True)(cls)


def _check(section: Any) -> None:
    hints = field_types(type(section))
    faults = [
        fault
        for field in dataclasses.fields(section)
        for fault in value_faults(field.name, hints[field.name], getattr(section, field.name), field.metadata)
    ]
    if not faults:
        faults = list(getattr(section, "contradictions", tuple)())
    if faults:
        raise ConfigError(type(section).__name__, faults)


@functools.cache
def field_types(section: type) -> dict[str, Any]:
    """The type of each field of a section, by name."""
    return typing.get_type_hints(section)


def is_section(hint: Any) -> typing.TypeGuard[type]:
    """Whether a field of type ``hint`` holds a section."""
    return isinstance(hint, type) and dataclasses.is_dataclass(hint)


def without_none(hint: Any) -> Any:
    """The type T of a field of type ``T | None``."""
    return next(argument for argument in typing.get_args(hint) if argument is not type(None))


def value_faults(name: str, hint: Any, value: Any, bounds: Mapping[str, Any]) -> Iterator[str]:
    """Yields the faults of one value.

    Args:
        name: of the field, possibly with dots and [index]; each fault starts with it.
        hint: the field's type: a number, a string, a section, a ``Literal``, a tuple of one of these, or one or None.
        value: what the field would hold.
        bounds: ``low`` and ``high``; None or absent is no bound.
    """
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        if value is not None:
            yield from value_faults(name, without_none(hint), value, bounds)
    elif origin is Literal:
        if value not in arguments:
            yield f"{name}: {value!r} is none of {', '.join(map(repr, arguments))}"
    elif origin is tuple:
        if type(value) is not tuple:
            yield f"{name}: expected a tuple, found {value!r}"
            return
        for index, item in enumerate(value):
            yield from value_faults(f"{name}[{index}]", arguments[0], item, bounds)
    elif type(value) is not hint:
        yield f"{name}: expected {hint.__name__}, found {value!r}"
    else:
        yield from _bound_faults(name, value, bounds)


def _bound_faults(name: str, value: Any, bounds: Mapping[str, Any]) -> Iterator[str]:
    low, high = bounds.get("low"), bounds.get("high")
    if isinstance(value, float) and value != value:
        yield f"{name}: is not a number"
    elif low is not None and value < low:
        yield f"{name}: {value!r} is below {low!r}"
    elif high is not None and value > high:
        yield f"{name}: {value!r} is above {high!r}"
