"""The folder of an encoded source: its manifest, and which of its files are still what the data are.

At each start, before anything is encoded, the first host removes the files whose records or images have changed since,
so that they are encoded anew and no run reads a mixture of old and new. A file is kept
    unread            if all that it was made from has the sizes and times of the manifest and of its note
    after comparison  if the times differ, and the contents and the order of the records do not
Either way it must have the size that its note has.
"""

import json
import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from dualdiff_jax.data.fingerprint import blocks_of, file_digest, file_digests
from dualdiff_jax.data.records.index import IndexCache
from dualdiff_jax.data.records.manifest import MANIFEST, MOST, TEXT_ONLY, Manifest, fingerprints_in, inputs_in
from dualdiff_jax.data.records.record import Source
from dualdiff_jax.encoding.chunks import FileChunk
from dualdiff_jax.encoding.frozen_encoder import Fingerprints, different
from dualdiff_jax.encoding.inputs import (
    changed_times,
    hash_of_indexes,
    inputs_now,
    note_file,
    read_image_file,
    read_inputs,
    stamp_of,
    write_inputs,
)
from dualdiff_jax.errors import UserError, quoted
from dualdiff_jax.files import as_path, new_file, remove
from dualdiff_jax.files.listing import file_sizes
from dualdiff_jax.files.matching import names_in
from dualdiff_jax.json_files import read_object

log = logging.getLogger(__name__)

SHOWN = 5  # files or fields that a message names

# What lies in a folder of encode-data besides its manifest; hidden files belong to nobody.
OWN = re.compile(rf"\.|({TEXT_ONLY}|\d+x\d+-)\d{{6,}}\.(array_record|inputs\.json)$|bad_records(\.\d+)?\.jsonl$")


class EncodedSource(NamedTuple):
    """A source that is encoded into a folder.

    Attributes:
        folder: where its files are.
        records: the source.
        chunks: its files, whether written yet or not.
        description: the fields of the manifest but for ``files``, ``fingerprints`` and ``inputs``.
    """

    folder: Path
    records: Source
    chunks: Sequence[FileChunk]
    description: Mapping[str, Any]


def prepare_folder(encoded: EncodedSource, fingerprints: Fingerprints, cache: IndexCache, host: int) -> None:
    """Makes the folder, removes from it what has changed since it was encoded, and writes its manifest.

    Args:
        encoded: the source.
        fingerprints: of the networks.
        cache: keeps digests of large files.
        host: hosts other than 0 change nothing that is there.

    Raises:
        UserError: the folder holds other files or the data of another config, model or earlier version, its manifest
            is damaged, or it is not writable.
    """
    try:
        encoded.folder.mkdir(parents=True, exist_ok=True)
        present = _present(encoded, fingerprints)
        if host and present:
            return
        manifest = dict(encoded.description) | {
            "files": [chunk.file.name for chunk in encoded.chunks],
            "fingerprints": present["fingerprints"] if present else fingerprints,
            "inputs": _inputs(encoded.records, present["inputs"] if present else {}, cache),
        }
        _remove_changed(encoded, present, manifest["inputs"])
        if json.loads(json.dumps(manifest)) != present:
            with new_file(encoded.folder / MANIFEST, owner=str(host)) as partial:
                partial.write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")
    except OSError as error:
        raise UserError(f"{encoded.folder}: is not writable ({error.strerror}); choose another --output") from error


def changed_inputs(manifest: Manifest, cache: IndexCache) -> list[str]:
    """What a folder was made from and is known, at little cost, to have changed since.

    Looks at the files that held the records, and at the images of the first encoded file. What is gone, or lies
    elsewhere now, counts as unchanged; what has another time alone is compared.

    Args:
        manifest: of the folder.
        cache: keeps digests of large files.

    Returns:
        Paths.
    """
    return [*_changed_files(manifest, cache), *_changed_images(manifest)]


def _changed_files(manifest: Manifest, cache: IndexCache) -> Iterator[str]:
    for path, (size, time, digest) in manifest.inputs.items():
        found = stamp_of(path)
        if found is None or found == (size, time):
            continue
        if found[0] != size or file_digest(as_path(path), blocks_of(digest), cache) != digest:
            yield path


def _changed_images(manifest: Manifest) -> Iterator[str]:
    noted = read_inputs(manifest.folder / manifest.files[0]) if manifest.files else None
    images = noted.images if noted else {}
    for path in changed_times(images):
        before, found = images[path], read_image_file(as_path(path))[1]
        if found is not None and (before is None or found.hash != before.hash):
            yield path


