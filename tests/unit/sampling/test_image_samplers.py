"""Laws of the image samplers, on flows whose solution is known, and against diffusers' schedulers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from diffusers.schedulers.scheduling_dpmsolver_multistep import DPMSolverMultistepScheduler
from diffusers.schedulers.scheduling_flow_match_euler_discrete import FlowMatchEulerDiscreteScheduler
from diffusers.schedulers.scheduling_flow_match_heun_discrete import FlowMatchHeunDiscreteScheduler

from dualdiff_jax.sampling.flow_sampler import IMAGE_SAMPLERS, follow, image_sampler, sigma_grid
from tests.unit.tiny import draw_latents

NOISE = draw_latents(0, 2)
MEAN, SPREAD = 0.7, 0.4  # of the Gaussian data
ORDERS = {"euler": 1, "heun": 2, "dpm++2m": 2}
DIFFUSERS = {
    "euler": lambda: FlowMatchEulerDiscreteScheduler(shift=3.0),
    "heun": lambda: FlowMatchHeunDiscreteScheduler(shift=3.0),
    "dpm++2m": lambda: DPMSolverMultistepScheduler(
        algorithm_type="dpmsolver++",
        solver_order=2,
        prediction_type="flow_prediction",
        use_flow_sigmas=True,
        flow_shift=3.0,
    ),
}


def gaussian(x, sigma):
    """The velocity E[noise - data | x] where data is N(MEAN, SPREAD^2): the path is a linear map of the noise."""
    variance = (1 - sigma) ** 2 * SPREAD**2 + sigma**2
    return -MEAN + (sigma - (1 - sigma) * SPREAD**2) / variance * (x - (1 - sigma) * MEAN)


def sample(name, field, sigmas, noise=NOISE):
    sampler, levels = image_sampler(name), jnp.asarray(sigmas, jnp.float32)
    state, estimates = follow(sampler, lambda x, k: field(x, levels[k]), sampler.start(noise), levels)
    return np.asarray(state.latents), np.asarray(estimates)


def test_there_is_an_order_for_each_sampler():
    assert set(ORDERS) == set(IMAGE_SAMPLERS) == set(DIFFUSERS)


def on_the_path(sigma):
    """Where the path that begins at the noise is at ``sigma``."""
    return (1 - sigma) * MEAN + np.sqrt((1 - sigma) ** 2 * SPREAD**2 + sigma**2) * np.asarray(NOISE, np.float64)


def rate(name, grid, steps):
    """log2 of how much the error falls from ``steps`` to twice as many."""
    errors = []
    for count in (steps, 2 * steps):
        levels = grid(count)
        found, _ = sample(name, gaussian, levels, jnp.asarray(on_the_path(levels[0])))
        errors.append(np.abs(found - on_the_path(levels[-1])).max())
    return np.log2(errors[0] / errors[1])


@pytest.mark.parametrize("name", IMAGE_SAMPLERS)
def test_the_error_falls_with_the_order(name):
    """Between two levels inside (0, 1), with equal steps of lambda."""
    found = rate(name, lambda count: 1 / (1 + np.exp(np.linspace(-3.0, 3.0, count + 1))), 32)
    assert abs(found - ORDERS[name]) < 0.1


@pytest.mark.parametrize(("name", "least"), [("euler", 0.95), ("heun", 1.95), ("dpm++2m", 1.7)])
def test_the_error_falls_with_the_order_from_noise_to_data(name, least):
    """With equal steps of sigma the error of (5) is n^-2 log n: near both ends w is off by a part of 1 / n."""
    assert least < rate(name, lambda count: np.linspace(1.0, 0.0, count + 1), 128) < ORDERS[name] + 0.1


@pytest.mark.parametrize("name", IMAGE_SAMPLERS)
@pytest.mark.parametrize("steps", [1, 2, 7, 28])
def test_steps_are_those_of_diffusers(name, steps):
    """Same levels, same velocities: a field that is not linear in x, in diffusers' own loop."""

    def field(x, sigma):
        return gaussian(x, sigma) + 0.3 * x * x / (1 + x * x)

    scheduler = DIFFUSERS[name]()
    scheduler.set_timesteps(steps)
    levels = np.unique(scheduler.sigmas.numpy())[::-1]
    x = torch.from_numpy(np.array(NOISE))
    for t in scheduler.timesteps:
        sigma = levels[np.abs(1000 * levels - t.item()).argmin()]  # timesteps of DPM-Solver are rounded
        x = scheduler.step(field(x, sigma), t, x, return_dict=False)[0]
    found, _ = sample(name, field, levels)
    np.testing.assert_allclose(found, x.numpy(), rtol=2e-6, atol=2e-6 * np.abs(x.numpy()).max())
    assert len(levels) == steps + 1


