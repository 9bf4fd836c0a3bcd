"""From a source in the config to random access over its records, whatever its format.

json           metadata beside image folders: a list, or JSON Lines    json_list.py
tar            webdataset shards                                       tar.py
array_record   records that are read one by one, encoded data too      array_record.py
parquet        tables with the images' bytes in a column               parquet.py
tfds           data sets that TensorFlow Datasets prepared             tfds.py
llava          dialogues, some without an image                        llava.py
vqa_v2, okvqa, gqa, textvqa, vizwiz, pope, coco_captions               official.py, official_source.py
"""

import os
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from dualdiff_jax.config import RootConfig, SourceConfig
from dualdiff_jax.data.formats.array_record import open_array_record
from dualdiff_jax.data.formats.json_list import open_json
from dualdiff_jax.data.formats.llava import open_llava
from dualdiff_jax.data.formats.official import OFFICIAL_FORMATS
from dualdiff_jax.data.formats.official_source import open_official
from dualdiff_jax.data.formats.parquet import open_parquet
from dualdiff_jax.data.formats.tar import open_tar
from dualdiff_jax.data.formats.tfds import open_tfds
from dualdiff_jax.data.records.index import IndexCache
from dualdiff_jax.data.records.record import MISSING, ConcatenatedSource, DataError, Source, blame
from dualdiff_jax.errors import UserError

OpenFormat = Callable[[SourceConfig, RootConfig, IndexCache], Sequence[Source]]

FORMATS: Mapping[str, OpenFormat] = {
    "json": open_json,
    "tar": open_tar,
    "array_record": open_array_record,
    "parquet": open_parquet,
    "tfds": open_tfds,
    "llava": open_llava,
} | dict.fromkeys(OFFICIAL_FORMATS, open_official)

PROBED = 16  # records read when a source is opened, to see whether one is usable


def open_source(config: SourceConfig, cache: IndexCache | None = None) -> Source:
    """Opens all records of a source, root after root.

    Args:
        config: the source.
        cache: keeps indexes of large files; by default beside the data.

    Raises:
        UserError: a file is missing or damaged, there is no record, or none of the probed records is usable.
    """
    cache = cache or IndexCache()
    roots = (config, *config.roots)
    try:
        opened = [(root.root, source) for root in roots for source in FORMATS[config.format](config, root, cache)]
    except OSError as error:
        raise UserError(
            f"{config.root}: source {config.name!r} cannot be opened ({error.filename}: {error.strerror}); "
            "check the files and their permissions"
        ) from error
    opened = [(root, source) for root, source in opened if len(source)]
    if not opened:
        raise UserError(
            f"{config.root}: {config.files or config.format} holds no records; check source {config.name!r}"
        )
    names = [root if len(roots) > 1 else "" for root, _ in opened]
    source = opened[0][1] if len(opened) == 1 else ConcatenatedSource([source for _, source in opened], names)
    _probe(config, source)
    return source


def question_suffix(config: SourceConfig) -> str:
    """The text that follows each question of a source: the config's, or else the one of its format."""
    if config.question_suffix is not None:
        return config.question_suffix
    return OFFICIAL_FORMATS[config.format].suffix if config.format in OFFICIAL_FORMATS else ""


def _probe(config: SourceConfig, source: Source) -> None:
    """Raises ``UserError`` if none of some records is usable, which means a wrong config or missing files.

    Training skips and counts single bad records, so one good record is enough here.
    """
    faults = []
    for index in np.unique(np.linspace(0, len(source) - 1, PROBED).astype(int)).tolist():
        try:
            record = source[index]
            with blame(record.record_id):
                if isinstance(record.image, os.PathLike) and not record.image.is_file():
                    raise DataError(MISSING, f"{record.image}: there is no such image; {record.record_id} names it")
            return
        except DataError as error:
            faults.append(str(error))
    where = f"{config.root}/{config.files}" if config.files else config.root
    more = f"\n  and {len(faults) - 3} more" if len(faults) > 3 else ""
    raise UserError(
        f"{where}: source {config.name!r} is not usable; all {len(faults)} records that were tried are bad:\n  "
        + "\n  ".join(faults[:3])
        + more
    )
