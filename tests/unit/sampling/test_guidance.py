"""Laws of guidance."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from diffusers.guiders.classifier_free_zero_star_guidance import cfg_zero_star_scale

from dualdiff_jax.sampling.guidance import GUIDANCE_RULES, guided_velocity, optimal_scale
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


@pytest.mark.parametrize("scale", [1.0, 3.0, 7.0])
def test_cfg_zero_star_is_its_equation(scale):
    """v = s v_null + g (v_text - s v_null), example by example, in double precision."""
    found = guided_velocity(velocity, TEXT, NULL, scale, "cfg_zero_star")(LATENTS, STEP)
    for index in range(len(LATENTS)):
        null, text = (np.asarray(velocity(LATENTS, STEP, e)[index], np.float64) for e in (NULL, TEXT))
        best = (text * null).sum() / ((null * null).sum() + 1e-8)
        expected = best * null + scale * (text - best * null)
        np.testing.assert_allclose(found[index], expected, rtol=1e-5, atol=1e-5)


def test_the_optimal_scale_is_that_of_diffusers_and_of_least_squares():
    null, text = (np.asarray(velocity(LATENTS, STEP, embeddings)) for embeddings in (NULL, TEXT))
    found = np.asarray(optimal_scale(text, null))
    assert found.shape == (2, 1, 1, 1)
    theirs = cfg_zero_star_scale(*(torch.from_numpy(v.reshape(2, -1).copy()) for v in (text, null)))
    np.testing.assert_allclose(found.ravel(), theirs.numpy().ravel(), rtol=1e-5)
    for index in range(2):
        (best,), *_ = np.linalg.lstsq(null[index].reshape(-1, 1), text[index].ravel(), rcond=None)
        np.testing.assert_allclose(found[index].item(), best, rtol=1e-5)
    assert np.isfinite(optimal_scale(text, 0 * null)).all()


@pytest.mark.parametrize("rule", GUIDANCE_RULES)
def test_scale_1_is_the_text_alone_by_every_rule(rule):
    found = guided_velocity(velocity, TEXT, NULL, 1.0, rule)(LATENTS, STEP)
    np.testing.assert_allclose(found, velocity(LATENTS, STEP, TEXT), rtol=1e-5, atol=1e-5)
