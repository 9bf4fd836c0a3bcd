"""What a run from encoded data makes sure of before its first step: the data was made by the networks that it has.

What they are is compared before any device is used, their weights once they are there. The empty caption's
embeddings, which a dropped caption gives way to, are computed then and kept: they are not among the data.
"""

import json
from collections.abc import Iterator
from typing import Any

import numpy as np
from jax.sharding import Mesh

from dualdiff_jax.arrays import Weights
from dualdiff_jax.config import RunConfig
from dualdiff_jax.config.resolve import to_dict
from dualdiff_jax.data.encoded import manifests
from dualdiff_jax.data.records.manifest import LATENTS_AND_TEXT, Manifest
from dualdiff_jax.data.tokenizer import Tokenizer
from dualdiff_jax.encoding.frozen_encoder import FROZEN, FrozenEncoder, different
from dualdiff_jax.errors import UserError
from dualdiff_jax.models.leaves import network_of
from dualdiff_jax.training.trainable import MASK_ROW, part_of, trained_specs


def check_stored(config: RunConfig) -> None:
    """Raises ``UserError`` where a source was encoded by networks of another kind, or by one that this run trains."""
    trained = {part_of(name) for name in trained_specs(config) if name != MASK_ROW}  # clean captions have no mask
    for manifest, networks in _used(config):
        for network in networks:
            if network in trained:
                raise UserError(
                    f"{manifest.folder}: holds what {network} says, but train.trainable has parts of {network}; "
                    "train from the images"
                )
            made_by, ours = manifest.made_by.get(network), _plain(to_dict(getattr(config.model, network)))
            if made_by is not None and made_by != ours:
                names = [name for name in ours if made_by.get(name) != ours[name]]
                told = ", ".join(f"{name} {made_by.get(name)} -> {ours[name]}" for name in names)
                raise UserError(
                    f"{manifest.folder}: was encoded by another {network} than model.{network} (it -> config): {told}; "
                    "encode it anew with this model"
                )


def null_text_embeddings(config: RunConfig, mesh: Mesh, frozen: Weights, tokenizer: Tokenizer) -> np.ndarray | None:
    """(l, d) bf16, or None where no embeddings are stored.

    Raises ``UserError`` where a source was encoded with other weights of the same networks.
    """
    used = list(_used(config))
    if not used:
        return None
    weights = {name: value for name, value in frozen.items() if network_of(name) in FROZEN}
    encoder = FrozenEncoder(config.model, weights, mesh)
    fingerprints = encoder.fingerprints(tokenizer.mask_token_id)
    for manifest, networks in used:
        strange = [network for network in different(manifest.fingerprints, fingerprints) if network in networks]
        if strange:
            raise UserError(
                f"{manifest.folder}: was encoded with other weights of {' and '.join(strange)} than this run has; "
                "encode it anew with --model=MODEL_DIR, the folder that this run starts from"
            )
    has_text = any("t5" in networks for _, networks in used)
    return encoder.texts([tokenizer.null_ids(config.data.text_length)])[0] if has_text else None


def _used(config: RunConfig) -> Iterator[tuple[Manifest, tuple[str, ...]]]:
    """(manifest, networks whose results are read from there)."""
    for source in (*config.data.sources, *config.validation.sources):
        for manifest in manifests(source):
            if manifest is not None:
                has_text = source.task == "image_generation" and manifest.kind == LATENTS_AND_TEXT
                yield manifest, ("autoencoder", "t5") if has_text else ("autoencoder",)


def _plain(value: Any) -> Any:
    """As it is after a while in JSON."""
    return json.loads(json.dumps(value))
