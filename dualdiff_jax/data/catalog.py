"""Sizes and caption lengths of all records, and from them which records a source yields at which image size.

A row of the catalog is (height, width, characters of the shortest caption, of the longest). The catalog is made only
if the config has filters or buckets: in one pass over the metadata and, where that has no sizes, the heads of the
images. It is kept like an index.
    filters    a record that fails one is never drawn
    buckets    a record belongs to the (height, width) nearest to its own in log(width / height)
    no image   texts without an image have batches of their own, in which the model reads the null image
"""

import concurrent.futures
import hashlib
import logging
from collections.abc import Mapping, Sequence
from typing import TypeAlias

import numpy as np

from dualdiff_jax.config import SourceConfig
from dualdiff_jax.data.images import image_size
from dualdiff_jax.data.records.index import IndexCache
from dualdiff_jax.data.records.record import DataError, Source
from dualdiff_jax.errors import UserError

log = logging.getLogger(__name__)

Shape: TypeAlias = tuple[int, int] | None  # (height, width) of a batch's images; None: no images
Division: TypeAlias = Mapping[Shape, Sequence[int] | np.ndarray]  # shape -> indexes of its records

THREADS = 16
CHUNK = 1 << 18  # records that are filtered at once
TASK = 4096  # records that a thread reads as one task; the catalog of a smaller source is not kept
UNKNOWN = 0  # height and width of a damaged record, which stays in and is counted when it is drawn
MOST = np.iinfo(np.uint16).max


def divide(config: SourceConfig, source: Source, cache: IndexCache) -> Division:
    """Divides the records of a source that pass its filters by shape.

    Args:
        config: filters and buckets.
        source: the records.
        cache: keeps the catalog.

    Returns:
        Shape -> indexes of its records, ascending; each shape has at least one.

    Raises:
        UserError: no record passes the filters.
    """
    has_image = source.has_image()
    needs_catalog = config.buckets or config.max_aspect or config.min_side or config.min_caption or config.max_caption
    if not needs_catalog and has_image is None:
        return {(config.height, config.width): range(len(source))}
    kept, shapes = np.ones(len(source), bool), np.zeros(len(source), np.uint16)
    if needs_catalog:
        kind = f"catalog-{_fields_read(config)}"
        rows = cache.array(source.files(), kind, lambda: catalog(source), is_small=len(source) < TASK)
        for start in range(0, len(source), CHUNK):  # intermediate arrays take many times the memory of the result
            part = slice(start, start + CHUNK)
            kept[part], shapes[part] = passes(config, rows[part]), nearest(config.sizes(), rows[part])
    if has_image is not None:
        kept = np.where(has_image, kept, _fits_length(config, rows) if needs_catalog else True)
    division: dict[Shape, np.ndarray] = {}
    for number, shape in enumerate(config.sizes()):
        chosen = kept & (shapes == number)
        division[shape] = np.flatnonzero(chosen if has_image is None else chosen & has_image)
    if has_image is not None:
        division[None] = np.flatnonzero(kept & ~has_image)
    division = {shape: indexes for shape, indexes in division.items() if len(indexes)}
    if not division:
        raise UserError(f"source {config.name!r}: none of its {len(source)} records passes its filters; widen them")
    return division


def passes(config: SourceConfig, rows: np.ndarray) -> np.ndarray:
    """Which records pass the filters; a damaged record passes, so that it is counted when it is drawn.

    Args:
        config: the filters.
        rows: (records, 4) of the catalog.

    Returns:
        (records,) bool.
    """
    sides = np.sort(rows[:, :2], axis=1).astype(np.int64)
    short, long = sides[:, 0], sides[:, 1]
    kept = _fits_length(config, rows) & (short >= config.min_side)
    if config.max_aspect:
        kept &= long <= config.max_aspect * short
    return kept | (short == UNKNOWN)


def _fits_length(config: SourceConfig, rows: np.ndarray) -> np.ndarray:
    kept = rows[:, 2] >= min(config.min_caption, MOST)
    return kept & (rows[:, 3] <= config.max_caption) if config.max_caption else kept


def nearest(sizes: Sequence[tuple[int, int]], rows: np.ndarray) -> np.ndarray:
    """The bucket of each record.

    Args:
        sizes: (height, width) of each bucket.
        rows: (records, 4) of the catalog; only height and width matter.

    Returns:
        (records,) uint16, indexes into ``sizes``; of equally near buckets the first.
    """
    known = np.maximum(rows[:, :2].astype(np.float64), 1)
    shapes = np.log([width / height for height, width in sizes])
    return np.abs(np.log(known[:, 1] / known[:, 0])[:, None] - shapes).argmin(axis=1).astype(np.uint16)


def catalog(source: Source) -> np.ndarray:
    """The rows above for all records, read by threads: (records, 4) uint16, larger values as 65535."""
    rows = np.zeros((len(source), 4), np.uint16)

    def fill(start: int) -> None:
        for index in range(start, min(start + TASK, len(source))):
            rows[index] = _row(source, index)

    with concurrent.futures.ThreadPoolExecutor(THREADS) as pool:
        for done, _ in enumerate(pool.map(fill, range(0, len(source), TASK))):
            if done and done % 256 == 0:
                log.warning("read the sizes of %d of %d records", done * TASK, len(source))
    return rows


def _fields_read(config: SourceConfig) -> str:
    """A digest of what of a config decides the rows: which files are read as what, and which of their fields."""
    roots = [
        (root.root, root.image_key, root.caption_keys, root.question_key, root.answer_key)
        for root in (config, *config.roots)
    ]
    weights = tuple(map(bool, config.caption_weights))
    read = (config.format, config.task, config.split, bool(config.question), weights, roots)
    return hashlib.sha256(repr(read).encode()).hexdigest()[:16]


def _row(source: Source, index: int) -> tuple[int, int, int, int]:
    try:
        record = source.head(index)
        height, width = record.size or (UNKNOWN, UNKNOWN)
        if record.size is None and record.image is not None:
            height, width = image_size(record.image, record.record_id)
    except DataError:
        return UNKNOWN, UNKNOWN, 0, 0
    lengths = [len(text) for texts in record.captions.values() for text in texts] or [0]
    return min(height, MOST), min(width, MOST), min(min(lengths), MOST), min(max(lengths), MOST)
