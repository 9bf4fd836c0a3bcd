"""How a section of the config is declared. A section is frozen, takes keywords only, and cannot be built wrong."""

import dataclasses
import functools
import types
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal, TypeVar

from dualdiff_jax.errors import UserError, quoted

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


MOST_TOKENS = 8192  # of a text
LARGEST = {int: 2**31 - 1, float: 1e9}  # magnitude of a number that has no bound of its own; counters have 32 bits

Takes = Callable[[Any], tuple[str, float]]  # a value -> (what takes memory, how many bytes)


def bounded(
    *,
    default: Any = dataclasses.MISSING,
    low: float | None = None,
    high: float | None = None,
    takes: Takes | None = None,
) -> Any:
    """A field whose number (or each number of a tuple) lies in [low, high].

    Args:
        default: of the field; it must be given if there is none.
        low: None is ``-LARGEST``.
        high: None is ``LARGEST``.
        takes: the memory that a value takes; a refusal of a value above ``high`` names it.
    """
    return dataclasses.field(default=default, metadata={"low": low, "high": high, "takes": takes})


def token_count(default: Any = dataclasses.MISSING) -> Any:
    """A field: tokens of a text. Beyond the bound T5's attention over one text takes more than a device has."""
    return bounded(
        default=default,
        low=2,
        high=MOST_TOKENS,
        takes=lambda tokens: ("T5-XXL's attention over one text", 4 * 64 * tokens**2),
    )


def pixel_count() -> Any:
    """A field: the height or the width of an image; it must be given."""
    return bounded(low=1, high=16384, takes=lambda side: ("one image of that side in float32", 12 * side**2))


def in_units(count: float) -> str:
    """A number of bytes for a message: 4.0 GiB."""
    for unit in ("bytes", "KiB", "MiB", "GiB", "TiB"):
        if count < 1024 or unit == "TiB":
            break
        count /= 1024
    return f"{count:.3g} {unit}"


@typing.dataclass_transform(
    frozen_default=True, kw_only_default=True, field_specifiers=(bounded, token_count, pixel_count)
)
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
        bounds: ``low``, ``high`` and ``takes`` as ``bounded`` has them; absent is None.
    """
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        if value is not None:
            yield from value_faults(name, without_none(hint), value, bounds)
    elif origin is Literal:
        if value not in arguments:
            yield f"{name}: {quoted(value)} is none of {', '.join(map(repr, arguments))}"
    elif origin is tuple:
        if type(value) is not tuple:
            yield f"{name}: expected a tuple, found {quoted(value)}"
            return
        for index, item in enumerate(value):
            yield from value_faults(f"{name}[{index}]", arguments[0], item, bounds)
    elif type(value) is not hint:
        yield f"{name}: expected {hint.__name__}, found {quoted(value)}"
    else:
        yield from _bound_faults(name, value, bounds)


def _bound_faults(name: str, value: Any, bounds: Mapping[str, Any]) -> Iterator[str]:
    if type(value) not in LARGEST:
        return
    largest = LARGEST[type(value)]
    low, high = (
        end if (end := bounds.get(key)) is not None else sign * largest for key, sign in (("low", -1), ("high", 1))
    )
    if value != value:
        yield f"{name}: is not a number; give one from {low:g} to {high:g}"
    elif value < low:
        yield f"{name}: {quoted(value)} is below {low!r}"
    elif value > high:
        yield f"{name}: {quoted(value)} is above {high!r}{_memory(value, bounds.get('takes'))}"


def _memory(value: Any, takes: Takes | None) -> str:
    if takes is None or value > 1e30:
        return ""
    what, count = takes(value)
    return f"; {what} would take {in_units(count)}"
