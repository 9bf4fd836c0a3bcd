"""Classifier-free guidance (arXiv 2207.12598): v = v_null + g (v_text - v_null), with both velocities in one pass."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from dualdiff_jax.arrays import Latents, PerExample, TextEmbeddings

VelocityField = Callable[[Latents, PerExample], Latents]


def guided_velocity(
    velocity: Callable[[Latents, PerExample, TextEmbeddings], Latents],
    text_embeddings: TextEmbeddings,
    null_text_embeddings: TextEmbeddings | None,
    guidance_scale: jax.Array | float,
) -> VelocityField:
    """The velocity field that a sampler follows.

    Args:
        velocity: (latents (n, h, w, c), timestep (1,), text embeddings (n, l, d)) -> velocity (n, h, w, c).
        text_embeddings: (b, l, d), of the prompts.
        null_text_embeddings: (b, l, d), of the prompts to lead away from; None is no guidance, at half the cost.
        guidance_scale: g; 1 gives v_text.

    Returns:
        (latents (b, h, w, c), timestep (1,)) -> velocity (b, h, w, c).
    """
    if null_text_embeddings is None:
        return lambda latents, timestep: velocity(latents, timestep, text_embeddings)
    both = jnp.concatenate([null_text_embeddings, text_embeddings])

    def field(latents: Latents, timestep: PerExample) -> Latents:
        null, text = jnp.split(velocity(jnp.concatenate([latents, latents]), timestep, both), 2)
        return null + guidance_scale * (text - null)

    return field
