"""Laws of the identity autoencoder, and of the choice of a kind."""

from types import SimpleNamespace

import jax
import numpy as np
import pytest
from flax import nnx

from dualdiff_jax.config import AutoencoderConfig
from dualdiff_jax.models.autoencoder import IdentityAutoencoder, KLAutoencoder, build_autoencoder
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


@pytest.mark.parametrize("kind, cls", [("identity", IdentityAutoencoder), ("kl", KLAutoencoder)])
def test_a_kind_names_its_autoencoder(kind, cls):
    config = AutoencoderConfig(kind=kind, level_widths=(4, 8), level_depth=1, norm_groups=2)
    found = nnx.eval_shape(lambda: build_autoencoder(config, dtype="float32", rngs=nnx.Rngs(0)))
    assert isinstance(found, cls) and found.downscale == config.downscale


def test_an_unknown_kind_is_an_error():
    with pytest.raises(ValueError, match="autoencoder kind 'vq' is none of identity, kl"):
        build_autoencoder(SimpleNamespace(kind="vq"), dtype="float32", rngs=nnx.Rngs(0))
