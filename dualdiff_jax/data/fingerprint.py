"""The fingerprint of a run's data: the same wherever the data lie and whenever they were written.

For each source
    records   how many it has
    files     name -> digest of each file that holds records
    images    digest of the sizes and first bytes of evenly spaced images that are files of their own; "" for none
The digest of a file is that of all its bytes if the images lie elsewhere (JSON, the publishers' files). For a file
that holds the images too (tar, ArrayRecord, Parquet), it is that of its size and of evenly spaced blocks. So the
fingerprint of any data set takes seconds, and a change of a few images of many may escape it.
"""

import concurrent.futures
import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol, TypeAlias, TypeVar, cast

import numpy as np

from dualdiff_jax.data.reader_watchdog import ReadingNotes
from dualdiff_jax.data.records.index import IndexCache, is_small
from dualdiff_jax.data.records.record import DataError
from dualdiff_jax.errors import UserError, reason
from dualdiff_jax.files import check_regular, file_hash
from dualdiff_jax.files.ranges import read_part, read_parts

T = TypeVar("T")
DataFingerprint: TypeAlias = dict[str, Any]  # source name -> the above; JSON holds it

BLOCK = 1 << 16  # bytes of a block, and of the head of an image
BLOCKS = 1024  # of the files of a source together
IMAGES = 1000  # of a source
NAMED = 100  # files with a digest of their own; more have one together
SHOWN = 3  # files that a message names
THREADS = 16
WHOLE = -1  # in place of the number of blocks


class Fingerprinted(Protocol):
    """What a fingerprint looks at: of a ``Source``, or of a benchmark's questions."""

    def __len__(self) -> int: ...

    def head(self, index: int) -> Any: ...

    def files(self) -> list[Path]: ...

    def holds_images(self) -> bool: ...


def source_fingerprint(
    source: Fingerprinted, root: str, cache: IndexCache, notes: ReadingNotes | None = None
) -> dict[str, Any]:
    """The fingerprint of one source.

    Args:
        source: its records.
        root: the folder that the names of files start from.
        cache: keeps the digests of large lists.
        notes: get the name of each file while it is read.

    Returns:
        The fields above.

    Raises:
        UserError: a file cannot be read.
    """
    files = {os.path.relpath(file, root): digest for file, digest in file_digests(source, cache, notes).items()}
    if len(files) > NAMED:
        files = {f"{len(files)} files": hashlib.sha256(repr(sorted(files.items())).encode()).hexdigest()}
    return {"records": len(source), "files": files, "images": "" if source.holds_images() else _images(source, notes)}


