"""Laws of classifier-free guidance."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dualdiff_jax.sampling.guidance import guided_velocity
from tests.unit.tiny import draw_latents

LATENTS = draw_latents(0, 2)
TEXT, NULL = (jax.random.normal(jax.random.key(seed), (2, 3, 4)) for seed in (1, 2))
STEP = jnp.int32(7)


def velocity(latents: jax.Array, k: jax.Array, text: jax.Array) -> jax.Array:
    return latents * k / 10 + text.sum(axis=(1, 2))[:, None, None, None]


def recorded(seen: list):
    def record(*inputs):
        seen.append(inputs)
        return velocity(*inputs)

    return record


@pytest.mark.parametrize("scale", [1.0, 3.0, 7.0])
def test_guided_velocity_is_the_null_plus_the_scaled_difference(scale):
    null, text = (velocity(LATENTS, STEP, embeddings) for embeddings in (NULL, TEXT))
    found = guided_velocity(velocity, TEXT, NULL, scale)(LATENTS, STEP)
    np.testing.assert_allclose(found, null + scale * (text - null), rtol=1e-5, atol=1e-5)


def test_scale_1_is_the_conditional_velocity_and_0_the_unconditional():
    for scale, embeddings in ((1.0, TEXT), (0.0, NULL)):
        found = guided_velocity(velocity, TEXT, NULL, scale)(LATENTS, STEP)
        np.testing.assert_allclose(found, velocity(LATENTS, STEP, embeddings), rtol=1e-5, atol=1e-5)


def test_without_null_embeddings_there_is_no_guidance_and_half_the_batch():
    seen = []
    found = guided_velocity(recorded(seen), TEXT, None, 7.0)(LATENTS, STEP)
    np.testing.assert_array_equal(found, velocity(LATENTS, STEP, TEXT))
    assert [len(latents) for latents, *_ in seen] == [2]


def test_both_halves_go_through_the_network_in_one_pass():
    seen = []
    guided_velocity(recorded(seen), TEXT, NULL, 7.0)(LATENTS, STEP)
    [(latents, k, text)] = seen
    np.testing.assert_array_equal(latents, jnp.concatenate([LATENTS, LATENTS]))
    np.testing.assert_array_equal(text, jnp.concatenate([NULL, TEXT]))
    np.testing.assert_array_equal(k, STEP)


def test_equal_embeddings_leave_the_scale_without_effect():
    fields = [guided_velocity(velocity, TEXT, TEXT, scale)(LATENTS, STEP) for scale in (1.0, 9.0)]
    np.testing.assert_allclose(*fields, rtol=1e-6)
