"""The clean latents of a batch, whatever the batch holds of its images.

image                               encoded now
latent_mean, latent_log_variance    mean + exp(log variance / 2) noise, a draw from the posterior that was stored
latent_mean                         itself: the posterior is a point
nothing                             None: texts without an image, for which the model has its null image
"""

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp

from dualdiff_jax.arrays import Images, Key, Latents


def clean_latents(
    examples: Mapping[str, jax.Array], encode: Callable[[Images, Key], Latents], rng: Key
) -> Latents | None:
    """(b, h, w, c) fp32. ``encode`` takes (b, h, w, 3) and ``rng``, with which the posterior is drawn from."""
    if "image" in examples:
        return encode(examples["image"], rng)
    if "latent_mean" not in examples:
        return None
    mean = examples["latent_mean"].astype(jnp.float32)
    if "latent_log_variance" not in examples:
        return mean
    noise = jax.random.normal(rng, mean.shape)
    return mean + jnp.exp(0.5 * examples["latent_log_variance"].astype(jnp.float32)) * noise
