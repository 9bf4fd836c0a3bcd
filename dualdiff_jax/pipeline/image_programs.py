"""The jitted program that draws images; see ``programs`` for its conventions."""

from functools import partial

import jax
import jax.numpy as jnp

from dualdiff_jax.arrays import Latents, PerExample, SeparatedWeights, TextEmbeddings, TokenIds, Weights
from dualdiff_jax.config import ModelConfig
from dualdiff_jax.models import passes
from dualdiff_jax.models.bundle import bind
from dualdiff_jax.sampling.flow_sampler import euler
from dualdiff_jax.sampling.guidance import guided_velocity


@partial(jax.jit, static_argnames=("config", "is_guided"))
def generate_images(
    config: ModelConfig,
    weights: Weights | SeparatedWeights,
    text: TokenIds | TextEmbeddings,
    null_text: TokenIds | TextEmbeddings,
    noise: Latents,
    sigmas: jax.Array,
    guidance_scale: jax.Array,
    *,
    is_guided: bool,
) -> tuple[Latents, Latents]:
    """From noise to latents, one batch (``flow_sampler.euler``).

    Args:
        config: the model's; static.
        weights: of all three networks.
        text: the prompts: token ids (b, l), or T5's output for them (b, l, d).
        null_text: the prompts that guidance leads away from, in one of the same forms; (1, ...) for all examples.
        noise: (b, h, w, c).
        sigmas: (n + 1,), falling from 1 to 0.
        guidance_scale: a scalar; unused unless ``is_guided``.
        is_guided: whether each step also evaluates the null prompt; static.

    Returns:
        Latents (b, h, w, c), and the clean estimate of each step (n, b, h, w, c), both in fp32.
    """
    model = bind(config, weights)

    mmdit = model.mmdit

    def text_stream(text: TokenIds | TextEmbeddings) -> jax.Array:
        return mmdit.embed_text(model.encode_text(text) if text.ndim == 2 else text)

    text = text_stream(text)
    null = jnp.broadcast_to(text_stream(null_text), text.shape) if is_guided else None

    def velocity(latents: Latents, timestep: PerExample, text: jax.Array) -> Latents:
        return passes.velocity(mmdit, latents, text, passes.modulation_at(mmdit, timestep))

    return euler(guided_velocity(velocity, text, null, guidance_scale), noise, sigmas)
