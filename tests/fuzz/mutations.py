"""Seeded damage to the bytes of a file: blind, and behind the checksums that would hide it from a reader.

A mutator is a function (bytes, rng) -> bytes. ``DAMAGE`` only spoils what is there, so a reader that misses records
afterwards has to report it. The others may also make a file that is whole and holds something else.
"""

import io
import json
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np

Rng: TypeAlias = np.random.Generator
Mutator: TypeAlias = Callable[[bytes, Rng], bytes]

EXTREMES = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, (1 << 63) - 1, (1 << 64) - 1)
DIGITS = (b"0", b"-1", b"99999999", b"1" + b"0" * 23, b"9" * 400)
PNG_SIGNATURE = 8  # bytes


def flip(data: bytes, rng: Rng) -> bytes:
    """Flips one bit."""
    return _written(data, at := _at(data, rng), bytes([data[at] ^ 1 << int(rng.integers(8))]))


def truncate(data: bytes, rng: Rng) -> bytes:
    return data[: _at(data, rng)]


def zero(data: bytes, rng: Rng) -> bytes:
    """Zeroes a span, sometimes up to the end, as a file system leaves what it did not write before a power cut."""
    at, length = _span(data, rng)
    return _written(data, at, bytes(len(data) - at if rng.random() < 0.3 else length))


def scramble(data: bytes, rng: Rng) -> bytes:
    """Overwrites a span with noise."""
    at, length = _span(data, rng)
    return _written(data, at, rng.bytes(length))


def cut_out(data: bytes, rng: Rng) -> bytes:
    at, length = _span(data, rng)
    return data[:at] + data[at + length :]


def insert(data: bytes, rng: Rng) -> bytes:
    at, length = _span(data, rng)
    return data[:at] + rng.bytes(length) + data[at:]


def repeat(data: bytes, rng: Rng) -> bytes:
    at, length = _span(data, rng)
    return data[:at] + data[at : at + length] * int(rng.integers(2, 50)) + data[at + length :]


def extreme(data: bytes, rng: Rng) -> bytes:
    """Writes an integer at the edge of its range over 1, 2, 4 or 8 bytes."""
    size, order = int(rng.choice((1, 2, 4, 8))), ("little", "big")[int(rng.integers(2))]
    value = EXTREMES[int(rng.integers(len(EXTREMES)))] % (1 << 8 * size)
    return _written(data, _at(data, rng), value.to_bytes(size, order))


def digits(data: bytes, rng: Rng) -> bytes:
    """Replaces a decimal number by another one, which may be enormous."""
    spots = [at for at, byte in enumerate(data[: 1 << 14]) if 48 <= byte < 58]
    if not spots:
        return flip(data, rng)
    at = spots[int(rng.integers(len(spots)))]
    end = at
    while end < len(data) and 48 <= data[end] < 58:
        end += 1
    return data[:at] + DIGITS[int(rng.integers(len(DIGITS)))] + data[end:]


DAMAGE: tuple[Mutator, ...] = (flip, truncate, zero, scramble)
BLIND: tuple[Mutator, ...] = (*DAMAGE, cut_out, insert, repeat, extreme, digits)


def several(data: bytes, rng: Rng) -> bytes:
    """One to four blind mutations."""
    for _ in range(int(rng.integers(1, 5))):
        data = BLIND[int(rng.integers(len(BLIND)))](data, rng) or b"\0"
    return data


def json_value(data: bytes, rng: Rng) -> bytes:
    """Changes the structure of a JSON text that stays valid: a value of another type, a key gone, depth, repetition."""
    root = [json.loads(data)]
    holder, key = _place(root, rng)
    strange: Sequence[Any] = (
        *(None, True, 0, -1, 3, 0.5, 1 << 40, 10**400, float("nan"), float("inf"), "", "\ud83d", "\0", "x" * 10_000),
        *([], {}, [None], [[]], {"": ""}, [holder[key]] * 3, {"x": holder[key]}, _deep(), "../../../etc/passwd"),
    )
    if rng.random() < 0.3:
        del holder[key]
    else:
        holder[key] = strange[int(rng.integers(len(strange)))]
    return json.dumps(root[0] if root else None).encode()


