"""The checks of a run from encoded data: the networks that made the data are the networks of the run.

Their kinds are compared before any device is used, their weights once the run has them. The empty caption's
embeddings, which replace those of a dropped caption, are computed then and kept: they are not in the data. The run
trains from what is stored, also where the originals have changed since; a warning says so where that is cheap to know.
"""

import json
import logging
from collections.abc import Collection, Iterator
from typing import Any

import numpy as np
from jax.sharding import Mesh

from dualdiff_jax.arrays import Weights
from dualdiff_jax.config import RunConfig
from dualdiff_jax.config.resolve import to_dict
from dualdiff_jax.data.encoded import manifests
from dualdiff_jax.data.records.index import IndexCache
from dualdiff_jax.data.records.manifest import LATENTS_AND_TEXT, Manifest
from dualdiff_jax.data.tokenizer import Tokenizer
from dualdiff_jax.encoding.folder import changed_inputs
from dualdiff_jax.encoding.frozen_encoder import FROZEN, FrozenEncoder, different
from dualdiff_jax.errors import UserError
from dualdiff_jax.models.leaves import network_of
from dualdiff_jax.training.trainable import MASK_ROW, part_of

log = logging.getLogger(__name__)


def check_encoded_data(config: RunConfig, trained: Collection[str]) -> str:
    """Compares the networks that encoded each source with those of the run.

    Args:
        config: the run's.
        trained: names of the leaves that are trained.

    Returns:
        What is compared later, where there are such sources.

    Raises:
        UserError: a source was encoded by networks of another kind, or by one that this run trains.
    """
    parts = {part_of(name) for name in trained if name != MASK_ROW}  # clean captions have no mask
    later = ""
    for manifest, networks in _manifests(config):
        later = "sizes fit; weights are compared when the run starts"
        for network in networks:
            if network in parts:
                raise UserError(
                    f"{manifest.folder}: holds outputs of {network}, but train.trainable has parts of {network}; "
                    "train from the images"
                )
            made_by, ours = manifest.made_by.get(network), _as_json(to_dict(getattr(config.model, network)))
            if made_by is not None and made_by != ours:
                names = [name for name in ours if made_by.get(name) != ours[name]]
                changed = ", ".join(f"{name} {made_by.get(name)} -> {ours[name]}" for name in names)
                raise UserError(
                    f"{manifest.folder}: was encoded by another {network} than model.{network} (it -> config): "
                    f"{changed}; encode it anew with this model"
                )
    return later


def warn_of_changed_data(config: RunConfig) -> None:
    """Warns of folders whose data are known to have changed since they were encoded: the run trains from the old."""
    for manifest, _ in _manifests(config):
        if changed := changed_inputs(manifest, IndexCache(config.data.index_cache)):
            log.warning(
                "%s: %s%s changed since it was encoded; this run trains from the old data, until the same "
                "--mode=encode-data is run again",
                manifest.folder,
                changed[0],
                f" and {len(changed) - 1} more files" if len(changed) > 1 else "",
            )


def null_text_embeddings(config: RunConfig, mesh: Mesh, frozen: Weights, tokenizer: Tokenizer) -> np.ndarray | None:
    """The empty caption's embeddings, and a check of the weights that encoded the data.

    Args:
        config: the run's.
        mesh: where ``frozen`` lies.
        frozen: the run's frozen weights.
        tokenizer: the run's.

    Returns:
        (l, d) bf16, or None where no embeddings are stored.

    Raises:
        UserError: a source was encoded with other weights of the same networks.
    """
    used = list(_manifests(config))
    if not used:
        return None
    weights = {name: value for name, value in frozen.items() if network_of(name) in FROZEN}
    encoder = FrozenEncoder(config.model, weights, mesh)
    fingerprints = encoder.fingerprints(tokenizer.mask_token_id)
    for manifest, networks in used:
        changed = [network for network in different(manifest.fingerprints, fingerprints) if network in networks]
        if changed:
            raise UserError(
                f"{manifest.folder}: was encoded with other weights of {' and '.join(changed)} than this run has; "
                "encode it anew with --model=MODEL_DIR, the folder that this run starts from"
            )
    has_text = any("t5" in networks for _, networks in used)
    return encoder.texts([tokenizer.null_ids(config.data.text_length)])[0] if has_text else None


def _manifests(config: RunConfig) -> Iterator[tuple[Manifest, tuple[str, ...]]]:
    """Yields (manifest, networks whose outputs are read from its folder)."""
    for source in (*config.read_sources, *config.validation.sources):
        for manifest in manifests(source):
            if manifest is not None:
                has_text = source.task == "image_generation" and manifest.kind == LATENTS_AND_TEXT
                yield manifest, ("autoencoder", "t5") if has_text else ("autoencoder",)


def _as_json(value: Any) -> Any:
    """``value`` as JSON gives it back: tuples become lists."""
    return json.loads(json.dumps(value))
