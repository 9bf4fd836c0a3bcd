"""Parquet tables with the images' bytes in a column, as Hugging Face publishes data sets.

A row cannot be read without its row group, so the last few groups stay in memory. That suits looking at a data set and
training on a small one; copy a large one to ArrayRecord once (docs/data.md).
"""

import collections
import threading
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from dualdiff_jax.config import RootConfig, SourceConfig
from dualdiff_jax.data.records.fields import FieldReader
from dualdiff_jax.data.records.index import IndexCache
from dualdiff_jax.data.records.patterns import expand
from dualdiff_jax.data.records.record import UNREADABLE, DataError, Record
from dualdiff_jax.errors import UserError

GROUPS = 8  # row groups that stay in memory


class ParquetSource:
    """The rows of several Parquet files, file after file."""

    def __init__(self, source: SourceConfig, root: RootConfig, files: Sequence[Path]):
        self._arguments = (source, root, files)
        self._files, self._fields = files, FieldReader(source, root)
        self._lock = threading.Lock()  # only one thread may read a file at a time
        self._groups: collections.OrderedDict = collections.OrderedDict()
        self._parquet = [_open(file) for file in files]
        self._places = [(f, g) for f, parquet in enumerate(self._parquet) for g in range(parquet.num_row_groups)]
        rows = [self._parquet[f].metadata.row_group(g).num_rows for f, g in self._places]
        self._ends = np.cumsum(rows, dtype=np.int64)
        present = set(self._parquet[0].schema_arrow.names) if files else set()
        keys = (root.image_key, *root.caption_keys, root.question_key, root.answer_key, "height", "width")
        self._columns = sorted(present & {key.split("/")[0] for key in keys} | present & set(keys))

    def __reduce__(self):
        return type(self), self._arguments

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    def __getitem__(self, index: int) -> Record:
        place = int(np.searchsorted(self._ends, index, side="right"))
        row = index - (int(self._ends[place - 1]) if place else 0)
        record_id = f"{self._files[self._places[place][0]].name}[{index}]"
        try:
            fields = self._group(place).slice(row, 1).to_pylist()[0]
        except Exception as error:  # the library raises many kinds, all of which mean a damaged row group
            raise DataError(UNREADABLE, f"{record_id} cannot be read ({error})") from error
        return self._fields.record(fields, record_id)

    head = __getitem__

    def has_image(self) -> np.ndarray | None:
        return None

    def files(self) -> list[Path]:
        return list(self._files)

    def _group(self, place: int):
        """The table of a row group, from memory if it is there."""
        with self._lock:
            if place in self._groups:
                self._groups.move_to_end(place)
            else:
                file, group = self._places[place]
                self._groups[place] = self._parquet[file].read_row_group(group, columns=self._columns)
                if len(self._groups) > GROUPS:
                    self._groups.popitem(last=False)
            return self._groups[place]


def _open(file: Path):
    try:
        import pyarrow.parquet
    except ImportError:
        raise UserError(f"{file}: Parquet needs pyarrow; pip install pyarrow") from None
    try:
        return pyarrow.parquet.ParquetFile(file)
    except (OSError, ValueError) as error:  # Arrow's errors are subclasses of these
        raise UserError(f"{file}: cannot be read as Parquet ({error}); copy it again") from error


def open_parquet(source: SourceConfig, root: RootConfig, cache: IndexCache) -> list[ParquetSource]:
    """One source. Raises ``UserError`` if a file is missing or no Parquet, or pyarrow is not installed."""
    del cache
    return [ParquetSource(source, root, expand(root.root, root.files))]
