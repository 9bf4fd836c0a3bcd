"""From a source in the config to random access over its records, whatever its format.

json           metadata beside image folders, a list or JSON Lines     json_source.py
tar            webdataset shards                                       tar_source.py
array_record   one file, one read a record; what encode-data writes    array_records.py
parquet        image bytes in a table                                  parquet_source.py
tfds           prepared by TensorFlow Datasets                         tfds_source.py
llava          dialogues, some without an image                        llava.py
vqa_v2, okvqa, gqa, textvqa, vizwiz, pope, coco_captions               official.py
"""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from dualdiff_jax.config import RootConfig, SourceConfig
from dualdiff_jax.data.formats.array_record import open_array_record
from dualdiff_jax.data.formats.json_list import open_json
from dualdiff_jax.data.formats.llava import open_llava
from dualdiff_jax.data.formats.official import OFFICIAL_FORMATS, open_official
from dualdiff_jax.data.formats.parquet import open_parquet
from dualdiff_jax.data.formats.tar import open_tar
from dualdiff_jax.data.formats.tfds import open_tfds
from dualdiff_jax.data.records.index import IndexCache
from dualdiff_jax.data.records.record import MISSING, DataError, Joined, Source
from dualdiff_jax.errors import UserError

FORMATS: dict[str, Callable[[SourceConfig, RootConfig, IndexCache], Sequence[Source]]] = {
    "json": open_json,
    "tar": open_tar,
    "array_record": open_array_record,
    "parquet": open_parquet,
    "tfds": open_tfds,
    "llava": open_llava,
} | {name: open_official for name in OFFICIAL_FORMATS}

PROBED = 16  # records that are looked at when a source is opened


def open_source(config: SourceConfig, cache: IndexCache | None = None) -> Source:
    """All records of ``config``, root after root. Raises ``UserError`` where its files are gone or hold nothing."""
    cache = cache or IndexCache()
    roots = (config, *config.roots)
    opened = [(root.root, source) for root in roots for source in FORMATS[config.format](config, root, cache)]
    opened = [(root, source) for root, source in opened if len(source)]
    if not opened:
        raise UserError(f"{config.root}: {config.files or config.format} holds no record; check source {config.name!r}")
    names = [root if len(roots) > 1 else "" for root, _ in opened]
    source = opened[0][1] if len(opened) == 1 else Joined([source for _, source in opened], names)
    _probe(config, source)
    return source


def question_suffix(config: SourceConfig) -> str:
    """What follows each question of this source: the config's word, or the recipe's."""
    if config.question_suffix is not None:
        return config.question_suffix
    return OFFICIAL_FORMATS[config.format].suffix if config.format in OFFICIAL_FORMATS else ""


def _probe(config: SourceConfig, source: Source) -> None:
    """Some records damaged is for the run to count; all of them is a mistake in the config, or the files are gone."""
    faults = []
    places = np.unique(np.linspace(0, len(source) - 1, PROBED).astype(int)).tolist()
    for index in places:
        try:
            record = source[index]
            if isinstance(record.image, Path) and not record.image.is_file():
                raise DataError(MISSING, f"{record.image}: there is no such image; {record.record_id} names it")
            return
        except DataError as error:
            faults.append(str(error))
    where = f"{config.root}/{config.files}" if config.files else config.root
    more = f"\n  and {len(faults) - 3} more" if len(faults) > 3 else ""
    raise UserError(
        f"{where}: source {config.name!r} cannot be used, for none of the {len(faults)} records looked at can:\n  "
        + "\n  ".join(faults[:3])
        + more
    )
