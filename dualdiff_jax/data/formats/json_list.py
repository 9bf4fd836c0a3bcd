"""JSON metadata beside image folders: a list of objects, or JSON Lines.

    [{"image_path": "images/1.jpg", "ratio": 1.33, "height": 600, "width": 800, "caption": "A sunny day.",
      "re_caption": "A bright, lively park."}, ...]
An index says where each record begins, so a record is one read, and the list is never in memory as a whole.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from dualdiff_jax.config import RootConfig, SourceConfig
from dualdiff_jax.data.records.fields import FieldReader
from dualdiff_jax.data.records.index import IndexCache, json_index, open_each
from dualdiff_jax.data.records.patterns import expand
from dualdiff_jax.data.records.ranges import RangeReader
from dualdiff_jax.data.records.record import FileSource, Record
from dualdiff_jax.errors import UserError
from dualdiff_jax.json_files import parse_json


class JsonTable:
    """The elements of one JSON file, by number. One that is no JSON raises ``UserError`` when it is read.

    A list in a bucket is copied to this host's disk once: a request for each element would cost as much as one for an
    image.

    Args:
        file: a list, or JSON Lines.
        cache: keeps the index.
        column: computes a third column of ``index`` from each element.

    Attributes:
        file: as given.
        index: (elements, 2 or 3) int64, as ``json_index`` returns it.

    Raises:
        UserError: the file is no JSON list, or an empty one.
    """

    def __init__(self, file: Path, cache: IndexCache, column: Callable[[Any], int] | None = None):
        self.file, self._reader = file, RangeReader()
        self._arguments = (file, cache, column)
        self.index, self._local = json_index(file, cache, column), cache.copy(file)
        if not len(self.index):
            raise UserError(f"{file}: expected a list of records, found an empty one")

    def __reduce__(self):
        return type(self), self._arguments

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, index: int) -> Any:
        start, length = self.index[index, :2].tolist()
        return parse_json(self._reader.read(self._local, start, length), self.name(index), allow_nan=True)

    def name(self, index: int) -> str:
        return f"{self.file.name}[{index}]"


class JsonSource(FileSource):
    """The records of one JSON file."""

    def __init__(self, source: SourceConfig, root: RootConfig, file: Path, cache: IndexCache):
        self._fields, self._table = FieldReader(source, root), JsonTable(file, cache)

    def __len__(self) -> int:
        return len(self._table)

    def name(self, index: int) -> str:
        return self._table.name(index)

    def read(self, index: int, *, is_head: bool = False) -> Record:
        return self._fields.record(self._table[index], self.name(index))

    def files(self) -> list[Path]:
        return [self._table.file]


def open_json(source: SourceConfig, root: RootConfig, cache: IndexCache) -> list[JsonSource]:
    """One source a file. Raises ``UserError`` if a file is missing or no JSON list."""
    return open_each(lambda file: JsonSource(source, root, file, cache), expand(root.root, root.files))
