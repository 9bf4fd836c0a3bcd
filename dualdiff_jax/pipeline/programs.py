"""The jitted programs of a loaded model: all that a sampler does to arrays, with static shapes.

``config`` is static; weights come first as an argument, so that one program serves any weights of that config.
"""

from functools import partial

import jax
import jax.numpy as jnp

from dualdiff_jax.arrays import DenoiserOutput, Images, Key, Latents, PerExample, TextEmbeddings, TokenIds, Weights
from dualdiff_jax.config import ModelConfig
from dualdiff_jax.models.bundle import bind
from dualdiff_jax.models.stack import peeled
from dualdiff_jax.objectives import masked_diffusion
from dualdiff_jax.sampling.flow_sampler import euler
from dualdiff_jax.sampling.guidance import guided_velocity
from dualdiff_jax.sampling.masked_sampler import MaskedSample, ancestral, confidence


@partial(jax.jit, static_argnames="shape")
def noise(rngs: Key, shape: tuple[int, ...]) -> Latents:
    """Gaussian latents (b, *shape), each a function of its own key."""
    return jax.vmap(lambda key: jax.random.normal(key, shape))(rngs)


@partial(jax.jit, static_argnames=("config", "is_guided"))
def generate_images(
    config: ModelConfig,
    weights: Weights,
    token_ids: TokenIds,
    null_token_ids: jax.Array,
    noise: Latents,
    sigmas: jax.Array,
    guidance_scale: jax.Array,
    *,
    is_guided: bool,
) -> tuple[Latents, Latents]:
    """Noise to latents for one batch; token_ids (b, l), null_token_ids (l,), noise (b, h, w, c)."""
    model = bind(config, weights, peeled)
    text = model.encode_text(token_ids)
    null = jnp.broadcast_to(model.encode_text(null_token_ids[None]), text.shape) if is_guided else None

    def velocity(latents: Latents, timestep: PerExample, text: TextEmbeddings) -> Latents:
        return model.denoise(latents, timestep, text).velocity

    return euler(guided_velocity(velocity, text, null, guidance_scale), noise, sigmas)


@partial(jax.jit, static_argnames=("config", "mask_token_id", "steps", "order"))
def generate_text(
    config: ModelConfig,
    weights: Weights,
    images: Images,
    token_ids: TokenIds,
    rngs: Key,
    *,
    mask_token_id: int,
    steps: int,
    order: str,
) -> MaskedSample:
    """Masks to tokens for one batch; images (b, h, w, 3), token_ids (b, l), rngs (b,)."""
    model = bind(config, weights, peeled)
    keys = jax.vmap(jax.random.split)(rngs)
    latents = model.autoencoder.encode(images, keys[:, 0])
    clean = jnp.zeros(1)

    def logits(token_ids: TokenIds) -> jax.Array:
        return model.denoise(latents, clean, model.encode_text(token_ids)).logits

    if order == "confidence":
        return confidence(logits, token_ids, mask_token_id=mask_token_id, steps=steps)
    return ancestral(logits, keys[:, 1], token_ids, mask_token_id=mask_token_id, steps=steps)


@partial(jax.jit, static_argnames="config")
def encode_text(config: ModelConfig, weights: Weights, token_ids: TokenIds) -> TextEmbeddings:
    return bind(config, weights).encode_text(token_ids)


@partial(jax.jit, static_argnames="config")
def encode_image(config: ModelConfig, weights: Weights, images: Images, rng: Key | None) -> Latents:
    return bind(config, weights).autoencoder.encode(images, rng)


@partial(jax.jit, static_argnames="config")
def decode_latents(config: ModelConfig, weights: Weights, latents: Latents) -> Images:
    return bind(config, weights).autoencoder.decode(latents)


@partial(jax.jit, static_argnames="config")
def denoise(
    config: ModelConfig, weights: Weights, latents: Latents | None, timestep: PerExample, text: TextEmbeddings
) -> DenoiserOutput:
    return bind(config, weights).denoise(latents, timestep, text)


@partial(jax.jit, static_argnames=("config", "mask_token_id"))
def subs_log_probs(
    config: ModelConfig, weights: Weights, latents: Latents | None, token_ids: TokenIds, mask_token_id: int
) -> jax.Array:
    model = bind(config, weights)
    logits = model.denoise(latents, jnp.zeros(1), model.encode_text(token_ids)).logits
    return masked_diffusion.subs_log_probs(logits, token_ids, mask_token_id)
