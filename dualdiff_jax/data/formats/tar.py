"""webdataset shards: tar files in which neighbours with the same stem are one sample.

    00012.jpg  00012.json  00013.jpg  00013.json  ...
The image is jpg, png or the like. The text is either json, whose keys the config names, or txt, which is the caption.
A shard is indexed once; then a record is one read of the image and one of the text.
"""

import logging
from pathlib import Path

from dualdiff_jax.config import RootConfig, SourceConfig
from dualdiff_jax.data.formats.tar_index import BLOCK, LOST, NO_MEMBER, tar_index
from dualdiff_jax.data.records.fields import FieldReader
from dualdiff_jax.data.records.index import IndexCache, is_small, open_each
from dualdiff_jax.data.records.patterns import expand, present
from dualdiff_jax.data.records.record import ABSENT_KEY, TRUNCATED, DataError, FileSource, Record, blame
from dualdiff_jax.errors import UserError
from dualdiff_jax.files import is_bucket
from dualdiff_jax.json_files import parse_json

log = logging.getLogger(__name__)

HEAD = 1 << 16  # bytes of an image; nearly always they include its size
GAP = 1 << 17  # bytes between image and text that cost less than a request of their own
NAME = slice(0, 100)  # bytes of the header that are the member's name


class TarSource(FileSource):
    """The samples of one shard."""

    def __init__(self, source: SourceConfig, root: RootConfig, file: Path, cache: IndexCache):
        self._arguments = (source, root, file, cache)
        self._file, self._fields, self._reader = file, FieldReader(source, root), cache.reader()
        self._text_key = root.caption_keys[0]
        self._index = cache.array([file], "shard", lambda: tar_index(file), is_small=is_small(file))

    def __reduce__(self):
        return type(self), self._arguments

    def __len__(self) -> int:
        return len(self._index)

    def name(self, index: int) -> str:
        return f"{self._file.name}[{index}]"

    def files(self) -> list[Path]:
        return [self._file]

    def holds_images(self) -> bool:
        return True

    def read(self, index: int, *, is_head: bool = False) -> Record:
        start, length, text_start, text_length, is_json = self._index[index].tolist()
        record_id = self.name(index)
        if length == LOST:
            message = f"{record_id}: is lost, because {self._file} is damaged from byte {start} on; copy the file again"
            raise DataError(TRUNCATED, message)
        for what, count in (("an image", length), ("a json or txt", text_length)):
            if count == NO_MEMBER:
                raise DataError(ABSENT_KEY, f"{record_id} has no member with {what}")
        count = min(length, HEAD) if is_head else length
        block, text = self._read_both((start - BLOCK, BLOCK + count), (text_start, text_length))
        record_id += f" {block[NAME].rstrip(bytes(1)).decode('utf-8', 'replace')}"
        with blame(record_id):
            is_text = not is_json
            fields = {self._text_key: text.decode()} if is_text else parse_json(text, record_id, allow_nan=True)
        return self._fields.record(fields, record_id, block[BLOCK:])

    def _read_both(self, *parts: tuple[int, int]) -> list[bytes]:
        """The bytes of two (first byte, length), of an object in one request if they lie close together."""
        begin, end = min(start for start, _ in parts), max(start + length for start, length in parts)
        if not is_bucket(self._file) or end - begin > sum(length for _, length in parts) + GAP:
            return [self._reader.read(self._file, *part) for part in parts]
        content = self._reader.read(self._file, begin, end - begin)
        return [content[start - begin : start - begin + length] for start, length in parts]


def open_tar(source: SourceConfig, root: RootConfig, cache: IndexCache) -> list[TarSource]:
    """One source a shard that has samples.

    Raises:
        UserError: a shard is missing or damaged, or no shard has the _stats.json that the config asks for.
    """
    files = [file for file in expand(root.root, root.files) if file.suffix == ".tar"]
    if source.needs_stats:
        there = present(file.with_name(f"{file.stem}_stats.json") for file in files)
        complete = [file for file in files if file.with_name(f"{file.stem}_stats.json") in there]
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
    shards = open_each(lambda file: TarSource(source, root, file, cache), files)
    for file in (file for file, shard in zip(files, shards, strict=True) if not len(shard)):
        log.warning("%s: holds no samples and is left out; copy it again if it should", file)
    return [shard for shard in shards if len(shard)]
