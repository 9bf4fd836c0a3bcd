"""How the records of a source are cut into files, the same way at every start."""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from dualdiff_jax.config import SourceConfig
from dualdiff_jax.data.catalog import Division, Shape
from dualdiff_jax.data.records.manifest import TEXT_ONLY

RECORDS_PER_FILE = 1024


class FileChunk(NamedTuple):
    """The records that are written to one file."""

    file: Path
    source: SourceConfig
    shape: Shape
    indexes: np.ndarray


def file_chunks(source: SourceConfig, division: Division, folder: Path) -> Iterator[FileChunk]:
    """Yields the files of one source, shape after shape."""
    for shape, indexes in division.items():
        prefix = TEXT_ONLY if shape is None else f"{shape[0]}x{shape[1]}-"
        for number, start in enumerate(range(0, len(indexes), RECORDS_PER_FILE)):
            chosen = np.asarray(indexes[start : start + RECORDS_PER_FILE])
            yield FileChunk(folder / f"{prefix}{number:06d}.array_record", source, shape, chosen)
