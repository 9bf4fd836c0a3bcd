"""The jitted programs of the single networks, with static shapes.

``config`` is static. Weights are an argument, so that one compiled program serves all weights of that config.
Letters of shapes: b batch; H, W height and width in pixels; h, w in latents; c channels of the latents, l text length,
v vocabulary.
"""

from functools import partial

import jax
import jax.numpy as jnp

from dualdiff_jax.arrays import (
    DenoiserOutput,
    Images,
    Key,
    Latents,
    PerExample,
    SeparatedWeights,
    TextEmbeddings,
    TokenIds,
    Weights,
)
from dualdiff_jax.config import ModelConfig
from dualdiff_jax.models.bundle import bind
from dualdiff_jax.objectives import masked_diffusion


@partial(jax.jit, static_argnames="shape")
def noise(rngs: Key, shape: tuple[int, ...]) -> Latents:
    """Gaussian latents (b, *shape) in fp32; each example's depend on its own key alone. rngs (b,)."""
    return jax.vmap(lambda key: jax.random.normal(key, shape))(rngs)


@partial(jax.jit, static_argnames="config")
def encode_text(config: ModelConfig, weights: Weights | SeparatedWeights, token_ids: TokenIds) -> TextEmbeddings:
    """(b, l) -> (b, l, t5 width)."""
    return bind(config, weights).encode_text(token_ids)


@partial(jax.jit, static_argnames="config")
def encode_image(config: ModelConfig, weights: Weights | SeparatedWeights, images: Images, rng: Key | None) -> Latents:
    """(b, H, W, 3) in [-1, 1] -> (b, h, w, c); a draw from the posterior, or its mode where ``rng`` is None."""
    return bind(config, weights).autoencoder.encode(images, rng)


@partial(jax.jit, static_argnames="config")
def decode_latents(config: ModelConfig, weights: Weights | SeparatedWeights, latents: Latents) -> Images:
    """(b, h, w, c) -> (b, H, W, 3), nominally in [-1, 1]."""
    return bind(config, weights).autoencoder.decode(latents)


@partial(jax.jit, static_argnames="config")
def denoise(
    config: ModelConfig,
    weights: Weights | SeparatedWeights,
    latents: Latents | None,
    timestep: PerExample,
    text: TextEmbeddings,
) -> DenoiserOutput:
    """Velocity and logits. latents (b, h, w, c) or None; timestep (b,) in [0, 1000]; text (b, l, t5 width)."""
    return bind(config, weights).denoise(latents, timestep, text)


@partial(jax.jit, static_argnames=("config", "mask_token_id"))
def subs_log_probs(
    config: ModelConfig,
    weights: Weights | SeparatedWeights,
    latents: Latents | None,
    token_ids: TokenIds,
    mask_token_id: int,
) -> jax.Array:
    """(b, l, v) fp32, SUBS given clean latents (b, h, w, c) or None, and token_ids (b, l) with masks."""
    model = bind(config, weights)
    logits = model.denoise(latents, jnp.zeros(1), model.encode_text(token_ids)).logits
    return masked_diffusion.subs_log_probs(logits, token_ids, mask_token_id)
