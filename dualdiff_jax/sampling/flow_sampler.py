"""Integrates the velocity field from noise to latents (arXiv 2403.03206; the grid is SD3's scheduler).

(1)  s(y) = a y / (1 + (a - 1) y), the resolution shift with a = sigma_shift
(2)  sigma_k = s(linspace(1, s(0.001), n))_k, then 0: the shift acts twice on the smallest level
(3)  Euler: x <- x + (sigma_{k+1} - sigma_k) v(x, 1000 sigma_k)
"""

import jax
import jax.numpy as jnp
import numpy as np

from dualdiff_jax.arrays import Latents
from dualdiff_jax.objectives.time_sampling import TIMESTEPS
from dualdiff_jax.sampling.guidance import VelocityField

SIGMA_MIN = 1e-3


def shift_sigma(sigma: np.ndarray | float, sigma_shift: float) -> np.ndarray | float:
    """Equation (1)."""
    return sigma_shift * sigma / (1.0 + (sigma_shift - 1.0) * sigma)


def sigma_grid(steps: int, sigma_shift: float) -> np.ndarray:
    """(steps + 1,) fp32, from 1 down to 0. Equation (2)."""
    levels = np.linspace(1.0, shift_sigma(SIGMA_MIN, sigma_shift), steps)
    return np.append(shift_sigma(levels, sigma_shift), 0.0).astype(np.float32)


def euler(field: VelocityField, noise: Latents, sigmas: jax.Array) -> tuple[Latents, Latents]:
    """Follows ``field`` down the grid ``sigmas`` (n + 1,). Equation (3), in fp32.

    Returns the final latents (b, h, w, c) and the clean estimate x - sigma v at each of the n steps
    (n, b, h, w, c), which costs nothing where it is not used. The timestep is handed on as (1,): all
    examples share it.
    """

    def step(latents: Latents, sigma: tuple[jax.Array, jax.Array]) -> tuple[Latents, Latents]:
        now, following = sigma
        velocity = field(latents, TIMESTEPS * now[None])
        return latents + (following - now) * velocity, latents - now * velocity

    sigmas = jnp.asarray(sigmas, jnp.float32)
    return jax.lax.scan(step, noise.astype(jnp.float32), (sigmas[:-1], sigmas[1:]))
