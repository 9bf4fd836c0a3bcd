"""The clean latents of a batch, from whatever the batch holds of its images.

image                               encoded now
latent_mean, latent_log_variance    mean + exp(log variance / 2) noise, a draw from the stored posterior
latent_mean                         itself: the posterior is a point
none of them                        None: texts without an image, for which the model has its null image
"""

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp

from dualdiff_jax.arrays import Images, Key, Latents


def clean_latents(
    examples: Mapping[str, jax.Array], encode: Callable[[Images, Key], Latents], rng: Key
) -> Latents | None:
    """The latents that a loss is computed on.

    Args:
        examples: arrays by name, each with the batch as leading dim.
        encode: images (b, h, w, 3) and a key -> latents (b, h', w', c).
        rng: draws from the posterior.

    Returns:
        (b, h', w', c) fp32, or None for texts without images.
    """
    if "image" in examples:
        return encode(examples["image"], rng)
    if "latent_mean" not in examples:
        return None
    mean = examples["latent_mean"].astype(jnp.float32)
    if "latent_log_variance" not in examples:
        return mean
    noise = jax.random.normal(rng, mean.shape)
    return mean + jnp.exp(0.5 * examples["latent_log_variance"].astype(jnp.float32)) * noise
