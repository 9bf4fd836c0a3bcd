"""Inpainting by replacement (arXiv 2201.09865 without resampling; diffusers' SD3 inpainting does the same).

After each step the latents of the known region become those of the given image at the noise level reached,
(1)  x = r x + (1 - r) ((1 - sigma) clean + sigma noise),  r = 1 in the region to repaint, else 0
with the noise that the sampler began with.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dualdiff_jax.arrays import Latents


class KnownRegion(NamedTuple):
    """What inpainting knows of a batch."""

    clean_latents: Latents  # (b, h, w, c) of the given images
    noise: Latents  # (b, h, w, c) that the sampler began with
    is_repainted: jax.Array  # (b, h, w, 1) bool

    def settle(self, latents: Latents, sigma: jax.Array | float) -> Latents:
        """Equation (1)."""
        return jnp.where(self.is_repainted, latents, noised(self.clean_latents, self.noise, sigma))


def noised(clean_latents: Latents, noise: Latents, sigma: jax.Array | float) -> Latents:
    """The latents at noise level ``sigma``: (1 - sigma) clean + sigma noise, fp32."""
    return (1.0 - sigma) * clean_latents.astype(jnp.float32) + sigma * noise.astype(jnp.float32)


def repainted_latents(is_repainted: np.ndarray, downscale: int) -> np.ndarray:
    """Masks of pixels (n, H, W) -> masks of latents (n, h, w, 1): a latent is repainted if any of its pixels is."""
    count, height, width = is_repainted.shape
    squares = is_repainted.reshape(count, height // downscale, downscale, width // downscale, downscale)
    return np.any(squares, axis=(2, 4), keepdims=True).reshape(count, height // downscale, width // downscale, 1)