def test_the_multistep_sampler_is_its_equation_with_double_precision():
    """DPM-Solver++(2M) as its paper writes it, with alpha and exp(-h), on a grid from below 1."""
    levels = np.linspace(0.95, 0.05, 12).astype(np.float32)
    x, earlier, h_before = np.array(NOISE, np.float64), None, None
    for s, t in zip(levels[:-1].astype(np.float64), levels[1:].astype(np.float64), strict=True):
        clean, h = x - s * gaussian(x, s), np.log((1 - t) / t) - np.log((1 - s) / s)
        ahead = clean if earlier is None else clean + (clean - earlier) * h / (2 * h_before)
        x, earlier, h_before = t / s * x - (1 - t) * np.expm1(-h) * ahead, clean, h
    found, estimates = sample("dpm++2m", gaussian, levels)
    np.testing.assert_allclose(found, x, atol=2e-6)
    np.testing.assert_allclose(estimates[-1], earlier, atol=2e-6)


@pytest.mark.parametrize("name", IMAGE_SAMPLERS)
@pytest.mark.parametrize("sigmas", [[1.0, 0.0], [1.0, 0.5, 0.0], [0.3, 0.0], [1.0, 0.999, 0.998, 1e-6, 0.0]])
def test_every_grid_gives_finite_latents(name, sigmas):
    found, estimates = sample(name, gaussian, sigmas)
    assert np.isfinite(found).all() and np.isfinite(estimates).all()
    np.testing.assert_allclose(found, estimates[-1], atol=1e-6)  # the step to 0 ends at its clean estimate


@pytest.mark.parametrize("name", IMAGE_SAMPLERS)
@pytest.mark.parametrize("cuts", [[3], [1, 2, 6]])
def test_pieces_are_the_whole(name, cuts):
    grid = jnp.asarray(sigma_grid(8, 3.0))
    sampler = image_sampler(name)
    state, found = sampler.start(NOISE), []
    for first, last in zip([0, *cuts], [*cuts, 8], strict=True):
        levels = grid[first : last + 1]
        state, estimates = follow(sampler, lambda x, k, levels=levels: gaussian(x, levels[k]), state, levels)
        found.append(estimates)
    whole, expected = sample(name, gaussian, grid)
    np.testing.assert_allclose(state.latents, whole, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(np.concatenate(found), expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(("name", "evaluations"), [("euler", 6), ("heun", 11), ("dpm++2m", 6)])
def test_a_step_evaluates_the_field_as_often_as_it_says(name, evaluations):
    """The level 0 is never evaluated."""
    seen: list[float] = []
    sampler, grid = image_sampler(name), jnp.asarray(sigma_grid(6, 1.0))
    state = sampler.start(NOISE)
    with jax.disable_jit():
        follow(sampler, lambda x, k: seen.append(float(grid[k])) or x, state, grid)
    assert len(seen) == evaluations == (6 - 1) * sampler.evaluations + 1
    assert min(seen) > 0.0


def test_what_settles_follows_each_step():
    grid = np.float32([1.0, 0.5, 0.25, 0.0])
    sampler, seen = image_sampler("euler"), []
    with jax.disable_jit():
        state, _ = follow(
            sampler, lambda x, k: 0 * x, sampler.start(NOISE), grid, lambda x, sigma: seen.append(float(sigma)) or x + 1
        )
    assert seen == [0.5, 0.25, 0.0]
    np.testing.assert_allclose(state.latents, NOISE + 3, atol=1e-6)


def test_an_unknown_sampler_is_refused_with_the_choices():
    with pytest.raises(ValueError, match=r"sampler is 'ddim'; give one of euler, heun, dpm\+\+2m"):
        image_sampler("ddim")
