"""What an encoded file was made from: a note beside it, by which a later start knows whether that has changed.

512x512-000000.inputs.json
indexes   hash of the numbers of its records in the source
records   hash of the records in their order: names, texts, sizes, contents of images
images    path -> [size, time in ns, hash] of each image that is a file of its own; null where there was none
size      bytes of the encoded file itself; earlier versions did not note it
"""

import concurrent.futures
import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from dualdiff_jax.data.decoding import content
from dualdiff_jax.data.records.manifest import MOST
from dualdiff_jax.data.records.record import MISSING, DataError, Record, Source
from dualdiff_jax.files import as_path, new_file
from dualdiff_jax.json_files import read_object

THREADS = 16
ENDING = ".inputs.json"


class ImageStamp(NamedTuple):
    """An image file as it was read; ``hash`` is the cause of its fault if it could not be read."""

    size: int
    time: int
    hash: str


Stamps = Mapping[str, ImageStamp | None]  # path -> the file there, None for no file


class Inputs(NamedTuple):
    """The fields of a note."""

    indexes: str
    records: str
    images: Stamps
    size: int | None = None


class RecordNote(NamedTuple):
    """What is noted of one record."""

    digest: bytes  # of all that the encoded record depends on
    path: str = ""  # of its image, if that is a file of its own
    stamp: ImageStamp | None = None  # of the file at ``path``; None if there is none


class ReadRecord(NamedTuple):
    """A record, or its fault; its image, or that one's fault, or None if there is none or it is known; the note."""

    record: Record | DataError
    image: bytes | DataError | None
    note: RecordNote


class InputNotes:
    """Gathers the note of one file, record after record.

    Args:
        indexes: of its records.
    """

    def __init__(self, indexes: np.ndarray):
        self._indexes, self._records = indexes, hashlib.sha256()
        self._images: dict[str, ImageStamp | None] = {}

    def add(self, note: RecordNote) -> None:
        """Adds the next record."""
        self._records.update(note.digest)
        if note.path:
            self._images[note.path] = note.stamp

    def finish(self) -> Inputs:
        """The note of all that was added."""
        return Inputs(hash_of_indexes(self._indexes), self._records.hexdigest(), self._images)


def read_record(source: Source, index: int, known: Stamps | None = None) -> ReadRecord:
    """Reads a record and its image.

    Args:
        source: the records.
        index: the record's number.
        known: images that need not be read again if their sizes and times are the same.
    """
    try:
        record = source[index]
    except DataError as error:
        return ReadRecord(error, None, RecordNote(_hash(error.cause.encode())))
    if not isinstance(record.image, os.PathLike):
        hashed = "" if record.image is None else _hash(record.image).hex()
        return ReadRecord(record, record.image, RecordNote(_digest(record, hashed)))
    path, image = str(record.image), None
    stamp = (known or {}).get(path)
    if stamp is None or stamp[:2] != stamp_of(path):
        image, stamp = read_image_file(record.image)
    return ReadRecord(record, image, RecordNote(_digest(record, stamp.hash if stamp else MISSING), path, stamp))


def read_image_file(file: Path) -> tuple[bytes | DataError, ImageStamp | None]:
    """(the bytes of an image or why they cannot be read, its stamp)."""
    status = stamp_of(file)  # before the content, so that a change meanwhile shows in the time
    try:
        image = content(file, str(file))
        hashed = _hash(image).hex()
    except DataError as error:
        image, hashed = error, error.cause
    return image, ImageStamp(*status, hashed) if status else None


def _digest(record: Record, image: str) -> bytes:
    """The digest of a record whose image has the hash ``image``."""
    arrays = [(name, _hash(value.tobytes()).hex()) for name, value in record.arrays.items()]
    texts = [record.record_id, record.captions, record.turns, record.answers, record.size, image, arrays]
    return _hash(json.dumps(texts).encode())


def inputs_now(source: Source, indexes: np.ndarray, known: Stamps) -> Inputs:
    """The note of a file as it would be written now. Arguments: ``read_record``."""
    notes = InputNotes(indexes)
    with concurrent.futures.ThreadPoolExecutor(THREADS) as pool:
        for note in pool.map(lambda index: read_record(source, index, known).note, indexes.tolist()):
            notes.add(note)
    return notes.finish()


def note_file(file: Path) -> Path:
    """Where the note of an encoded file is."""
    return file.with_name(file.stem + ENDING)


def write_inputs(file: Path, inputs: Inputs, owner: str) -> None:
    """Writes the note of ``file``. Raises ``OSError``."""
    with new_file(note_file(file), owner) as partial:
        partial.write_text(json.dumps(inputs._asdict()), encoding="utf-8")


def read_inputs(file: Path) -> Inputs | None:
    """The note of ``file``; None if there is none that can be read."""
    try:
        fields = read_object(note_file(file), MOST)
        images = {path: stamp and ImageStamp(*stamp) for path, stamp in fields["images"].items()}
        size = fields.get("size")
        return Inputs(str(fields["indexes"]), str(fields["records"]), images, size if size is None else int(size))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def changed_times(images: Stamps) -> list[str]:
    """The paths whose files have another size or time than noted, or are there although they were not, or gone."""
    with concurrent.futures.ThreadPoolExecutor(THREADS) as pool:
        found = zip(images.items(), pool.map(stamp_of, images), strict=True)
        return [path for (path, stamp), status in found if (stamp and stamp[:2]) != status]


def stamp_of(path: str | Path) -> tuple[int, int] | None:
    """(size, time in ns) of a file; None if there is none."""
    try:
        status = as_path(path).stat()
    except (OSError, ValueError):
        return None
    return status.st_size, status.st_mtime_ns


def hash_of_indexes(indexes: Iterable[int]) -> str:
    """The hash of the numbers of a file's records."""
    return _hash(np.asarray(indexes, np.int64).tobytes()).hex()


def _hash(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()
