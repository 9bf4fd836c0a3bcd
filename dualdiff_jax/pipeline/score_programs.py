"""The jitted programs that score texts; see ``programs`` for their conventions."""

from functools import partial

import jax
import jax.numpy as jnp

from dualdiff_jax.arrays import Images, Key, Latents, PerToken, SeparatedWeights, TokenIds, Weights
from dualdiff_jax.config import ModelConfig
from dualdiff_jax.models import passes
from dualdiff_jax.models.bundle import bind
from dualdiff_jax.objectives.masked_diffusion import token_log_probs


@partial(jax.jit, static_argnames="config")
def encode_images(config: ModelConfig, weights: Weights | SeparatedWeights, images: Images, rng: Key) -> Latents:
    """(b, H, W, 3) in [-1, 1] -> a draw from each posterior, all with the same key, (b, h, w, c)."""
    return bind(config, weights).autoencoder.encode(images, jnp.broadcast_to(rng, len(images)))


@partial(jax.jit, static_argnames=("config", "mask_token_id"))
def score_texts(
    config: ModelConfig,
    weights: Weights | SeparatedWeights,
    latents: Latents,
    clean_token_ids: TokenIds,
    is_masked: PerToken,
    *,
    mask_token_id: int,
) -> PerToken:
    """-log p of each token given the others, the image, and what is not masked.

    Args:
        config: the model's; static.
        weights: of the MMDiT and of T5.
        latents: (b, h, w, c), clean.
        clean_token_ids: (b, l).
        is_masked: (b, l).
        mask_token_id: the absorbing state; static.

    Returns:
        (b, l) nats; of a token that is not masked they mean nothing.
    """
    model = bind(config, weights)
    noisy = jnp.where(is_masked, mask_token_id, clean_token_ids)
    image = passes.image_side(model.mmdit, latents, len(latents), passes.clean_modulation(model.mmdit))
    logits = passes.logits(model.mmdit, image, model.encode_text(noisy))
    return -token_log_probs(logits, clean_token_ids, mask_token_id)
