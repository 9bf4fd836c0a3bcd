"""Parquet tables with the images' bytes in a column, as Hugging Face publishes data sets.

A row cannot be read without its row group, so the last few groups stay in memory. That suits looking at a data set and
training on a small one; copy a large one to ArrayRecord once (docs/data.md).
"""

import collections
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dualdiff_jax.config import RootConfig, SourceConfig
from dualdiff_jax.data.records.fields import FieldReader
from dualdiff_jax.data.records.index import IndexCache
from dualdiff_jax.data.records.patterns import expand
from dualdiff_jax.data.records.record import DataError, FileSource, Record
from dualdiff_jax.errors import UserError, reason

GROUPS = 8  # row groups that stay in memory


class ParquetSource(FileSource):
    """The rows of several Parquet files, file after file."""

    def __init__(self, source: SourceConfig, root: RootConfig, files: Sequence[Path]):
        self._arguments = (source, root, files)
        self._files, self._fields = files, FieldReader(source, root)
        self._lock = threading.Lock()  # only one thread may read a file at a time
        self._groups: collections.OrderedDict = collections.OrderedDict()
        opened = [_open(file) for file in files]
        self._parquet = [parquet for parquet, _ in opened]
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
            return not isinstance(self.head(0).image, Path)  # a table may also name images
        except DataError:
            return True

    def _group(self, place: int):
        """The table of a row group, from memory if it is there."""
        with self._lock:
            if place in self._groups:
                self._groups.move_to_end(place)
            else:
                file, group = self._places[place]
                self._groups[place] = self._parquet[file].read_row_group(group, columns=self._columns[file])
                if len(self._groups) > GROUPS:
                    self._groups.popitem(last=False)
            return self._groups[place]


def _open(file: Path) -> tuple[Any, list[int]]:
    """(the opened file, rows of each of its groups)."""
    try:
        import pyarrow.parquet
    except ImportError:
        raise UserError(f"{file}: Parquet needs pyarrow; pip install pyarrow") from None
    try:
        parquet = pyarrow.parquet.ParquetFile(file)
        metadata = parquet.metadata
        rows = [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)]
        if min(rows, default=0) < 0 or sum(rows) != metadata.num_rows:
            raise ValueError(f"its row groups have {rows[:8]} rows, not the {metadata.num_rows} of the whole")
        return parquet, rows
    except Exception as error:  # the library raises many kinds, all of which mean a damaged or foreign file
        raise UserError(f"{file}: cannot be read as Parquet ({reason(error)}); copy it again") from error


def open_parquet(source: SourceConfig, root: RootConfig, cache: IndexCache) -> list[ParquetSource]:
    """One source. Raises ``UserError`` if a file is missing or no Parquet, or pyarrow is not installed."""
    del cache
    return [ParquetSource(source, root, expand(root.root, root.files))]
