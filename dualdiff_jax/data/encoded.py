"""Whether a run can be trained from what its sources hold: images, or what encode-data made of them."""

from collections.abc import Iterable
from typing import Any

from dualdiff_jax.config import DataConfig, SourceConfig
from dualdiff_jax.data.records.manifest import IMAGES, LATENTS, LATENTS_AND_TEXT, Manifest, read_manifest
from dualdiff_jax.data.tokenizer import Tokenizer
from dualdiff_jax.errors import UserError


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