def json_text(data: bytes, rng: Rng) -> bytes:
    """Puts text that the standard library's writer would not make into a JSON text."""
    odd = (b"\xff", b"9" * 5000, b"1e999", b"[" * 100_000, b"\\ud83d", b"NaN", b"\xef\xbb\xbf", b"-", b'{"a":1,"a":2}')
    at = _at(data, rng)
    return data[:at] + odd[int(rng.integers(len(odd)))] + data[at:]


def json_line(data: bytes, rng: Rng) -> bytes:
    """``json_value`` in one line of JSON Lines."""
    lines = [line for line in data.split(b"\n") if line.strip()]
    at = int(rng.integers(len(lines)))
    lines[at] = json_value(lines[at], rng)
    return b"\n".join(lines) + b"\n"


def safetensors_header(data: bytes, rng: Rng) -> bytes:
    """Mutates the header, and states its new length."""
    length = int.from_bytes(data[:8], "little")
    header = (json_value, json_text, several)[int(rng.integers(3))](data[8 : 8 + length], rng)
    return len(header).to_bytes(8, "little") + header + data[8 + length :]


def zip_member(data: bytes, rng: Rng) -> bytes:
    """Mutates one member of a zip archive, which gets its right checksum; sometimes it is a bomb."""
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as source, zipfile.ZipFile(out, "w") as target:
        names = source.namelist()
        chosen = (
            names[int(rng.integers(len(names)))] if rng.random() < 0.4 else next(n for n in names if "data.pkl" in n)
        )
        for name in names:
            content = source.read(name)
            kind = zipfile.ZIP_STORED
            if name == chosen:
                content = several(content, rng)
                if rng.random() < 0.02:
                    content, kind = bytes(1 << 28), zipfile.ZIP_DEFLATED
            target.writestr(name, content, kind)
    return out.getvalue()


def png_chunk(data: bytes, rng: Rng) -> bytes:
    """Mutates one chunk of a PNG, which gets its right length and checksum."""
    chunks, at = [], PNG_SIGNATURE
    while at < len(data):
        (length,) = struct.unpack(">I", data[at : at + 4])
        chunks.append((data[at + 4 : at + 8], data[at + 8 : at + 8 + length]))
        at += 12 + length
    which = int(rng.integers(len(chunks)))
    chunks[which] = (chunks[which][0], several(chunks[which][1] or b"\0", rng))
    out = [data[:PNG_SIGNATURE]]
    for kind, content in chunks:
        out.append(struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content)))
    return b"".join(out)


def tar_header(data: bytes, rng: Rng) -> bytes:
    """Mutates the header of one member of a tar, which gets its right checksum."""
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        members = archive.getmembers()
    at = members[int(rng.integers(len(members)))].offset
    header = bytearray(data[at : at + 512])
    for _ in range(int(rng.integers(1, 4))):
        header[int(rng.integers(512))] = int(rng.choice((0, 0x20, 0x30, 0x37, 0x80, 0xFF, int(rng.integers(256)))))
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    return _written(data, at, bytes(header))


def _at(data: bytes, rng: Rng) -> int:
    return int(rng.integers(len(data))) if data else 0


def _span(data: bytes, rng: Rng) -> tuple[int, int]:
    """(start, length) inside ``data``; short spans are as likely as long ones."""
    at = _at(data, rng)
    return at, min(len(data) - at, 1 << int(rng.integers(13)))


def _written(data: bytes, at: int, new: bytes) -> bytes:
    new = new[: len(data) - at]
    return data[:at] + new + data[at + len(new) :]


def _place(root: list, rng: Rng) -> tuple[Any, Any]:
    """(container, key) of a random value inside ``root``."""
    places, open_ends = [], [root]
    while open_ends:
        holder = open_ends.pop()
        for key in holder if isinstance(holder, dict) else range(len(holder)):
            places.append((holder, key))
            if isinstance(holder[key], dict | list):
                open_ends.append(holder[key])
    return places[int(rng.integers(len(places)))]


def _deep() -> Any:
    value: Any = 0
    for _ in range(900):
        value = [value]
    return value