def file_digests(source: Fingerprinted, cache: IndexCache, notes: ReadingNotes | None = None) -> dict[Path, str]:
    """The digest of each file that holds records of ``source``. Raises ``UserError`` if one cannot be read."""
    files = source.files()
    if not source.holds_images():
        return {file: _noted(notes, file_digest, file, WHOLE, cache) for file in files}
    sampled = set(_spread(len(files), BLOCKS).tolist())
    blocks = [BLOCKS // len(sampled) if number in sampled else 0 for number in range(len(files))]
    with concurrent.futures.ThreadPoolExecutor(THREADS) as pool:
        digests = pool.map(lambda file, count: _noted(notes, file_digest, file, count, cache), files, blocks)
        return dict(zip(files, digests, strict=True))


def file_digest(file: Path, blocks: int, cache: IndexCache) -> str:
    """The digest of one file.

    Args:
        file: the file.
        blocks: how many to read besides the size; ``WHOLE`` reads all of it.
        cache: keeps the digest of all of a large file.

    Returns:
        "BLOCKS:HASH", so that ``blocks_of`` tells how to compute it again.

    Raises:
        UserError: the file cannot be read.
    """
    try:
        if blocks == WHOLE and not is_small(file):
            kept = cache.file([file], "sha256", "txt", lambda partial: _write_hash(file, partial, cache))
            return f"{WHOLE}:{kept.read_text(encoding='ascii')}"
        if blocks == WHOLE:
            return f"{WHOLE}:{file_hash(file)}"
        size = check_regular(file).st_size
        digest = hashlib.sha256(str(size).encode())
        starts = _spread(size - BLOCK + 1, blocks) if size > BLOCK * blocks else range(0, size, BLOCK)
        for block in read_parts(file, [(int(start), BLOCK) for start in starts]):
            digest.update(block)
        return f"{blocks}:{digest.hexdigest()}"
    except OSError as error:
        raise UserError(f"{file}: cannot be read ({reason(error)}); check it and its permissions") from error


def blocks_of(digest: str) -> int:
    """How many blocks a digest was computed from, or ``WHOLE``."""
    return int(digest.partition(":")[0])


def differences(before: DataFingerprint, now: DataFingerprint) -> str:
    """What differs between two fingerprints of the same sources.

    Args:
        before: the older one; a source may have its number of records alone, as earlier versions stored it. Sources
            that ``now`` lacks do not count: earlier versions also counted those of streams without weight.
        now: the newer one.

    Returns:
        For a sentence, such as ``source 'questions' (40 records -> 41, list.json)``; "" for no difference.
    """
    found = {name: ", ".join(_changes(before.get(name), fingerprint)) for name, fingerprint in now.items()}
    return ", ".join(f"source {name!r} ({changes})" for name, changes in found.items() if changes)


def _changes(before: Any, now: Any) -> Iterator[str]:
    if before is None:
        yield "is new"
        return
    counts = [value["records"] if isinstance(value, Mapping) else value for value in (before, now)]
    if counts[0] != counts[1]:
        yield f"{counts[0]} records -> {counts[1]}"
    if isinstance(before, Mapping) and isinstance(now, Mapping):
        old, new = before["files"], now["files"]
        names = [name for name in dict.fromkeys((*new, *old)) if old.get(name) != new.get(name)]
        yield from names[:SHOWN]
        if len(names) > SHOWN:
            yield f"{len(names) - SHOWN} more files"
        if before["images"] != now["images"]:
            yield "its images"


def _write_hash(file: Path, output: Path, cache: IndexCache) -> None:
    with cache.local(file) as local:
        output.write_text(file_hash(local), encoding="ascii")


def _noted(notes: ReadingNotes | None, read: Callable[..., T], file: Path, *args: Any) -> T:
    """``read(file, *args)``, with the file's name in ``notes`` for as long as it takes."""
    if notes is None:
        return read(file, *args)
    notes.begin(str(file))
    try:
        return read(file, *args)
    finally:
        notes.end()


def _images(source: Fingerprinted, notes: ReadingNotes | None) -> str:
    """The digest of evenly spaced images, each a file of its own."""
    with concurrent.futures.ThreadPoolExecutor(THREADS) as pool:
        return _joined(pool.map(lambda index: _image_head(source, int(index), notes), _spread(len(source), IMAGES)))


def _image_head(source: Fingerprinted, index: int, notes: ReadingNotes | None) -> bytes:
    """The size and first bytes of a record's image; a word in their place if there is none that can be read."""
    try:
        image = source.head(index).image
        return _noted(notes, _head_of_file, cast(Path, image)) if isinstance(image, os.PathLike) else b"no file"
    except (DataError, UserError, OSError):
        return b"unreadable"


def _head_of_file(file: Path) -> bytes:
    return b"%d " % check_regular(file).st_size + read_part(file, 0, BLOCK).tobytes()


def _joined(parts: Iterable[bytes]) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(hashlib.sha256(part).digest())
    return digest.hexdigest()


def _spread(count: int, most: int) -> np.ndarray:
    """At most ``most`` of the numbers below ``count``, evenly spaced, the first and the last among them."""
    return np.unique(np.linspace(0, max(count - 1, 0), min(count, most)).astype(np.int64))
