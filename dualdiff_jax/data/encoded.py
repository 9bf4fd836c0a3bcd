"""What a run's sources store (images, or latents that encode-data computed), and whether it fits the run."""

from collections.abc import Iterable
from typing import Any

from dualdiff_jax.config import DataConfig, SourceConfig
from dualdiff_jax.data.records.manifest import IMAGES, LATENTS, LATENTS_AND_TEXT, Manifest, read_manifest
from dualdiff_jax.data.tokenizer import Tokenizer
from dualdiff_jax.errors import UserError


def manifests(source: SourceConfig) -> list[Manifest | None]:
    """The manifest of each root of a source; None for a root that encode-data did not write."""
    if source.format != "array_record":
        return [None]
    return [read_manifest(root.root) for root in (source, *source.roots)]


def kind_of(source: SourceConfig, data: DataConfig, tokenizer: Tokenizer) -> str:
    """What a source stores for its images.

    Args:
        source: the source.
        data: the data config of the run, for its ``text_length``.
        tokenizer: the tokenizer of the run.

    Returns:
        ``IMAGES``, ``LATENTS`` or ``LATENTS_AND_TEXT``.

    Raises:
        UserError: the stored embeddings do not fit the texts of this run, or the roots store different kinds.
    """
    kinds = {}
    for manifest in manifests(source):
        if manifest is None:
            kinds[IMAGES] = source.root
            continue
        kind = manifest.kind if source.task == "image_generation" else LATENTS
        kinds[kind] = manifest.folder
        if kind == LATENTS_AND_TEXT:
            _check_embeddings(source, manifest, data, tokenizer)
    if len(kinds) > 1:
        raise _mixed(f"source {source.name!r}", kinds.items())
    return next(iter(kinds))


def _check_embeddings(source: SourceConfig, manifest: Manifest, data: DataConfig, tokenizer: Tokenizer) -> None:
    """Raises ``UserError`` unless the stored embeddings are those of this run's token ids."""
    if manifest.text_length != data.text_length:
        raise UserError(
            f"{manifest.folder}: source {source.name!r} has embeddings of captions at text_length "
            f"{manifest.text_length}, but data.text_length is {data.text_length}, and T5 reads the padding too; "
            "encode it again at this length"
        )
    if manifest.tokenizer != tokenizer.fingerprint():
        raise UserError(
            f"{manifest.folder}: source {source.name!r} was encoded with another tokenizer than data.tokenizer "
            f"{tokenizer.folder}; encode it again with this one"
        )


def refuse_mixed(stream: str, kinds: Iterable[tuple[str, str]]) -> None:
    """Checks that the sources of a stream store the same kind, because a batch holds one kind.

    Args:
        stream: its name, for the message.
        kinds: (source name, kind as ``kind_of`` returns it).

    Raises:
        UserError: they store different kinds.
    """
    by_kind = {kind: f"source {name!r}" for name, kind in kinds}
    if len(by_kind) > 1:
        raise _mixed(f"the {stream} stream", by_kind.items())


def _mixed(what: str, kinds: Iterable[tuple[str, Any]]) -> UserError:
    held = " and ".join(f"{kind} ({where})" for kind, where in kinds)
    return UserError(f"{what} would read {held} into one batch; encode all of it or none of it")
