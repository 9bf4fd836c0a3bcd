"""Laws of the sigma grid and of Euler's steps over it."""

import jax.numpy as jnp
import numpy as np
import pytest

from dualdiff_jax.sampling.flow_sampler import IMAGE_SAMPLERS, SIGMA_MIN, follow, image_sampler, shift_sigma, sigma_grid
from tests.unit.tiny import draw_latents

NOISE = draw_latents(0, 2)


def sample(name, field, noise, sigmas):
    """Latents and estimates of the sampler ``name``, with a field of (latents, sigma)."""
    sampler, levels = image_sampler(name), jnp.asarray(sigmas)
    state, estimates = follow(sampler, lambda x, k: field(x, levels[k]), sampler.start(noise), levels)
    return state.latents, estimates


def euler(field, noise, sigmas):
    return sample("euler", field, noise, sigmas)


def test_grid_of_the_released_model():
    """28 steps at shift 3: SD3's scheduler shifts twice, and its last level above 0 is 0.008929."""
    grid = sigma_grid(28, 3.0)
    assert grid.shape == (29,) and grid.dtype == np.float32
    assert f"{grid[-2]:.6f}" == "0.008929"
    np.testing.assert_allclose(grid[1], 3 * 0.9630730 / (1 + 2 * 0.9630730), rtol=1e-5)


@pytest.mark.parametrize("shift", [0.5, 1.0, 3.0])
@pytest.mark.parametrize("steps", [2, 5, 28, 1000])
def test_grid_falls_from_1_to_0(steps, shift):
    grid = sigma_grid(steps, shift)
    assert len(grid) == steps + 1 and grid[0] == 1.0 and grid[-1] == 0.0
    assert (np.diff(grid) < 0).all()
    np.testing.assert_allclose(grid[-2], shift_sigma(shift_sigma(SIGMA_MIN, shift), shift), rtol=1e-5)


def test_grid_of_one_step_is_the_whole_way():
    np.testing.assert_array_equal(sigma_grid(1, 3.0), np.float32([1.0, 0.0]))


def test_shift_of_1_is_the_identity_and_shifts_keep_the_ends():
    levels = np.linspace(0, 1, 5)
    np.testing.assert_allclose(shift_sigma(levels, 1.0), levels)
    np.testing.assert_allclose(shift_sigma(levels, 3.0), [0, 0.5, 0.75, 0.9, 1])
    np.testing.assert_allclose(shift_sigma(shift_sigma(levels, 3.0), 1 / 3), levels, atol=1e-12)


@pytest.mark.parametrize("steps", [1, 3, 28])
def test_euler_is_exact_for_a_constant_field(steps):
    """A straight path needs one step: x(0) = x(1) - v. The clean estimate is right from the first."""
    velocity = draw_latents(1, 2)
    latents, estimates = euler(lambda x, sigma: velocity, NOISE, sigma_grid(steps, 3.0))
    np.testing.assert_allclose(latents, NOISE - velocity, atol=1e-5)
    assert estimates.shape == (steps, *NOISE.shape)
    np.testing.assert_allclose(estimates, np.broadcast_to(NOISE - velocity, estimates.shape), atol=1e-5)


@pytest.mark.parametrize("steps", [1, 4, 28])
def test_euler_is_exact_from_a_gaussian_to_a_point(steps):
    """Where the data is one point x, the true field is (x_sigma - x) / sigma, and its paths are straight."""
    point = draw_latents(2, 2)
    latents, estimates = euler(lambda x, sigma: (x - point) / sigma, NOISE, sigma_grid(steps, 3.0))
    np.testing.assert_allclose(latents, point, atol=1e-5)
    np.testing.assert_allclose(estimates, np.broadcast_to(point, estimates.shape), atol=1e-5)


@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_euler_converges_at_first_order(shift):
    """dx / d sigma = x from sigma = 1 to 0 multiplies by 1/e; twice the steps, half the error."""
    errors = []
    for steps in (20, 40, 80):
        latents, _ = euler(lambda x, sigma: x, NOISE, sigma_grid(steps, shift))
        errors.append(np.abs(latents - NOISE / np.e).max())
    assert errors[0] < 0.2
    for coarse, fine in zip(errors, errors[1:], strict=False):
        assert 1.8 < coarse / fine < 2.2


def test_velocity_is_taken_at_the_sigma_where_each_step_begins():
    grid = sigma_grid(5, 3.0).astype(np.float64)
    latents, estimates = euler(lambda x, sigma: 0 * x + jnp.square(sigma), NOISE, sigma_grid(5, 3.0))
    moves = np.diff(grid) * grid[:-1] ** 2
    np.testing.assert_allclose(latents, NOISE + moves.sum(), atol=1e-5)
    before = np.cumsum(np.append(0, moves[:-1])) - grid[:-1] ** 3
    np.testing.assert_allclose(estimates, NOISE[None] + before[:, None, None, None, None], atol=1e-5)


def test_index_is_one_integer_and_latents_are_fp32():
    def field(latents, k):
        assert k.shape == () and k.dtype == jnp.int32 and latents.dtype == jnp.float32
        return latents.astype(jnp.bfloat16)

    for name in IMAGE_SAMPLERS:
        sampler = image_sampler(name)
        state, estimates = follow(sampler, field, sampler.start(NOISE.astype(jnp.bfloat16)), sigma_grid(2, 1.0))
        assert state.latents.dtype == estimates.dtype == jnp.float32
