"""Images to latents and back."""

import jax.numpy as jnp
from flax import nnx

from dualdiff_jax.arrays import Images, Key, Latents
from dualdiff_jax.config import AutoencoderConfig


class IdentityAutoencoder(nnx.Module):
    """Pixels are the latents: RGB as it is, or its mean as one grey channel. For small images."""

    downscale = 1  # pixels per latent side

    def __init__(self, config: AutoencoderConfig):
        self.channels = config.channels

    def encode(self, images: Images, rng: Key | None = None) -> Latents:
        """(b, h, w, 3) in [-1, 1] -> (b, h, w, c). ``rng`` draws from the posterior, which is a point here."""
        del rng
        return images if self.channels == 3 else images.mean(axis=-1, keepdims=True)

    def decode(self, latents: Latents) -> Images:
        """(b, h, w, c) -> (b, h, w, 3), not clipped."""
        return latents if self.channels == 3 else jnp.repeat(latents, 3, axis=-1)


AUTOENCODERS = {"identity": IdentityAutoencoder}


def build_autoencoder(config: AutoencoderConfig) -> IdentityAutoencoder:
    return AUTOENCODERS[config.kind](config)