def _present(encoded: EncodedSource, fingerprints: Fingerprints) -> dict[str, Any]:
    """The manifest that is there; {} for none. Its networks may differ from ``fingerprints`` by rounding.

    Raises:
        UserError: it is damaged, or of another config, model or earlier version; or there is none, but other files.
    """
    file = encoded.folder / MANIFEST
    if not file.exists():
        others = sorted(name for name in names_in(encoded.folder) if not OWN.match(name))
        if others:
            raise UserError(f"{encoded.folder}: holds {others[0]}, which is not encode-data's; choose another --output")
        return {}
    expected = json.loads(json.dumps(encoded.description))
    try:
        present = read_object(file, MOST)
        found, stored = {name: present[name] for name in expected}, fingerprints_in(present, str(file))
        changed = list(_differences(_without_places(found), _without_places(expected)))
        changed = changed or [f"other weights of {network}" for network in different(stored, fingerprints)]
        read = dict(present) | {"files": list(map(str, present["files"]))}
        if "inputs" in present:
            read["inputs"] = {path: list(stamp) for path, stamp in inputs_in(present, str(file)).items()}
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise UserError(f"{file}: is damaged; remove {encoded.folder} and encode the data anew") from error
    if changed:
        named = ", ".join([*changed[:SHOWN], *(["..."] if len(changed) > SHOWN else [])])
        raise UserError(
            f"{encoded.folder}: holds the data of another config or model ({named}); choose another --output"
        )
    if "inputs" not in read:
        raise UserError(
            f"{encoded.folder}: was encoded by an earlier version, which did not note what it read, so nobody can tell "
            "whether it is up to date; choose another --output, or remove this folder to encode it anew"
        )
    return read


def _without_places(description: Mapping[str, Any]) -> dict[str, Any]:
    """``description`` without the folders of the data and of the model: they may move, and copies are the same."""
    source = dict(description["source"])
    roots = [{**root, "root": ""} for root in source["roots"]]
    made_by = {**description["made_by"], "model": ""}
    return {**description, "source": {**source, "root": "", "roots": roots}, "made_by": made_by}


def _differences(there: Any, here: Any, path: str = "") -> Iterator[str]:
    """Yields ``field VALUE THERE in place of VALUE HERE`` for each field that differs."""
    if isinstance(there, Mapping) and isinstance(here, Mapping):
        for name in {**there, **here}:
            yield from _differences(there.get(name), here.get(name), f"{path}.{name}" if path else name)
    elif there != here:
        yield f"{path} {quoted(there)} in place of {quoted(here)}"


def _inputs(source: Source, before: Mapping[str, Any], cache: IndexCache) -> dict[str, list]:
    """The manifest's ``inputs``; files with the size and time of ``before`` are not read."""
    stamps = {str(file): list(stamp_of(file) or (0, 0)) for file in source.files()}
    if all(before.get(path, ())[:2] == stamp for path, stamp in stamps.items()) and len(before) == len(stamps):
        return dict(before)
    digests = file_digests(source, cache)
    return {str(file): [*stamps[str(file)], digest] for file, digest in digests.items()}


def _remove_changed(encoded: EncodedSource, present: Mapping[str, Any], inputs: Mapping[str, list]) -> None:
    """Removes the files that have to be encoded anew, and those of records that are no more."""
    before = present.get("inputs", {})
    same = {path for path, stamp in inputs.items() if before.get(path, ())[:2] == stamp[:2]}
    there = file_sizes(encoded.folder)
    if before and len(same) < len(inputs):
        log.warning(
            "%s: sizes or times of %d files with its records changed since they were encoded; comparing contents",
            encoded.folder,
            len(inputs) - len(same),
        )
    current = {chunk.file.name for chunk in encoded.chunks}
    changed = [
        chunk.file
        for chunk in encoded.chunks
        if chunk.file.name in there and not _is_current(chunk, there[chunk.file.name], encoded.records, same)
    ]
    gone = [encoded.folder / name for name in present.get("files", ()) if name in there.keys() - current]
    if changed:
        log.warning(
            "%s: %d of %d files are damaged, or their data changed since they were encoded; they are encoded anew: %s",
            encoded.folder,
            len(changed),
            len(encoded.chunks),
            ", ".join([*(file.name for file in changed[:SHOWN]), *(["..."] if len(changed) > SHOWN else [])]),
        )
    for file in (*changed, *gone):
        remove(file)
        remove(note_file(file))


def _is_current(chunk: FileChunk, size: int, source: Source, same: set[str]) -> bool:
    """Whether a file would be encoded again as it is; its note gets the new times if they alone have changed.

    Args:
        chunk: the file.
        size: bytes that it has.
        source: its records.
        same: paths of files with records whose sizes and times have not changed.
    """
    noted = read_inputs(chunk.file)
    if noted is None or noted.size not in (None, size):
        return False
    is_unread = noted.indexes == hash_of_indexes(chunk.indexes) and same.issuperset(
        map(str, source.files_of(chunk.indexes))
    )
    if is_unread and not changed_times(noted.images):
        return True
    now = inputs_now(source, chunk.indexes, noted.images)
    if now.records != noted.records:
        return False
    write_inputs(chunk.file, now._replace(size=noted.size), owner="0")
    return True
