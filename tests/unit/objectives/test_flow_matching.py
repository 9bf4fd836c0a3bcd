"""Laws of the straight path between data and noise, and of its loss."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dualdiff_jax.objectives.flow_matching import add_noise, flow_loss, loss_weight, velocity_target

SHAPE = (3, 2, 4, 2)
SIGMA = jnp.array([0.001, 0.37, 1.0])


def draw(seed: int) -> jax.Array:
    return jax.random.normal(jax.random.key(seed), SHAPE)


CLEAN, NOISE, PREDICTED = draw(0), draw(1), draw(2)


def test_sigma_0_is_the_data_and_sigma_1_the_noise():
    np.testing.assert_array_equal(add_noise(CLEAN, NOISE, jnp.zeros(3)), CLEAN)
    np.testing.assert_array_equal(add_noise(CLEAN, NOISE, jnp.ones(3)), NOISE)


def test_sigma_is_each_examples_own():
    found = add_noise(CLEAN, NOISE, jnp.array([0.0, 0.5, 1.0]))
    np.testing.assert_allclose(found, jnp.stack([CLEAN[0], (CLEAN[1] + NOISE[1]) / 2, NOISE[2]]), rtol=1e-6)


def test_velocity_is_the_derivative_of_the_path():
    _, derivative = jax.jvp(lambda sigma: add_noise(CLEAN, NOISE, sigma), (SIGMA,), (jnp.ones(3),))
    np.testing.assert_allclose(derivative, velocity_target(CLEAN, NOISE), atol=1e-6)


def test_clean_estimate_is_the_noisy_latents_less_sigma_velocity():
    estimate = add_noise(CLEAN, NOISE, SIGMA) - SIGMA[:, None, None, None] * velocity_target(CLEAN, NOISE)
    np.testing.assert_allclose(estimate, CLEAN, atol=1e-6)


def test_sigma_squared_weighting_is_regression_of_the_clean_latents():
    estimate = add_noise(CLEAN, NOISE, SIGMA) - SIGMA[:, None, None, None] * PREDICTED
    regression = np.square(np.asarray(estimate - CLEAN, np.float64)).mean(axis=(1, 2, 3))
    found = flow_loss(PREDICTED, velocity_target(CLEAN, NOISE), SIGMA, "sigma_squared")
    np.testing.assert_allclose(found, regression, rtol=1e-4, atol=1e-9)


def test_uniform_weighting_is_the_mean_squared_velocity_error():
    target = velocity_target(CLEAN, NOISE)
    expected = np.square(np.asarray(PREDICTED - target, np.float64)).mean(axis=(1, 2, 3))
    np.testing.assert_allclose(flow_loss(PREDICTED, target, SIGMA, "uniform"), expected, rtol=1e-6)


def test_weights_by_name():
    np.testing.assert_array_equal(loss_weight(SIGMA, "uniform"), np.ones(3))
    np.testing.assert_allclose(loss_weight(SIGMA, "sigma_squared"), np.square(SIGMA), rtol=1e-6)
    with pytest.raises(ValueError, match="weighting is 'sigma'; give one of .*uniform.*sigma_squared"):
        loss_weight(SIGMA, "sigma")


@pytest.mark.parametrize("weighting", ["uniform", "sigma_squared"])
def test_loss_vanishes_at_the_target_only(weighting):
    target = velocity_target(CLEAN, NOISE)
    np.testing.assert_array_equal(flow_loss(target, target, SIGMA, weighting), np.zeros(3))
    assert (np.asarray(flow_loss(PREDICTED, target, SIGMA, weighting)) > 0).all()


def test_losses_are_per_example():
    target = velocity_target(CLEAN, NOISE)
    before = flow_loss(PREDICTED, target, SIGMA, "uniform")
    after = flow_loss(PREDICTED.at[1].add(1.0), target, SIGMA, "uniform")
    np.testing.assert_array_equal(np.asarray(before) != np.asarray(after), [False, True, False])


def test_loss_of_a_bf16_velocity_is_taken_in_fp32():
    target, rounded = velocity_target(CLEAN, NOISE), PREDICTED.astype(jnp.bfloat16)
    found = flow_loss(rounded, target, SIGMA, "uniform")
    assert found.dtype == jnp.float32
    np.testing.assert_array_equal(found, flow_loss(rounded.astype(jnp.float32), target, SIGMA, "uniform"))
