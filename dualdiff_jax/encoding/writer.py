"""Encodes data sets once: writes the outputs of the frozen networks in place of the images.

    OUTPUT/SOURCE/encoded.json                     the names of all files, what encoded them, and the files of the data
    OUTPUT/SOURCE/512x512-000000.array_record      up to a thousand records: posterior, captions, dialogue
    OUTPUT/SOURCE/text-000000.array_record         records without an image, unchanged
    OUTPUT/SOURCE/text-000000.inputs.json          what each of these was made from (inputs.py)
A file gets its name when it is complete, so a run that was killed continues with the next file; after a change of the
data, a run encodes anew only the files that hold changed records (folder.py). Files are dealt out to the hosts in turn.
T5 reads the masks of a masked text, so only clean texts can be encoded ahead: the captions of ``image_generation`` are
embedded at their full length, because the model reads their padding too.
"""

import concurrent.futures
import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dualdiff_jax.config import DataConfig
from dualdiff_jax.config.resolve import to_dict
from dualdiff_jax.data.bad_records import BadRecords, Fault, Origin
from dualdiff_jax.data.catalog import divide
from dualdiff_jax.data.formats.array_record import write_records
from dualdiff_jax.data.formats.registry import open_source
from dualdiff_jax.data.images import read_image
from dualdiff_jax.data.records.index import IndexCache
from dualdiff_jax.data.records.record import ABSENT_KEY, DataError, Record, Source
from dualdiff_jax.data.texts import caption_tokens
from dualdiff_jax.data.tokenizer import Tokenizer
from dualdiff_jax.distributed.process_group import first_host_first
from dualdiff_jax.encoding.chunks import FileChunk, file_chunks
from dualdiff_jax.encoding.folder import EncodedSource, prepare_folder
from dualdiff_jax.encoding.frozen_encoder import FrozenEncoder
from dualdiff_jax.encoding.inputs import InputNotes, ReadRecord, RecordNote, read_record, write_inputs
from dualdiff_jax.errors import UserError
from dualdiff_jax.files import as_path, new_file
from dualdiff_jax.files.matching import names_in
from dualdiff_jax.files.names import path_fault
from dualdiff_jax.progress import Progress


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
    """Encodes every source: what no earlier run has encoded, and what has changed since.

    Bad records are left out and named in bad_records.jsonl, or bad_records.HOST.jsonl on hosts other than 0.

    Args:
        config: the sources.
        encoder: the frozen networks.
        tokenizer: turns captions into tokens.
        output: a folder; each source gets a folder in it.
        made_by: describes the model, for the manifest.
        host: the number of this host.
        hosts: how many hosts there are.
        progress: called with (records done, records of this host) after each file.

    Returns:
        Source name -> its folder.

    Raises:
        UserError: a folder holds other files or the data of another config, model or earlier version, is damaged or is
            not writable, a source is not usable, or more than ``data.max_bad_share`` of it is bad.
    """
    cache, folders, sources, chunks = IndexCache.of(config), _folders(config, as_path(output)), {}, []
    common = {"text_length": config.text_length, "tokenizer": tokenizer.fingerprint(), "made_by": made_by}
    fingerprints = encoder.fingerprints(tokenizer.mask_token_id)
    with first_host_first("sources"):
        for source in config.sources:
            folder = folders[source.name]
            sources[source.name] = open_source(source, cache)
            new = list(file_chunks(source, divide(source, sources[source.name], cache), folder))
            encoded = EncodedSource(folder, sources[source.name], new, common | {"source": to_dict(source)})
            prepare_folder(encoded, fingerprints, cache, host)
            chunks += new
    there = {name: names_in(folder) for name, folder in folders.items()}
    missing = [chunk for chunk in chunks[host::hosts] if chunk.file.name not in there[chunk.source.name]]
    done, total = 0, sum(len(chunk.indexes) for chunk in missing)
    bad = {name: BadRecords(config.max_bad_share) for name in folders}
    for name, folder in folders.items():
        bad[name].write_to(folder / f"bad_records{f'.{host}' if host else ''}.jsonl")
    for chunk in missing:
        name = chunk.source.name
        notes = InputNotes(chunk.indexes)
        records = _encoded(chunk, sources[name], encoder, tokenizer, config, bad[name], notes)
        with new_file(chunk.file, owner=str(host)) as partial:
            write_records(partial, records)  # and the note, before the file itself has its name
            write_inputs(chunk.file, notes.finish()._replace(size=partial.stat().st_size), owner=str(host))
        done += len(chunk.indexes)
        if progress is not None:
            progress(done, total)
    return folders


