"""webdataset shards: tar files in which neighbours with the same stem are one sample.

    00012.jpg  00012.json  00013.jpg  00013.json  ...
The image is jpg, png or the like. The text is either json, whose keys the config names, or txt, which is the caption.
A shard is indexed once; then a record is one read of the image and one of the text.
"""

import array
import json
import logging
import tarfile
from pathlib import Path

import numpy as np

from dualdiff_jax.config import RootConfig, SourceConfig
from dualdiff_jax.data.records.fields import FieldReader
from dualdiff_jax.data.records.index import IndexCache, RangeReader, is_small
from dualdiff_jax.data.records.patterns import expand
from dualdiff_jax.data.records.record import ABSENT_KEY, UNREADABLE, DataError, Record
from dualdiff_jax.errors import UserError

log = logging.getLogger(__name__)

IMAGE_ENDINGS = ("jpg", "jpeg", "png", "webp", "gif", "bmp", "tif", "tiff")
HEAD = 1 << 16  # bytes of an image; nearly always they include its size
BLOCK = 512  # bytes of a member's header
NAME = slice(0, 100)  # bytes of the header that are the member's name


def tar_index(file: Path) -> np.ndarray:
    """Reads the headers of a shard in one pass, and no image.

    Returns:
        (samples, 5) int64: first byte and length of the image, first byte and length of the text, and 1 if the text is
        json. A length of -1 means that there is none.

    Raises:
        UserError: the file is not an uncompressed tar, or is cut.
    """
    rows, key, row = array.array("q"), None, [0, -1, 0, -1, 0]
    try:
        with tarfile.open(file, "r:") as archive:
            for member in archive:
                # The archive would keep every header; typeshed does not know the list.
                archive.members = []  # pyright: ignore[reportAttributeAccessIssue]
                folder, _, name = member.name.rpartition("/")
                stem, _, ending = name.partition(".")
                if not member.isfile() or not stem:
                    continue
                if (folder, stem) != key:
                    if key is not None:
                        rows.extend(row)
                    key, row = (folder, stem), [0, -1, 0, -1, 0]
                ending = ending.lower()
                if ending in IMAGE_ENDINGS:
                    row[:2] = member.offset_data, member.size
                elif ending == "json" or (ending == "txt" and not row[4]):
                    row[2:] = member.offset_data, member.size, int(ending == "json")
    except (tarfile.TarError, OSError) as error:
        raise UserError(
            f"{file}: is not an uncompressed tar file, or is cut ({error}); copy or unpack it again"
        ) from error
    if key is not None:
        rows.extend(row)
    return np.frombuffer(rows, np.int64).reshape(-1, 5)


class TarSource:
    """The samples of one shard."""

    def __init__(self, source: SourceConfig, root: RootConfig, file: Path, cache: IndexCache):
        self._arguments = (source, root, file, cache)
        self._file, self._fields, self._reader = file, FieldReader(source, root), RangeReader()
        self._text_key = root.caption_keys[0]
        self._index = cache.array([file], "tar", lambda: tar_index(file), is_small=is_small(file))

    def __reduce__(self):
        return type(self), self._arguments

    def __len__(self) -> int:
        return len(self._index)

    def __getitem__(self, index: int) -> Record:
        return self._record(index, None)

    def head(self, index: int) -> Record:
        return self._record(index, HEAD)

    def has_image(self) -> np.ndarray | None:
        return None

    def files(self) -> list[Path]:
        return [self._file]

    def _record(self, index: int, image_bytes: int | None) -> Record:
        """The record, with at most ``image_bytes`` bytes of its image."""
        start, length, text_start, text_length, is_json = self._index[index].tolist()
        record_id = f"{self._file.name}[{index}]"
        for what, count in (("an image", length), ("a json or txt", text_length)):
            if count < 0:
                raise DataError(ABSENT_KEY, f"{record_id} has no member with {what}")
        try:
            block = self._reader.read(self._file, start - BLOCK, BLOCK + min(length, image_bytes or length))
            text = self._reader.read(self._file, text_start, text_length)
            record_id += f" {block[NAME].rstrip(bytes(1)).decode('utf-8', 'replace')}"
            fields = json.loads(text) if is_json else {self._text_key: text.decode("utf-8")}
        except (OSError, ValueError) as error:
            raise DataError(UNREADABLE, f"{record_id} cannot be read ({error})") from error
        return self._fields.record(fields, record_id, block[BLOCK:])


def open_tar(source: SourceConfig, root: RootConfig, cache: IndexCache) -> list[TarSource]:
    """One source a shard that has samples.

    Raises:
        UserError: a shard is missing or damaged, or no shard has the _stats.json that the config asks for.
    """
    files = [file for file in expand(root.root, root.files) if file.suffix == ".tar"]
    if source.needs_stats:
        complete = [file for file in files if file.with_name(f"{file.stem}_stats.json").is_file()]
        if len(complete) < len(files):
            log.warning(
                "%s: %d of %d shards have no _stats.json and are skipped",
                root.root,
                len(files) - len(complete),
                len(files),
            )
        files = complete
    if not files:
        raise UserError(f"{root.root}: {root.files!r} names no complete tar shard; check source {source.name!r}")
    return [shard for shard in (TarSource(source, root, file, cache) for file in files) if len(shard)]
