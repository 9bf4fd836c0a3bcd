"""One reader for every JSON text that comes from outside, and checked access to what it holds.

``json.loads`` raises several types of error, reads numbers that no float holds, and accepts NaN. Here each fault of a
text is one ``UserError``, which names the file, the place in it and what was expected there. Where an object has a key
twice, the last value counts, as in ``json.loads``.
"""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from dualdiff_jax.errors import UserError, quoted
from dualdiff_jax.files import read_regular

LARGEST = 16 << 20  # bytes of a file that only describes others: a config, an index of shards, a manifest
DEEPEST = 200  # lists and objects inside each other; all that walks through a value by recursion copes with it
LONGEST_NUMBER = 308  # characters of a whole number, so that a float holds it

Value = TypeVar("Value")
KINDS = {
    dict: "an object",
    list: "a list",
    str: "a text",
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    type(None): "null",
}


def read_json(path: str | Path, largest: int = LARGEST) -> Any:
    """Reads a file of JSON.

    Args:
        path: the file.
        largest: how many bytes it may have; a larger one is refused before it is read.

    Returns:
        The value: a dict, list, str, int, float, bool or None.

    Raises:
        UserError: ``path`` is no regular file, cannot be read, is larger than ``largest``, or is no JSON.
    """
    try:
        data = read_regular(path, largest)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); check the path and its permissions") from error
    return parse_json(data, str(path))


def parse_json(text: str | bytes, name: str, *, allow_nan: bool = False) -> Any:
    """Parses JSON.

    Args:
        text: the JSON; bytes are UTF-8, or UTF-16 or UTF-32 by their first bytes.
        name: of the text, for messages.
        allow_nan: whether NaN and Infinity, which Python writes and JSON lacks, are read.

    Returns:
        The value: a dict, list, str, int, float, bool or None. Every number is finite unless ``allow_nan``.

    Raises:
        UserError: ``text`` is no JSON, is nested more than ``DEEPEST`` deep, or has a number that no float holds.
    """
    try:
        decoded = text.decode(json.detect_encoding(text)) if isinstance(text, bytes) else text
    except UnicodeDecodeError as error:
        raise UserError(f"{name}: is no {error.encoding} text at byte {error.start} ({error.reason})") from error

    def whole(digits: str) -> int:
        return int(digits) if len(digits) <= LONGEST_NUMBER else refuse(digits)

    def real(digits: str) -> float:
        value = float(digits)
        return value if math.isfinite(value) else refuse(digits)

    def refuse(number: str) -> Any:
        raise UserError(f"{name}: has {quoted(number)}{_place(decoded, number)}, expected a finite number")

    try:
        constant = float if allow_nan else refuse
        value = json.loads(decoded, parse_int=whole, parse_float=real, parse_constant=constant)
        is_too_deep = _is_deeper(value, DEEPEST)
    except RecursionError:
        is_too_deep = True
    except json.JSONDecodeError as error:
        raise UserError(f"{name}: is no JSON (line {error.lineno}, column {error.colno}: {error.msg})") from error
    if is_too_deep:
        raise UserError(f"{name}: is nested more than {DEEPEST} deep")
    return value


def checked(value: Any, kind: type[Value], name: str) -> Value:
    """``value``, which has to be of a type.

    Args:
        value: from ``read_json`` or ``parse_json``.
        kind: dict, list, str, int, float or bool; a whole number counts as a float, true and false are no numbers.
        name: the file and the place in it, for the message.

    Raises:
        UserError: ``value`` is of another type.
    """
    if kind is float and type(value) is int:
        return kind(value)
    if type(value) is not kind:
        raise UserError(f"{name}: found {quoted(value)}, expected {KINDS[kind]}")
    return value


def field(content: Mapping[str, Any], key: str, kind: type[Value], name: str) -> Value:
    """``content[key]``, checked as by ``checked``. Raises ``UserError`` also where there is no ``key``."""
    if key not in content:
        raise UserError(f"{name}: lacks {key!r}, expected {KINDS[kind]}")
    return checked(content[key], kind, f"{name}: {key}")


def read_object(path: str | Path, largest: int = LARGEST) -> dict[str, Any]:
    """The object in a file, by ``read_json``. Raises ``UserError`` also where the file holds no object."""
    return checked(read_json(path, largest), dict, str(path))


def _place(text: str, word: str) -> str:
    """Where ``word`` first is in ``text``."""
    at = text.find(word)
    return f" in line {text.count(chr(10), 0, at) + 1}" if at >= 0 else ""


def _is_deeper(value: Any, depth: int) -> bool:
    """Whether lists and objects in ``value`` lie more than ``depth`` deep."""
    level = [value]
    for _ in range(depth + 1):
        level = [item for item in level if isinstance(item, dict | list)]
        if not level:
            return False
        level = [child for item in level for child in (item.values() if isinstance(item, dict) else item)]
    return True
