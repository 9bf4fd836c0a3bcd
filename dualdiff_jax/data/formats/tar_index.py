"""The index of a tar shard, which says too what of the shard cannot be reached.

A tar file is a chain of members, each a header and its content in blocks of 512 bytes. Two blocks of zeros end it, and
more zeros fill its last record. Python's reader takes any break of the chain for the end. Here a break is
    no end mark    the file ends where a header should be, or within a member
    a header       that is damaged, or claims a size that no member can have
    zeros          more than an end mark and its filling have: a hole, or a download that did not end
    garbage        behind the end mark, unless it is another archive, which is read too
Nobody can know how many samples lie behind a break. The bytes there and the mean size of the samples before it give the
number of rows that stand for lost samples, at least one, so that ``data.max_bad_share`` decides whether a run goes on.
Zeros over whole samples within the last 10 KiB before the end cannot be told from the filling of a shorter shard.
"""

import array
import logging
import tarfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from dualdiff_jax.data.records.forward import ForwardReader, forward_reader
from dualdiff_jax.errors import UserError, quoted, reason

log = logging.getLogger(__name__)

IMAGE_ENDINGS = ("jpg", "jpeg", "jpe", "jfif", "png", "webp", "avif", "gif", "bmp", "tif", "tiff")
BLOCK = 512  # bytes of a member's header
END_MARK = 2 * BLOCK
RECORD = 20 * BLOCK  # bytes that tar, bsdtar and Python write at once; the end is filled up to a multiple
OTHER_RECORDS = (*(1 << bits for bits in range(16, 21)), BLOCK)  # of tar -b and of writers that fill nothing
LARGEST_HEADER = 1 << 24  # bytes of a member's long name and attributes
CHUNK = 1 << 20  # bytes of zeros read at once
NO_MEMBER, LOST = -1, -2  # in place of a length
MOST_LOST = 100  # rows for each sample that was read; a reader walks over lost samples one by one


class Broken(Exception):
    """The chain of members is broken; the message says where and how."""


def tar_index(file: Path) -> np.ndarray:
    """Reads the headers of a shard in one pass, and on a disk no image. Warns of a break.

    Returns:
        (samples, 5) int64: first byte and length of the image, first byte and length of the text, and 1 if the text is
        json. A length of -1 means that there is none. (place of the break, -2, 0, -2, 0) stands for a lost sample.

    Raises:
        UserError: the file is not an uncompressed tar, or breaks before its first sample.
    """
    rows, key, row, end, broken = array.array("q"), None, [0, NO_MEMBER, 0, NO_MEMBER, 0], 0, None
    try:
        with forward_reader(file) as content:
            size = content.size
            for member, after in _members(_Bytes(content), size):
                end = after
                folder, _, name = member.name.rpartition("/")
                stem, _, ending = name.partition(".")
                if not member.isfile() or not stem:
                    continue
                if (folder, stem) != key:
                    if key is not None:
                        rows.extend(row)
                    key, row = (folder, stem), [0, NO_MEMBER, 0, NO_MEMBER, 0]
                ending = ending.lower()
                if ending in IMAGE_ENDINGS:
                    row[:2] = member.offset_data, member.size
                elif ending == "json" or (ending == "txt" and not row[4]):
                    row[2:] = member.offset_data, member.size, int(ending == "json")
    except Broken as error:
        broken = error
    except OSError as error:  # of the disk: not kept as a property of the file
        raise UserError(f"{file}: cannot be read ({reason(error)}); copy it again") from error
    if key is not None:
        rows.extend(row)
    if broken and not rows:
        raise UserError(f"{file}: is not an uncompressed tar file, or is cut ({broken}); copy or unpack it again")
    index = np.frombuffer(rows, np.int64).reshape(-1, 5)
    return _with_lost(file, index, end, size, broken) if broken else index


