"""Parquet tables with the images' bytes in a column, as Hugging Face publishes data sets.

A row cannot be read without its row group, so the last few groups stay in memory. That suits looking at a data set and
training on a small one; copy a large one to ArrayRecord once (docs/data.md).
"""

import collections
import io
import os
import threading
from collections.abc import Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import numpy as np

from dualdiff_jax.config import RootConfig, SourceConfig
from dualdiff_jax.data.records.fields import FieldReader
from dualdiff_jax.data.records.index import IndexCache, open_each
from dualdiff_jax.data.records.patterns import expand
from dualdiff_jax.data.records.ranges import LONGEST, RangeReader
from dualdiff_jax.data.records.record import DataError, FileSource, Record
from dualdiff_jax.errors import UserError, reason
from dualdiff_jax.files import check_regular, is_bucket
from dualdiff_jax.files.ranges import open_random

GROUPS = 8  # row groups that stay in memory


class ParquetSource(FileSource):
    """The rows of several Parquet files, file after file."""

    def __init__(self, source: SourceConfig, root: RootConfig, files: Sequence[Path], cache: IndexCache):
        self._arguments = (source, root, files, cache)
        self._files, self._fields = files, FieldReader(source, root)
        self._reader = cache.reader()
        self._lock = threading.Lock()
        self._groups: collections.OrderedDict[int, Future] = collections.OrderedDict()
        opened = open_each(_open, files)
        self._parquet = [parquet for parquet, _ in opened]
        self._sizes = open_each(lambda file: check_regular(file).st_size, files)
        self._reading = [threading.Lock() for _ in files]  # only one thread may read an open file at a time
        self._places = [(f, g) for f, (_, rows) in enumerate(opened) for g in range(len(rows))]
        self._ends = np.cumsum([count for _, rows in opened for count in rows], dtype=np.int64)
        keys = (root.image_key, *root.caption_keys, root.question_key, root.answer_key, "height", "width")
        wanted = {key.split("/")[0] for key in keys} | set(keys)
        self._columns = [sorted(wanted.intersection(parquet.schema_arrow.names)) for parquet in self._parquet]

    def __reduce__(self):
        return type(self), self._arguments

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    def name(self, index: int) -> str:
        return f"{self._files[self._places[self._place(index)][0]].name}[{index}]"

    def read(self, index: int, *, is_head: bool = False) -> Record:
        place = self._place(index)
        row = index - (int(self._ends[place - 1]) if place else 0)
        return self._fields.record(self._group(place).slice(row, 1).to_pylist()[0], self.name(index))

    def _place(self, index: int) -> int:
        """Which of ``_places`` holds a row."""
        return int(np.searchsorted(self._ends, index, side="right"))

    def files(self) -> list[Path]:
        return list(self._files)

    def files_of(self, indexes: np.ndarray) -> list[Path]:
        places = np.unique(np.searchsorted(self._ends, indexes, side="right")).tolist()
        return [self._files[number] for number in dict.fromkeys(self._places[place][0] for place in places)]

    def holds_images(self) -> bool:
        try:
            return not isinstance(self.head(0).image, os.PathLike)  # a table may also name images
        except DataError:
            return True

    def _group(self, place: int) -> Any:
        """The table of a row group, from memory if it is there; the first thread that wants it reads it."""
        with self._lock:
            found = self._groups.get(place)
            is_first = found is None
            if found is None:
                found = self._groups[place] = Future()
                if len(self._groups) > GROUPS:
                    self._groups.popitem(last=False)
            self._groups.move_to_end(place)
        if is_first:
            try:
                found.set_result(self._read_group(*self._places[place]))
            except BaseException as error:
                with self._lock:
                    self._groups.pop(place, None)  # a later reader tries again
                found.set_exception(error)
        return found.result()

    def _read_group(self, file: int, group: int) -> Any:
        path, parquet = self._files[file], self._parquet[file]
        if is_bucket(path):  # an open file of its own, so that many groups arrive at once
            import pyarrow.parquet

            stream = _ObjectFile(path, self._sizes[file], self._reader)
            parquet = pyarrow.parquet.ParquetFile(stream, metadata=parquet.metadata, pre_buffer=True)
            return parquet.read_row_group(group, columns=self._columns[file])
        with self._reading[file]:
            return parquet.read_row_group(group, columns=self._columns[file])


class _ObjectFile(io.RawIOBase):
    """An object as an open file, of which every read is one request."""

    def __init__(self, path: Path, size: int, reader: RangeReader):
        self._path, self._size, self._reader, self._at = path, size, reader, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        self._at = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._size}[whence]
        return self._at

    def read(self, size: int = -1, /) -> bytes:
        left = max(self._size - self._at, 0)
        end = self._at + (left if size is None or size < 0 else min(size, left))
        pieces = range(self._at, end, LONGEST)  # a column of a large row group may be longer than any record
        data = b"".join(self._reader.read(self._path, at, min(LONGEST, end - at)) for at in pieces)
        self._at += len(data)
        return data


def open_table(file: Path) -> Any:
    """A Parquet file as pyarrow opens it. Raises ``UserError`` if it is none, or pyarrow is not installed."""
    return _open(file)[0]


def _open(file: Path) -> tuple[Any, list[int]]:
    """(the opened file, rows of each of its groups)."""
    try:
        import pyarrow.parquet
    except ImportError:
        raise UserError(f"{file}: Parquet needs pyarrow; pip install pyarrow") from None
    try:
        parquet = pyarrow.parquet.ParquetFile(open_random(file) if is_bucket(file) else file)
        metadata = parquet.metadata
        rows = [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)]
        if min(rows, default=0) < 0 or sum(rows) != metadata.num_rows:
            raise ValueError(f"its row groups have {rows[:8]} rows, not the {metadata.num_rows} of the whole")
        return parquet, rows
    except Exception as error:  # the library raises many kinds, all of which mean a damaged or foreign file
        raise UserError(f"{file}: cannot be read as Parquet ({reason(error)}); copy it again") from error


def open_parquet(source: SourceConfig, root: RootConfig, cache: IndexCache) -> list[ParquetSource]:
    """One source. Raises ``UserError`` if a file is missing or no Parquet, or pyarrow is not installed."""
    return [ParquetSource(source, root, expand(root.root, root.files), cache)]
