"""Laws of what inpainting keeps."""

import jax.numpy as jnp
import numpy as np

from dualdiff_jax.sampling.known_region import KnownRegion, noised, repainted_latents
from tests.unit.tiny import draw_latents

CLEAN, NOISE, LATENTS = (draw_latents(seed, 2) for seed in range(3))


def test_noised_is_the_path_from_clean_latents_to_noise():
    np.testing.assert_array_equal(noised(CLEAN, NOISE, 0.0), CLEAN)
    np.testing.assert_array_equal(noised(CLEAN, NOISE, 1.0), NOISE)
    np.testing.assert_allclose(noised(CLEAN, NOISE, 0.3), 0.7 * CLEAN + 0.3 * NOISE, rtol=1e-6)
    assert noised(CLEAN.astype(jnp.bfloat16), NOISE, 0.3).dtype == jnp.float32


def test_outside_the_mask_latents_follow_the_image():
    mask = np.zeros((2, 4, 4, 1), bool)
    mask[0, 1:3], mask[1, :, 0] = True, True
    settled = np.asarray(KnownRegion(CLEAN, NOISE, jnp.asarray(mask)).settle(LATENTS, 0.4))
    np.testing.assert_array_equal(settled[mask], np.asarray(LATENTS)[mask])
    np.testing.assert_array_equal(settled[~mask], np.asarray(noised(CLEAN, NOISE, 0.4))[~mask])


def test_a_latent_is_repainted_if_any_of_its_pixels_is():
    pixels = np.zeros((2, 6, 4), bool)
    pixels[0, 3, 0] = pixels[1, 0:2, 2:4] = True
    found = repainted_latents(pixels, 2)
    assert found.shape == (2, 3, 2, 1)
    assert np.argwhere(found[..., 0]).tolist() == [[0, 1, 0], [1, 0, 1]]
    np.testing.assert_array_equal(repainted_latents(pixels, 1)[..., 0], pixels)
