"""Laws of the identity autoencoder."""

import jax
import numpy as np
import pytest

from dualdiff_jax.config import AutoencoderConfig
from dualdiff_jax.models.autoencoder import IdentityAutoencoder
from tests.unit.tiny import draw_latents

RGB = draw_latents(0, 2, 3, 5, channels=3)


def test_rgb_goes_through_unchanged():
    autoencoder = IdentityAutoencoder(AutoencoderConfig(channels=3))
    np.testing.assert_array_equal(autoencoder.encode(RGB), RGB)
    np.testing.assert_array_equal(autoencoder.decode(RGB), RGB)


def test_grey_is_the_mean_and_comes_back_grey():
    autoencoder = IdentityAutoencoder(AutoencoderConfig(channels=1))
    latents = autoencoder.encode(RGB)
    assert latents.shape == (2, 3, 5, 1)
    np.testing.assert_allclose(latents[..., 0], np.mean(RGB, axis=-1), rtol=1e-5, atol=1e-6)
    grey = autoencoder.decode(latents)
    assert grey.shape == RGB.shape
    np.testing.assert_array_equal(grey, np.repeat(latents, 3, axis=-1))
    np.testing.assert_allclose(autoencoder.encode(grey), latents, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("channels", [1, 3])
def test_its_posterior_is_a_point(channels):
    autoencoder = IdentityAutoencoder(AutoencoderConfig(channels=channels))
    np.testing.assert_array_equal(autoencoder.encode(RGB, jax.random.key(0)), autoencoder.encode(RGB))
    assert autoencoder.downscale == 1
