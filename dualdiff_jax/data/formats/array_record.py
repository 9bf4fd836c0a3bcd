"""Records in ArrayRecord files, each readable on its own: the format that encode-data writes.

A record is packed as
    4 bytes, little-endian       the length n of the header
    n bytes of JSON, the header  id, captions, turns, answers, size, length of the image, names and shapes of arrays
    the rest                     the image, then the arrays, back to back
"""

import json
import math
import os
import struct
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from array_record.python import array_record_module  # pyright: ignore[reportAttributeAccessIssue]  # compiled
from grain.sources import ArrayRecordDataSource

from dualdiff_jax.config import RootConfig, SourceConfig
from dualdiff_jax.data.formats.array_record_chunks import array_record_index, chunk_records
from dualdiff_jax.data.records.index import IndexCache, open_each
from dualdiff_jax.data.records.manifest import TEXT_ONLY, read_manifest
from dualdiff_jax.data.records.patterns import expand
from dualdiff_jax.data.records.record import ABSENT_KEY, DataError, FileSource, Record
from dualdiff_jax.errors import UserError, quoted, reason
from dualdiff_jax.files import is_bucket

OPTIONS = "group_size:1"  # records compressed together; more than one could not be read alone
LENGTH = struct.Struct("<I")
DTYPES = {"bfloat16": np.dtype(ml_dtypes.bfloat16)} | {n: np.dtype(n) for n in ("float32", "float16", "int32", "uint8")}


def pack(record: Record) -> bytes:
    """The record as bytes; an image that is a path is read and stored. Raises ``OSError``."""
    image = record.image.read_bytes() if isinstance(record.image, os.PathLike) else record.image
    arrays = {name: np.ascontiguousarray(value) for name, value in record.arrays.items()}
    header = {
        "id": record.record_id,
        "captions": record.captions,
        "turns": record.turns,
        "answers": record.answers,
        "size": record.size,
        "image": None if image is None else len(image),
        "arrays": [[name, value.dtype.name, value.shape] for name, value in arrays.items()],
    }
    text = json.dumps(header, ensure_ascii=False).encode()
    return b"".join([LENGTH.pack(len(text)), text, image or b"", *(value.tobytes() for value in arrays.values())])


def unpack(packed: bytes) -> Record:
    """The inverse of ``pack``.

    Raises:
        Exception: of many kinds; ``packed`` was not written by ``pack``, or is cut.
    """
    (length,) = LENGTH.unpack_from(packed)
    at = LENGTH.size + length
    header = json.loads(packed[LENGTH.size : at])
    image = None
    if header["image"] is not None:
        image = packed[at : at + _count(header["image"])]
        at += header["image"]
    arrays = {}
    for name, dtype, shape in header["arrays"]:
        arrays[name] = np.frombuffer(packed, DTYPES[dtype], math.prod(map(_count, shape)), at).reshape(shape)
        at += arrays[name].nbytes
    if at != len(packed):
        raise ValueError(f"it has {len(packed)} bytes instead of {at}")
    return Record(
        record_id=_text(header["id"]),
        image=image,
        captions=header["captions"],
        turns=header["turns"],
        answers=header["answers"],
        size=header["size"] and tuple(header["size"]),
        arrays=arrays,
    )


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError(f"its id should be text, found {quoted(value)}")
    return value


def _count(value: Any) -> int:
    if not isinstance(value, int) or value < 0:
        raise ValueError(f"{quoted(value)} is no length")
    return value


def write_records(file: str | Path, records: Iterable[Record]) -> int:
    """Writes a new ArrayRecord file.

    Args:
        file: replaced if it exists; complete only once this function returns.
        records: images that are paths are read and stored.

    Returns:
        How many records were written.
    """
    count = 0
    writer = array_record_module.ArrayRecordWriter(str(file), OPTIONS)
    try:
        for record in records:
            writer.write(pack(record))
            count += 1
    finally:
        writer.close()
    return count


class _ObjectRecords:
    """The packed records of a file in a bucket, each of which is one request."""

    def __init__(self, file: Path, cache: IndexCache):
        self._file, self._reader = file, cache.reader()
        self._index = cache.array([file], "records", lambda: array_record_index(file), is_small=False)

    def __len__(self) -> int:
        return len(self._index)

    def __getitem__(self, index: int) -> bytes:
        place, length, number = self._index[index].tolist()
        return chunk_records(self._reader.read(self._file, place, length), place)[number]


class ArrayRecordSource(FileSource):
    """The records of one ArrayRecord file."""

    def __init__(self, source: SourceConfig, file: Path, cache: IndexCache):
        self._arguments = (source, file, cache)
        self._source, self._file = source, file
        try:
            self._packed: Any = _ObjectRecords(file, cache) if is_bucket(file) else ArrayRecordDataSource([str(file)])
        except (OSError, UserError):
            raise
        except Exception as error:  # the library raises many kinds, all of which mean a damaged or foreign file
            raise UserError(f"{file}: cannot be read as ArrayRecord ({reason(error)}); copy it again") from error

    def __reduce__(self):
        return type(self), self._arguments

    def __len__(self) -> int:
        return len(self._packed)

    def name(self, index: int) -> str:
        return f"{self._file.name}[{index}]"

    def read(self, index: int, *, is_head: bool = False) -> Record:
        record = unpack(self._packed[index])
        has_turns = self._source.task == "instruction" and not self._source.question
        captions = {n: record.captions[n] for n in self._source.caption_keys if n in record.captions}
        if not (record.turns if has_turns else captions):
            expected = "turns" if has_turns else ", ".join(self._source.caption_keys)
            raise DataError(ABSENT_KEY, f"{record.record_id} has no {expected}")
        return record

    def has_image(self) -> np.ndarray | None:
        return np.zeros(len(self), bool) if self._file.name.startswith(TEXT_ONLY) else None

    def files(self) -> list[Path]:
        return [self._file]

    def holds_images(self) -> bool:
        return True


def open_array_record(source: SourceConfig, root: RootConfig, cache: IndexCache) -> list[ArrayRecordSource]:
    """One source a file: first the files of records with images, then those of records without.

    Raises:
        UserError: a file is missing, damaged or no ArrayRecord, or encode-data has not finished the folder.
    """
    files = sorted(expand(root.root, root.files), key=lambda file: file.name.startswith(TEXT_ONLY))
    read_manifest(root.root)
    return open_each(lambda file: ArrayRecordSource(source, file, cache), files)
