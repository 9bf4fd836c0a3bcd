"""Single records of ArrayRecord files in buckets, by their place; the format's own library opens files of a disk alone.

A file is a Riegeli file of 64 KiB blocks, numbers little-endian. Each block begins with a header of 24 bytes, also in
the middle of a chunk; chunks fill the rest.
    chunk            header of 40 bytes: hash, bytes of data (8), hash, kind (1), records (7), decoded bytes (8); data
    data of kind r   compression (1), bytes of the compressed sizes (varint), the sizes (varints), the values
    compressed       decoded bytes (varint), then zstd; neither if compression is 0
    last block       a chunk whose first record has the place of the footer as its field 1
    footer           a chunk of records: the file's numbers, then place and number of records of each chunk (1, 3)
With ``group_size:1``, as encode-data and TensorFlow Datasets write, a chunk is one record. Hashes are not checked.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import cast

import numpy as np

from dualdiff_jax.errors import UserError
from dualdiff_jax.files import check_regular
from dualdiff_jax.files.bucket_path import BucketPath

BLOCK, BLOCK_HEADER, CHUNK_HEADER = 1 << 16, 24, 40
LARGEST = 1 << 29  # bytes of a decoded chunk
PLACE, RECORDS = 1, 3  # fields of a footer's record
MAGIC_FIELD, MAGIC = 2, 0x71930E704FDAE05E


def array_record_index(file: Path) -> np.ndarray:
    """Where the records of a file in a bucket are, from its end.

    Returns:
        (records, 3) int64: first byte and length of the chunk, and the number of the record in it.

    Raises:
        OSError: the file cannot be read.
        Exception: of many kinds; it is no ArrayRecord, or is cut.
    """
    size, read = check_regular(file).st_size, cast(BucketPath, file).read_range
    if size < 2 * BLOCK or size % BLOCK:
        raise ValueError(f"it has {size} bytes, not a multiple of {BLOCK}")
    last = _fields(chunk_records(read(size - BLOCK, BLOCK), size - BLOCK)[0])
    footer = last.get(PLACE, 0)
    if last.get(MAGIC_FIELD) != MAGIC or not 0 < footer < size:
        raise ValueError("its last block names no footer")
    rows = [_fields(row) for row in chunk_records(read(footer, size - BLOCK - footer), footer)[1:]]
    places = [row.get(PLACE, 0) for row in rows]
    counts = [row.get(RECORDS, 0) for row in rows]
    ends = [*places[1:], footer]
    if any(not 0 <= place < end for place, end in zip(places, ends, strict=True)) or min(counts, default=1) < 1:
        raise ValueError("its footer is damaged")
    index = np.empty((sum(counts), 3), np.int64)
    index[:, 0], index[:, 1] = np.repeat(places, counts), np.repeat(np.subtract(ends, places), counts)
    index[:, 2] = np.concatenate([np.arange(count) for count in counts]) if counts else 0
    return index


def chunk_records(content: bytes, place: int) -> list[bytes]:
    """The records of a chunk.

    Args:
        content: of the file from the chunk's first byte on, at least to the chunk's end.
        place: where in the file the chunk begins.

    Raises:
        Exception: of many kinds; this is no whole chunk.
    """
    content = _without_headers(content, place)
    size, kind = int.from_bytes(content[8:16], "little"), content[24:25]
    count = int.from_bytes(content[25:32], "little")
    data = memoryview(content)[CHUNK_HEADER : CHUNK_HEADER + size]  # whose slices are no copies
    if len(data) < size or not size:
        raise ValueError("it is cut")
    if kind != b"r":
        raise ValueError(f"chunks of kind {kind!r} are not known; write it with transpose:false")
    length, at = _varint(data, 1)
    compression = bytes(data[:1])
    sizes, values = (_decompressed(part, compression) for part in (data[at : at + length], data[at + length :]))
    return _split(sizes, values, count)


def _split(sizes: bytes | memoryview, values: bytes | memoryview, count: int) -> list[bytes]:
    records, at, begin = [], 0, 0
    for _ in range(count):
        length, at = _varint(sizes, at)
        records.append(bytes(values[begin : begin + length]))
        begin += length
    if begin != len(values):
        raise ValueError(f"its records have {len(values)} bytes instead of {begin}")
    return records


def _without_headers(content: bytes, place: int) -> bytes:
    """``content`` without the headers of blocks, the first of which is ``-place % BLOCK`` bytes away."""
    parts, at = [], 0
    for header in range(-place % BLOCK, len(content), BLOCK):
        parts.append(content[at:header])
        at = header + BLOCK_HEADER
    return b"".join([*parts, content[at:]])


def _decompressed(data: memoryview, compression: bytes) -> bytes | memoryview:
    if compression == b"\0":
        return data
    if compression != b"z":
        raise ValueError(f"compression {compression!r} is not known; write it with zstd or uncompressed")
    try:
        import pyarrow
    except ImportError:
        raise UserError("ArrayRecord in a bucket needs pyarrow; pip install pyarrow") from None
    size, at = _varint(data, 0)
    if size > LARGEST:
        raise ValueError(f"it claims {size} bytes")
    return pyarrow.Codec("zstd").decompress(data[at:], size, asbytes=True) if size else b""


def _fields(message: bytes) -> dict[int, int]:
    """Number -> value of the integer fields of a protocol buffer's message; others are passed over."""
    found, at = {}, 0
    while at < len(message):
        key, at = _varint(message, at)
        value, at = _value(message, at, key & 7)
        if value is not None:
            found[key >> 3] = value
    return found


def _value(message: bytes, at: int, kind: int) -> tuple[int | None, int]:
    """(an integer or None, the place after it) of a field."""
    if kind == 0:
        return _varint(message, at)
    if kind == 2:
        length, at = _varint(message, at)
        return None, at + length
    width = {1: 8, 5: 4}[kind]
    return int.from_bytes(message[at : at + width], "little"), at + width


def _varint(data: Sequence[int], at: int) -> tuple[int, int]:
    """(number, the place after it): seven bits a byte, the lowest first."""
    number = shift = 0
    while True:
        byte = data[at]
        number |= (byte & 127) << shift
        at, shift = at + 1, shift + 7
        if byte < 128:
            return number, at
        if shift > 63:
            raise ValueError("a number has no end")
