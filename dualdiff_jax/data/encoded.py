"""What encode-data says of a folder that it wrote, and whether a run can be trained from it.

encoded.json
    files         all there will be
    source        the config of the source that was encoded
    text_length   of the captions whose embeddings are stored: T5 reads their padding, so they fit no other length
    tokenizer     Tokenizer.fingerprint
    made_by       the model folder, and what its frozen networks are
    fingerprints  of their weights (encoder.py)
"""

import dataclasses
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from dualdiff_jax.config import DataConfig, SourceConfig
from dualdiff_jax.data.tokenizer import Tokenizer
from dualdiff_jax.errors import UserError

MANIFEST = "encoded.json"
TEXT_ONLY = "text-"  # how files of records without an image begin

# What a source holds of its images.
IMAGES, LATENTS, LATENTS_AND_TEXT = "images", "latents", "latents and embeddings of captions"


@dataclasses.dataclass(frozen=True)
class Manifest:
    folder: Path
    files: Sequence[str]
    task: str  # of the source that was encoded
    text_length: int
    tokenizer: str
    made_by: Mapping[str, Any]
    fingerprints: Mapping[str, Mapping[str, Sequence[float]]]

    @property
    def kind(self) -> str:
        return LATENTS_AND_TEXT if self.task == "image_generation" else LATENTS


def read_manifest(folder: str | Path) -> Manifest | None:
    """None where the folder was not written by encode-data. Raises ``UserError`` unless it is finished."""
    folder = Path(folder)
    if not (folder / MANIFEST).is_file():
        return None
    try:
        found = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        given = {name: found[name] for name in ("files", "text_length", "tokenizer", "made_by", "fingerprints")}
        manifest = Manifest(folder=folder, task=found["source"]["task"], **given)
        missing = set(manifest.files) - {file.name for file in folder.iterdir()}  # one look, not one a file
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{folder / MANIFEST}: is damaged ({error!r}); encode the data anew") from error
    if missing:
        raise UserError(
            f"{folder}: encoding is not finished, {len(missing)} of {len(manifest.files)} files are missing; "
            "run the same --mode=encode-data again"
        )
    return manifest


def manifests(source: SourceConfig) -> list[Manifest | None]:
    """Of each of its roots."""
    if source.format != "array_record":
        return [None]
    return [read_manifest(root.root) for root in (source, *source.roots)]


def kind_of(source: SourceConfig, data: DataConfig, tokenizer: Tokenizer) -> str:
    """One of the words above. Raises ``UserError`` where what is stored does not fit the texts of this run."""
    kinds = {}
    for manifest in manifests(source):
        is_used = manifest is not None and source.task == "image_generation"
        kind = IMAGES if manifest is None else manifest.kind if is_used else LATENTS
        kinds[kind] = source.root if manifest is None else manifest.folder
        if kind != LATENTS_AND_TEXT:
            continue
        if manifest.text_length != data.text_length:
            raise UserError(
                f"{manifest.folder}: source {source.name!r} has embeddings of captions at text_length "
                f"{manifest.text_length}, but data.text_length is {data.text_length}, and T5 reads the padding too; "
                "encode it anew at this length"
            )
        if manifest.tokenizer != tokenizer.fingerprint():
            raise UserError(
                f"{manifest.folder}: source {source.name!r} was encoded with other tokens than data.tokenizer "
                f"{tokenizer.folder} has; encode it anew with this tokenizer"
            )
    if len(kinds) > 1:
        raise _mixed(f"source {source.name!r}", kinds.items())
    return next(iter(kinds))


def refuse_mixed(stream: str, kinds: Iterable[tuple[str, str]]) -> None:
    """Raises ``UserError`` where the (source, kind) of a stream's images differ: a batch holds one kind."""
    by_kind = {kind: f"source {name!r}" for name, kind in kinds}
    if len(by_kind) > 1:
        raise _mixed(f"the {stream} stream", by_kind.items())


def _mixed(what: str, kinds: Iterable[tuple[str, Any]]) -> UserError:
    held = " and ".join(f"{kind} ({where})" for kind, where in kinds)
    return UserError(f"{what} would read {held} into one batch; encode all of it or nothing")
