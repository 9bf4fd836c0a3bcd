"""Records in ArrayRecord files, each readable on its own: the format that encode-data writes.

A record is packed as
    4 bytes, little-endian       the length n of the header
    n bytes of JSON, the header  id, captions, turns, answers, size, length of the image, names and shapes of arrays
    the rest                     the image, then the arrays, back to back
"""

import json
import math
import struct
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from array_record.python import array_record_module  # pyright: ignore[reportAttributeAccessIssue]  # compiled
from grain.sources import ArrayRecordDataSource

from dualdiff_jax.config import RootConfig, SourceConfig
from dualdiff_jax.data.records.index import IndexCache
from dualdiff_jax.data.records.manifest import TEXT_ONLY, read_manifest
from dualdiff_jax.data.records.patterns import expand
from dualdiff_jax.data.records.record import ABSENT_KEY, UNREADABLE, DataError, Record, Turn
from dualdiff_jax.errors import UserError

OPTIONS = "group_size:1"  # records compressed together; more than one could not be read alone
LENGTH = struct.Struct("<I")
DTYPES = {"bfloat16": np.dtype(ml_dtypes.bfloat16)} | {n: np.dtype(n) for n in ("float32", "float16", "int32", "uint8")}


def pack(record: Record) -> bytes:
    """The record as bytes; an image that is a path is read and stored. Raises ``OSError``."""
    image = record.image.read_bytes() if isinstance(record.image, Path) else record.image
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
        ValueError, KeyError, TypeError, struct.error: ``packed`` was not written by ``pack``, or is cut.
    """
    (length,) = LENGTH.unpack_from(packed)
    at = LENGTH.size + length
    header = json.loads(packed[LENGTH.size : at])
    image = None
    if header["image"] is not None:
        image, at = packed[at : at + header["image"]], at + header["image"]
    arrays = {}
    for name, dtype, shape in header["arrays"]:
        arrays[name] = np.frombuffer(packed, DTYPES[dtype], math.prod(shape), at).reshape(shape)
        at += arrays[name].nbytes
    if at != len(packed):
        raise ValueError(f"it has {len(packed)} bytes instead of {at}")
    return Record(
        record_id=header["id"],
        image=image,
        captions={name: tuple(texts) for name, texts in header["captions"].items()},
        turns=tuple(Turn(*turn) for turn in header["turns"]),
        answers=tuple(header["answers"]),
        size=header["size"] and tuple(header["size"]),
        arrays=arrays,
    )


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


class ArrayRecordSource:
    """The records of several ArrayRecord files, file after file."""

    def __init__(self, source: SourceConfig, files: Sequence[Path], is_text_only: bool = False):
        self._source, self._files, self._is_text_only = source, files, is_text_only
        self._packed: Any = ArrayRecordDataSource([str(file) for file in files])

    def __reduce__(self):
        return type(self), (self._source, self._files, self._is_text_only)

    def __len__(self) -> int:
        return len(self._packed)

    def __getitem__(self, index: int) -> Record:
        try:
            record = unpack(self._packed[index])
        except (ValueError, KeyError, TypeError, struct.error, RuntimeError) as error:
            raise DataError(UNREADABLE, f"{self._files[0].name}[{index}] is not a record ({error})") from error
        has_turns = self._source.task == "instruction" and not self._source.question
        captions = {n: record.captions[n] for n in self._source.caption_keys if n in record.captions}
        if not (record.turns if has_turns else captions):
            expected = "turns" if has_turns else ", ".join(self._source.caption_keys)
            raise DataError(ABSENT_KEY, f"{record.record_id} has no {expected}")
        return record

    head = __getitem__

    def has_image(self) -> np.ndarray | None:
        return np.zeros(len(self), bool) if self._is_text_only else None

    def files(self) -> list[Path]:
        return list(self._files)


def open_array_record(source: SourceConfig, root: RootConfig, cache: IndexCache) -> list[ArrayRecordSource]:
    """Up to two sources: the files of records with images, and those of records without.

    Raises:
        UserError: a file is missing, damaged or no ArrayRecord, or encode-data has not finished the folder.
    """
    del cache
    files = expand(root.root, root.files)
    read_manifest(root.root)
    by_kind = {is_text: [f for f in files if f.name.startswith(TEXT_ONLY) == is_text] for is_text in (False, True)}
    try:
        return [ArrayRecordSource(source, found, is_text) for is_text, found in by_kind.items() if found]
    except Exception as error:  # the library raises many kinds, all of which mean a damaged or foreign file
        raise UserError(f"{files[0]}: cannot be read as ArrayRecord ({error}); copy it again") from error
