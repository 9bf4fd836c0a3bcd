"""The jitted program that reads images; see ``programs`` for its conventions."""

from functools import partial

import jax

from dualdiff_jax.arrays import Images, Key, SeparatedWeights, TokenIds, Weights
from dualdiff_jax.config import ModelConfig
from dualdiff_jax.models import passes
from dualdiff_jax.models.bundle import bind
from dualdiff_jax.sampling.masked_sampler import MaskedSample
from dualdiff_jax.sampling.text_samplers import text_sampler


@partial(jax.jit, static_argnames=("config", "mask_token_id", "steps", "order"))
def generate_text(
    config: ModelConfig,
    weights: Weights | SeparatedWeights,
    images: Images,
    token_ids: TokenIds,
    rngs: Key,
    *,
    mask_token_id: int,
    steps: int,
    order: str,
) -> MaskedSample:
    """From masks to tokens, one batch, given clean images.

    Args:
        config: the model's; static.
        weights: of all three networks.
        images: (b, h, w, 3) in [-1, 1]; each example's latents are a draw from its posterior.
        token_ids: (b, l), prompts and masks.
        rngs: (b,), a key for each example.
        mask_token_id: the absorbing state; static.
        steps: of the sampler; static.
        order: a name in ``TEXT_SAMPLERS``; static.

    Raises:
        ValueError: ``order`` names no sampler.
    """
    sampler, model = text_sampler(order), bind(config, weights)
    keys = jax.vmap(jax.random.split)(rngs)
    latents = model.autoencoder.encode(images, keys[:, 0])
    image = passes.image_side(model.mmdit, latents, len(images))

    def logits(token_ids: TokenIds) -> jax.Array:
        return passes.logits(model.mmdit, image, model.encode_text(token_ids))

    return sampler(logits, keys[:, 1], token_ids, mask_token_id=mask_token_id, steps=steps)
