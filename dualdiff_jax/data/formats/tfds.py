"""Data sets that TensorFlow Datasets prepared as ArrayRecord, read without TensorFlow.

``files`` is the prepared folder, relative to ``root`` (``coco_captions/2014/1.1.0``), or the name of a data set whose
prepared folder is under ``root``. Images stay encoded. Keys are those of the data set's features: ``captions/text``.
"""

from pathlib import Path
from typing import Any

from dualdiff_jax.config import RootConfig, SourceConfig
from dualdiff_jax.data.records.fields import FieldReader
from dualdiff_jax.data.records.index import IndexCache
from dualdiff_jax.data.records.record import FileSource, Record
from dualdiff_jax.errors import UserError, reason
from dualdiff_jax.files import is_bucket


class TfdsSource(FileSource):
    """The examples of one split."""

    def __init__(self, source: SourceConfig, root: RootConfig):
        self._arguments = (source, root)
        self._fields = FieldReader(source, root)
        self._name = f"{root.files}/{source.split}"
        self._examples, self._folder = _open(root, source.split)

    def __reduce__(self):
        return type(self), self._arguments

    def __len__(self) -> int:
        return len(self._examples)

    def name(self, index: int) -> str:
        return f"{self._name}[{index}]"

    def read(self, index: int, *, is_head: bool = False) -> Record:
        return self._fields.record(self._examples[index], self.name(index))

    def files(self) -> list[Path]:
        return sorted(file for file in self._folder.iterdir() if file.is_file())

    def holds_images(self) -> bool:
        return True


def _open(root: RootConfig, split: str) -> tuple[Any, Path]:
    """(examples, their folder) of a split."""
    if is_bucket(root.root):
        raise UserError(
            f"{root.root}: TensorFlow Datasets reads ArrayRecord from disks alone; copy the prepared folder to a "
            "disk, or give its data set as ArrayRecord of encode-data, tar, Parquet or JSON, which buckets may hold"
        )
    try:
        import tensorflow_datasets as tfds
    except ImportError as error:
        raise UserError(f"{root.root}: {error}; pip install tensorflow-datasets importlib_resources") from None
    folder = f"{root.root}/{root.files}"
    try:
        builder: Any
        if (Path(folder) / "dataset_info.json").is_file():
            builder = tfds.builder_from_directory(folder)
        else:
            builder = tfds.builder(root.files, data_dir=root.root)
        images = [name for name, feature in builder.info.features.items() if isinstance(feature, tfds.features.Image)]
        decoders = {name: tfds.decode.SkipDecoding() for name in images}
        return builder.as_data_source(split, decoders=decoders), Path(builder.data_dir)
    except Exception as error:  # the library raises many kinds, depending on what is missing
        raise UserError(
            f"{folder}: split {split!r} cannot be opened ({reason(error)}); name a folder that was prepared with "
            f"file_format=array_record, or a data set prepared under {root.root}, and one of its splits"
        ) from error


def open_tfds(source: SourceConfig, root: RootConfig, cache: IndexCache) -> list[TfdsSource]:
    """One source. Raises ``UserError`` if the data set or the split is missing, or the library is not installed."""
    del cache
    return [TfdsSource(source, root)]
