"""Integration of the velocity field from noise to latents (arXiv 2403.03206; the grid is that of SD3's scheduler).

With x = (1 - sigma) clean + sigma noise, dx / d sigma = v(x, sigma), and the clean estimate D(x, sigma) = x - sigma v:
(1)  s(y) = a y / (1 + (a - 1) y), the resolution shift with a = sigma_shift
(2)  sigma_k = s(linspace(1, s(0.001), n))_k, then 0: the smallest level is shifted twice
(3)  euler:    x_{k+1} = x_k + d v(x_k, sigma_k), d = sigma_{k+1} - sigma_k
(4)  heun:     x_{k+1} = x_k + d (v(x_k, sigma_k) + v(y, sigma_{k+1})) / 2, y from (3); Euler where sigma_{k+1} = 0
(5)  dpm++2m:  x_{k+1} = x_k + d v(x_k, sigma_k) + (1 - sigma_{k+1} / sigma_k) w (D_k - D_{k-1}),
               w = h_k / (2 h_{k-1}), h_k = lambda_{k+1} - lambda_k, lambda = log((1 - sigma) / sigma)
(4) is Heun's method as in arXiv 2206.00364, algorithm 1. (5) is DPM-Solver++(2M), arXiv 2211.01095, algorithm 2, whose
step of first order is (3) for a flow. w is 0 where a lambda is infinite: in the step from sigma = 1, the next step
(the limit), and in the step to 0; and in the first step, which has no D_{k-1}.
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dualdiff_jax.arrays import Latents
from dualdiff_jax.sampling.guidance import VelocityField

SIGMA_MIN = 1e-3  # of the grid, before both shifts


def shift_sigma(sigma: np.ndarray | float, sigma_shift: float) -> np.ndarray | float:
    """Equation (1): noise levels in [0, 1], shifted by ``sigma_shift`` > 0."""
    return sigma_shift * sigma / (1.0 + (sigma_shift - 1.0) * sigma)


def sigma_grid(steps: int, sigma_shift: float) -> np.ndarray:
    """The noise levels of a sampler. Equation (2).

    Args:
        steps: n >= 1.
        sigma_shift: Of equation (1); 1 is none.

    Returns:
        (steps + 1,) fp32, falling from 1 to 0.
    """
    levels = np.linspace(1.0, shift_sigma(SIGMA_MIN, sigma_shift), steps)
    return np.append(shift_sigma(levels, sigma_shift), 0.0).astype(np.float32)


class SamplerState(NamedTuple):
    """Where a sampler is between two steps; with it, a run can be cut into pieces that equal the whole."""

    latents: Latents  # (b, h, w, c) fp32
    memory: tuple[jax.Array, ...] = ()  # what a sampler of several steps keeps of the earlier ones


class FlowSampler(NamedTuple):
    """A sampler of images.

    Attributes:
        start: Noise (b, h, w, c) -> the state before the first step.
        step: (field, state, k, sigmas) -> the state at ``sigmas[k + 1]``, and the clean estimate (b, h, w, c) in fp32.
            It evaluates the field at k and perhaps at k + 1, where ``sigmas[k + 1]`` is not 0.
        evaluations: Of the field in each step, but the last, which has one.
    """

    start: Callable[[Latents], SamplerState]
    step: Callable[[VelocityField, SamplerState, jax.Array, jax.Array], tuple[SamplerState, Latents]]
    evaluations: int = 1


def follow(
    sampler: FlowSampler,
    field: VelocityField,
    state: SamplerState,
    sigmas: jax.Array | np.ndarray,
    settle: Callable[[Latents, jax.Array], Latents] | None = None,
) -> tuple[SamplerState, Latents]:
    """Takes one step between each two levels of a grid, or of a piece of one.

    Args:
        sampler: Of ``IMAGE_SAMPLERS``.
        field: (latents (b, h, w, c), k) -> velocity (b, h, w, c) at ``sigmas[k]``; k is a traced index.
        state: Of ``sampler.start``, or what the steps before this piece returned.
        sigmas: (n + 1,), falling.
        settle: (latents, their sigma) -> what replaces the latents after each step; None changes nothing.

    Returns:
        The state at the end, and the clean estimate of each step (n, b, h, w, c). Inside ``jit`` the estimates cost
        nothing where they are not used.
    """
    sigmas = jnp.asarray(sigmas, jnp.float32)

    def step(state: SamplerState, k: jax.Array) -> tuple[SamplerState, Latents]:
        state, estimate = sampler.step(field, state, k, sigmas)
        if settle is not None:
            state = state._replace(latents=settle(state.latents, sigmas[k + 1]))
        return state, estimate

    return jax.lax.scan(step, state, jnp.arange(len(sigmas) - 1))


def _start(noise: Latents) -> SamplerState:
    return SamplerState(noise.astype(jnp.float32))


def _euler(field: VelocityField, state: SamplerState, k: jax.Array, sigmas: jax.Array) -> tuple[SamplerState, Latents]:
    latents, sigma = state.latents, sigmas[k]
    velocity = field(latents, k)
    return SamplerState(latents + (sigmas[k + 1] - sigma) * velocity), latents - sigma * velocity


def _heun(field: VelocityField, state: SamplerState, k: jax.Array, sigmas: jax.Array) -> tuple[SamplerState, Latents]:
    latents, sigma, next_sigma = state.latents, sigmas[k], sigmas[k + 1]
    velocity = field(latents, k)

    def mean() -> Latents:
        return 0.5 * (velocity + field(latents + (next_sigma - sigma) * velocity, k + 1))

    slope = jax.lax.cond(next_sigma > 0.0, mean, lambda: velocity)
    return SamplerState(latents + (next_sigma - sigma) * slope), latents - sigma * velocity


def _start_multistep(noise: Latents) -> SamplerState:
    noise = noise.astype(jnp.float32)
    return SamplerState(noise, (jnp.zeros_like(noise), jnp.ones((), jnp.float32)))


def _multistep(
    field: VelocityField, state: SamplerState, k: jax.Array, sigmas: jax.Array
) -> tuple[SamplerState, Latents]:
    latents, (earlier, earlier_sigma) = state
    sigma, next_sigma = sigmas[k], sigmas[k + 1]
    velocity = field(latents, k)
    clean = latents - sigma * velocity
    past, here, ahead = (jnp.log1p(-level) - jnp.log(level) for level in (earlier_sigma, sigma, next_sigma))
    is_finite = jnp.isfinite(past) & jnp.isfinite(ahead)  # ``past`` is not before the first step and after sigma = 1
    weight = jnp.where(is_finite & (here > past), (ahead - here) / (2.0 * (here - past)), 0.0)
    correction = (1.0 - next_sigma / sigma) * weight * (clean - earlier)
    return SamplerState(latents + (next_sigma - sigma) * velocity + correction, (clean, sigma)), clean


# The samplers of images, by the names of ``SamplingConfig.image_sampler``.
IMAGE_SAMPLERS: Mapping[str, FlowSampler] = {
    "euler": FlowSampler(_start, _euler),
    "heun": FlowSampler(_start, _heun, evaluations=2),
    "dpm++2m": FlowSampler(_start_multistep, _multistep),
}


def image_sampler(name: str) -> FlowSampler:
    """The sampler named ``name``. Raises ``ValueError`` that names the choices where there is none."""
    if name not in IMAGE_SAMPLERS:
        raise ValueError(f"sampler is {name!r}; give one of {', '.join(IMAGE_SAMPLERS)}")
    return IMAGE_SAMPLERS[name]
