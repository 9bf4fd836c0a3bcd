"""Large JSON files, read element by element, so that one element that cannot be parsed spoils no other.

Python refuses values that are valid JSON: more than a thousand levels, integers of more than 4,300 digits. Such an
element is None here, and its end is found by its brackets.

This module finds where records are; ``json_files.parse_json`` reads each, and says what is wrong with it.
"""

import codecs
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from dualdiff_jax.errors import UserError, quoted, reason
from dualdiff_jax.files import open_regular

CHUNK = 1 << 22  # bytes read at once
LONGEST = 1 << 28  # bytes of an element of a file that is read piece by piece
LARGEST = 1 << 30  # bytes of a file that is read as a whole
LEVELS = 2  # of a file: its lists of records, and the records

CLOSING = {"[": "]", "{": "}"}
BLANK = " \t\r\n"
TOKEN = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*"|[\[\]{}"]', re.DOTALL)  # a lone " is a string without its end
SCALAR = re.compile(r"[^\s,:\[\]{}\"]+")


def elements(file: Path, opening: str) -> Iterator[tuple[str | None, Any, int, int]]:
    """Yields the elements of a large JSON list or object, in little memory.

    Each byte is decoded as one character (Latin-1), so that places in the text are places in the file. Letters beyond
    ASCII are therefore wrong in the yielded values; parse the bytes again to get them right.

    Args:
        file: the JSON file.
        opening: "[" for a list, "{" for an object.

    Yields:
        (key, or None in a list; value, or None if Python refuses it; its first byte; the byte after its last).

    Raises:
        UserError: the file is no JSON of this kind, is cut, or goes on after its end.
    """
    decoder = json.JSONDecoder()
    with open_regular(file) as stream:
        head = stream.read(CHUNK)
        if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
            raise UserError(f"{file}: is UTF-16, in which places of records cannot be found; save it as UTF-8")
        text = head.decode("latin-1").removeprefix("\xef\xbb\xbf")
        base = stream.tell() - len(text)
        at = _skip(text, 0, BLANK)
        if text[at : at + 1] != opening:
            what = {"[": "a list of records", "{": "an object of records"}[opening]
            raise UserError(f"{file}: expected {what}, found {quoted(text[at : at + 20])} (JSON Lines end in .jsonl)")
        at += 1
        key = None
        while True:
            at = _skip(text, at, BLANK + ",:")
            try:
                if text[at : at + 1] == CLOSING[opening] and key is None:
                    return _check_rest(file, stream, text[at + 1 :], base + at + 1)
                value, stop = _value_at(decoder, text, at)
                if stop >= len(text):  # a number at the end of the text may go on in the next chunk
                    raise json.JSONDecodeError("cut", "", 0)
            except json.JSONDecodeError as error:
                if len(text) - at > LONGEST:
                    raise UserError(f"{file}: its element at byte {base + at} has more than {LONGEST} bytes") from None
                more = stream.read(max(CHUNK, len(text) - at)).decode("latin-1")
                if not more:
                    raise UserError(f"{file}: is not JSON ({error.msg} at byte {base + at})") from None
                text, base, at = text[at:] + more, base + at, 0
                continue
            if opening == "{" and key is None:
                key = value
            else:
                yield key, value, base + at, base + stop
                key = None
            at = stop


def load(file: Path) -> Any:
    """The value of a JSON file; what Python refuses in it is None, and bytes that are no text are U+FFFD.

    Raises:
        UserError: the file is no JSON, or too large.
    """
    with open_regular(file, LARGEST) as stream:
        content = stream.read()
    try:
        return _parsed(content.decode(json.detect_encoding(content), "replace").removeprefix("\ufeff"), LEVELS)
    except Exception as error:
        raise UserError(f"{file}: is not JSON ({reason(error)}); copy it again") from error


def _parsed(text: str, levels: int) -> Any:
    """The value of ``text``. Where Python refuses it, its elements down to ``levels`` are parsed one by one."""
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        raise
    except Exception:
        text = text.strip(BLANK)
        if not levels or text[:1] not in CLOSING:
            return None
        values = [_parsed(text[start:stop], levels - 1) for start, stop in _parts(text)]
        return values if text[0] == "[" else dict(zip(values[::2], values[1::2], strict=True))


def _parts(text: str) -> Iterator[tuple[int, int]]:
    """(start, stop) of each element of a list, or of each key and each value of an object."""
    at = _skip(text, 1, BLANK + ",:")
    while text[at : at + 1] != CLOSING[text[0]]:
        stop = _end(text, at)
        yield at, stop
        at = _skip(text, stop, BLANK + ",:")


def _value_at(decoder: json.JSONDecoder, text: str, at: int) -> tuple[Any, int]:
    """(value, its end); None for a value that Python refuses. Raises ``JSONDecodeError`` if it is cut, or none."""
    try:
        return decoder.raw_decode(text, at)
    except json.JSONDecodeError:
        raise
    except Exception:
        return None, _end(text, at)


def _end(text: str, at: int) -> int:
    """The place after the value that begins at ``at``. Raises ``JSONDecodeError`` if it has no end."""
    depth = 0
    if scalar := SCALAR.match(text, at):
        return scalar.end()
    for match in TOKEN.finditer(text, at):
        if match[0] == '"':
            break
        depth += (match[0] in "[{") - (match[0] in "]}")
        if depth <= 0:
            return match.end()
    raise json.JSONDecodeError("cut", "", 0)


def _check_rest(file: Path, stream: BinaryIO, rest: str, at: int) -> None:
    """Raises ``UserError`` unless blanks alone follow the end of the file's value."""
    while rest:
        if rest.strip(BLANK):
            at += _skip(rest, 0, BLANK)
            raise UserError(f"{file}: goes on at byte {at}, after the end of its list or object; is it two files?")
        at += len(rest)
        rest = stream.read(CHUNK).decode("latin-1")


def _skip(text: str, at: int, characters: str) -> int:
    """The first place from ``at`` on whose character is none of ``characters``."""
    while text[at : at + 1] and text[at] in characters:
        at += 1
    return at
