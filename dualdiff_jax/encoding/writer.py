"""Images and clean captions, encoded once: what the frozen networks say of a source, in place of its images.

    OUTPUT/SOURCE/encoded.json                     the files there will be, and what made them
    OUTPUT/SOURCE/512x512-000000.array_record      up to a thousand records: posterior, captions, dialogue
    OUTPUT/SOURCE/text-000000.array_record         records without an image, as they are
A file appears under its name when it is complete, so a killed run goes on at the next file. Hosts take turns.
Masked text cannot be encoded ahead, since T5 reads the masks; of the captions of ``image_generation`` the
embeddings are stored at their full length, because their padding is text that the model reads.
"""

import concurrent.futures
import dataclasses
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from dualdiff_jax.config import DataConfig, SourceConfig
from dualdiff_jax.config.resolve import to_dict
from dualdiff_jax.data.bad_records import BadRecords, Fault, Origin
from dualdiff_jax.data.catalog import Shape, divide
from dualdiff_jax.data.formats.array_record import write_records
from dualdiff_jax.data.formats.registry import open_source
from dualdiff_jax.data.images import read_image
from dualdiff_jax.data.records.index import IndexCache
from dualdiff_jax.data.records.manifest import MANIFEST, TEXT_ONLY
from dualdiff_jax.data.records.record import DataError, Record, Source
from dualdiff_jax.data.texts import caption_tokens
from dualdiff_jax.data.tokenizer import Tokenizer
from dualdiff_jax.distributed.process_group import first_host_first
from dualdiff_jax.encoding.frozen_encoder import Fingerprints, FrozenEncoder, different
from dualdiff_jax.errors import UserError
from dualdiff_jax.files import new_file
from dualdiff_jax.progress import Progress

RECORDS_PER_FILE = 1024


class Lot(NamedTuple):
    """The records of one file."""

    file: Path
    source: SourceConfig
    shape: Shape
    indexes: np.ndarray


def encode_sources(
    config: DataConfig,
    encoder: FrozenEncoder,
    tokenizer: Tokenizer,
    output: str | Path,
    *,
    made_by: dict[str, Any],
    host: int = 0,
    hosts: int = 1,
    progress: Progress | None = None,
) -> dict[str, Path]:
    """Encodes every source of ``config``; returns where each went. ``made_by`` says with which model.

    Goes on where an earlier run was stopped. Raises ``UserError`` where a folder holds something else, or where
    more than ``data.max_bad_share`` of a source is bad; bad records are left out and named in
    bad_records.jsonl, with the host's number in its name beyond 0.
    """
    cache, folders, sources, lots = IndexCache(config.index_cache), {}, {}, []
    common = {"text_length": config.text_length, "tokenizer": tokenizer.fingerprint(), "made_by": made_by}
    fingerprints = encoder.fingerprints(tokenizer.mask_token_id)
    with first_host_first("sources"):
        for source in config.sources:
            folders[source.name] = Path(output) / source.name
            sources[source.name] = open_source(source, cache)
            found = list(_lots(source, divide(source, sources[source.name], cache), folders[source.name]))
            description = common | {"source": to_dict(source), "files": [lot.file.name for lot in found]}
            _claim(folders[source.name], description, fingerprints, host)
            lots += found
    todo = [lot for lot in lots[host::hosts] if not lot.file.exists()]
    done, total = 0, sum(len(lot.indexes) for lot in todo)
    bad = {name: BadRecords(config.max_bad_share) for name in folders}
    for name, folder in folders.items():
        bad[name].write_to(folder / f"bad_records{f'.{host}' if host else ''}.jsonl")
    for lot in todo:
        name = lot.source.name
        records = _encoded(lot, sources[name], encoder, tokenizer, config.text_length, bad[name])
        with new_file(lot.file, owner=str(host)) as partial:
            write_records(partial, records)
        done += len(lot.indexes)
        if progress is not None:
            progress(done, total)
    return folders


def _lots(source: SourceConfig, division: Any, folder: Path) -> Iterator[Lot]:
    for shape, indexes in division.items():
        prefix = TEXT_ONLY if shape is None else f"{shape[0]}x{shape[1]}-"
        for number, start in enumerate(range(0, len(indexes), RECORDS_PER_FILE)):
            chosen = np.asarray(indexes[start : start + RECORDS_PER_FILE])
            yield Lot(folder / f"{prefix}{number:06d}.array_record", source, shape, chosen)


def _claim(folder: Path, description: dict[str, Any], fingerprints: Fingerprints, host: int) -> None:
    """Writes the manifest, or raises ``UserError`` if there is another one. Fingerprints may differ by roundings."""
    text = json.dumps(description | {"fingerprints": fingerprints}, indent=1, ensure_ascii=False) + "\n"
    file = folder / MANIFEST
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not file.exists():
            with new_file(file, owner=str(host)) as partial:  # hosts may have the same process numbers
                partial.write_text(text, encoding="utf-8")
        there = json.loads(file.read_text(encoding="utf-8"))
        is_same = not different(there.pop("fingerprints"), fingerprints) and there == json.loads(
            json.dumps(description)
        )
    except OSError as error:
        raise UserError(f"{folder}: may not be written ({error.strerror}); choose another --output") from error
    except (ValueError, KeyError, AttributeError, TypeError):
        is_same = False
    if not is_same:
        raise UserError(f"{folder}: holds the data of another config or model; choose another --output")


def _encoded(
    lot: Lot, source: Source, encoder: FrozenEncoder, tokenizer: Tokenizer, text_length: int, bad: BadRecords
) -> Iterator[Record]:
    """The good records of a lot with their arrays in place of their images."""

    def read(index: int) -> tuple[Record, np.ndarray | None] | Fault:
        record_id = f"{lot.source.name}[{index}]"
        try:
            record = source[index]
            record_id = record.record_id
            if lot.shape is None:
                return record, None
            return record, read_image(record.image, *lot.shape, name=record_id)
        except DataError as error:
            return Fault(record_id, error.cause, str(error))

    with concurrent.futures.ThreadPoolExecutor() as pool:
        for start in range(0, len(lot.indexes), encoder.batch_size):
            good: list[tuple[Record, np.ndarray | None]] = []
            for found in pool.map(read, lot.indexes[start : start + encoder.batch_size].tolist()):
                is_bad = isinstance(found, Fault)
                faults = (found,) if is_bad else ()
                bad.note(Origin(lot.source.name, found.record_id if is_bad else found[0].record_id, faults, 0))
                good += [] if is_bad else [found]
            if lot.shape is None:
                yield from (record for record, _ in good)
            elif good:
                yield from _with_arrays(lot, good, encoder, tokenizer, text_length)


def _with_arrays(
    lot: Lot,
    good: Sequence[tuple[Record, np.ndarray]],
    encoder: FrozenEncoder,
    tokenizer: Tokenizer,
    text_length: int,
) -> Iterator[Record]:
    names, token_ids = [], []
    for row, (record, _) in enumerate(good):
        if lot.source.task == "image_generation":
            for name, texts in record.captions.items():
                for which, text in enumerate(texts):
                    names.append((row, f"text_embeddings/{name}/{which}"))
                    token_ids.append(caption_tokens(tokenizer, text, text_length).token_ids)
    texts = dict(zip(names, encoder.texts(token_ids), strict=True))
    for row, arrays in enumerate(encoder.images([image for _, image in good])):
        arrays |= {name: value for (owner, name), value in texts.items() if owner == row}
        yield dataclasses.replace(good[row][0], image=None, size=lot.shape, arrays=arrays)