def _encoded(
    chunk: FileChunk,
    source: Source,
    encoder: FrozenEncoder,
    tokenizer: Tokenizer,
    config: DataConfig,
    bad: BadRecords,
    notes: InputNotes,
) -> Iterator[Record]:
    """Yields the good records of a file, with arrays in place of their images, and notes all that were read."""

    def read(index: int) -> tuple[RecordNote, tuple[Record, np.ndarray | None] | Fault]:
        found = read_record(source, index)
        return found.note, _pixels(chunk, index, found, config.max_pixels)

    with concurrent.futures.ThreadPoolExecutor() as pool:
        for start in range(0, len(chunk.indexes), encoder.batch_size):
            texts: list[Record] = []
            images: list[tuple[Record, np.ndarray]] = []
            for note, result in pool.map(read, chunk.indexes[start : start + encoder.batch_size].tolist()):
                notes.add(note)
                if isinstance(result, Fault):
                    bad.note_bad(chunk.source.name, result)
                    continue
                record, image = result
                bad.note(Origin(chunk.source.name, record.record_id, (), 0))
                if image is None:
                    texts.append(record)
                else:
                    images.append((record, image))
            yield from texts
            yield from _with_arrays(chunk, images, encoder, tokenizer, config.text_length)


def _pixels(
    chunk: FileChunk, index: int, found: ReadRecord, max_pixels: int
) -> tuple[Record, np.ndarray | None] | Fault:
    """The record with its image as the autoencoder reads it, or why it is bad."""
    record, record_id = found.record, f"{chunk.source.name}[{index}]"
    try:
        if isinstance(record, DataError):
            raise record
        record_id = record.record_id
        if chunk.shape is None:
            return record, None
        if found.image is None:
            raise DataError(ABSENT_KEY, f"{record_id} has no image")
        if isinstance(found.image, DataError):
            raise found.image
        name, fit = found.note.path or record_id, chunk.source.fit
        return record, read_image(found.image, *chunk.shape, name=name, fit=fit, max_pixels=max_pixels)
    except DataError as error:
        return Fault(record_id, error.cause, str(error))


def _with_arrays(
    chunk: FileChunk,
    images: Sequence[tuple[Record, np.ndarray]],
    encoder: FrozenEncoder,
    tokenizer: Tokenizer,
    text_length: int,
) -> Iterator[Record]:
    """Yields the records with latents in place of their images and, for image generation, embeddings of captions."""
    names, token_ids = [], []
    for row, (record, _) in enumerate(images):
        if chunk.source.task == "image_generation":
            for name, texts in record.captions.items():
                for which, text in enumerate(texts):
                    names.append((row, f"text_embeddings/{name}/{which}"))
                    token_ids.append(caption_tokens(tokenizer, text, text_length).token_ids)
    embeddings = dict(zip(names, encoder.texts(token_ids), strict=True))
    for row, arrays in enumerate(encoder.images([image for _, image in images])):
        arrays |= {name: value for (owner, name), value in embeddings.items() if owner == row}
        yield dataclasses.replace(images[row][0], image=None, size=chunk.shape, arrays=arrays)


def _folders(config: DataConfig, output: Path) -> dict[str, Path]:
    """Source name -> its folder.

    Raises:
        UserError: a name that no folder in ``output`` can have, or a folder that has the data of a source.
    """
    for source in config.sources:
        if source.name in ("", ".", "..") or "/" in source.name or path_fault(source.name):
            raise UserError(f"source {source.name!r}: its name becomes a folder's; give a name without / that is one")
    folders = {source.name: output / source.name for source in config.sources}
    roots = {as_path(root.root).resolve() for source in config.sources for root in (source, *source.roots)}
    for folder in folders.values():
        if folder.resolve() in roots:
            raise UserError(f"{folder}: holds data that the config reads; choose another --output")
    return folders