def _with_lost(file: Path, index: np.ndarray, end: int, size: int, broken: Broken) -> np.ndarray:
    """``index`` and the lost samples, spread evenly over it: a reader takes the next row in place of a bad one."""
    samples = len(index)
    lost = min(max(1, round((size - end) * samples / end)), MOST_LOST * samples)
    log.warning("%s: %s; samples before: %d, lost: about %d; copy it again", file, broken, samples, lost)
    places = np.linspace(samples, 0, lost).astype(int)
    return np.insert(index, places, [end, LOST, 0, LOST, 0], axis=0)


class _Bytes:
    """A file for ``tarfile`` that reads no more than a header may have."""

    def __init__(self, content: ForwardReader):
        self.content, self.at = content, 0

    def tell(self) -> int:
        return self.at

    def seek(self, at: int) -> None:
        self.at = at

    def read(self, count: int) -> bytes:
        if not 0 <= count <= LARGEST_HEADER:
            raise Broken(f"a header at byte {self.at} claims {count} bytes")
        content = self.content.read(count, self.at)
        self.at += len(content)
        return content


def _members(stream: _Bytes, size: int) -> Iterator[tuple[tarfile.TarInfo, int]]:
    """Yields (member, the byte after it) of all archives in the file. Raises ``Broken`` and ``OSError``."""
    first = at = 0  # of the archive, of the next header
    archive = None
    while True:
        stream.seek(at)
        block = stream.read(BLOCK)
        if len(block) < BLOCK:
            raise Broken(f"it ends at byte {size} without an end mark")
        if not any(block):
            first = at = _after_end(stream, first, at, size)
            if at == size:
                return
            continue
        stream.seek(at)
        try:
            archive = archive or tarfile.TarFile(fileobj=stream)  # pyright: ignore[reportArgumentType]
            stream.seek(at)
            archive.offset = at  # pyright: ignore[reportAttributeAccessIssue]
            member = tarfile.TarInfo.fromtarfile(archive)
            after: int = archive.offset  # pyright: ignore[reportAttributeAccessIssue]
        except (OSError, Broken):
            raise
        except Exception as error:  # a header can be wrong in ways of which tarfile knows only some
            raise Broken(f"its header at byte {at} is damaged ({reason(error)})") from error
        if member.size < 0 or after <= at:
            raise Broken(f"its header at byte {at} claims {member.size} bytes")
        if after > size and (member.issparse() or member.offset_data + member.size > size):
            raise Broken(f"it ends at byte {size}, within its member {quoted(member.name)}")
        yield member, min(after, size)
        at = after


def _after_end(stream: _Bytes, first: int, at: int, size: int) -> int:
    """The byte after an end mark and its filling, where the file ends or another archive begins.

    Args:
        stream: the file.
        first: where the archive begins.
        at: the first block of zeros.
        size: of the file.

    Raises:
        Broken: there are fewer or more zeros than that.
    """
    after = _after_zeros(stream.content, at, size)
    after = size if after == size else first + (after - first) // BLOCK * BLOCK
    if after - at < END_MARK:
        raise Broken(f"its end mark at byte {at} is not complete")
    needed, found = at + END_MARK - first, after - first
    is_usual = after < size or (size - first) % RECORD == 0  # then other records would only hide a hole
    if all(-(-needed // record) * record != found for record in ((BLOCK, RECORD) if is_usual else OTHER_RECORDS)):
        raise Broken(f"from byte {at} on there are {after - at} zeros, more than an end mark has")
    return after


def _after_zeros(content: ForwardReader, at: int, size: int) -> int:
    """The first byte from ``at`` on that is not zero; ``size`` if there is none. Holes of the file take no time."""
    while at < size:
        at = content.after_hole(at)
        if at >= size:
            return size
        chunk = content.read(CHUNK, at)
        if rest := chunk.lstrip(bytes(1)):
            return at + len(chunk) - len(rest)
        at += max(len(chunk), 1)
    return size
