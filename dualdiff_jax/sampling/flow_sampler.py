"""Integration of the velocity field from noise to latents (arXiv 2403.03206; the grid is that of SD3's scheduler).

(1)  s(y) = a y / (1 + (a - 1) y), the resolution shift with a = sigma_shift
(2)  sigma_k = s(linspace(1, s(0.001), n))_k, then 0: the smallest level is shifted twice
(3)  Euler: x <- x + (sigma_{k+1} - sigma_k) v(x, 1000 sigma_k)
"""

import jax
import jax.numpy as jnp
import numpy as np

from dualdiff_jax.arrays import Latents
from dualdiff_jax.objectives.time_sampling import TIMESTEPS
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


def euler(field: VelocityField, noise: Latents, sigmas: jax.Array) -> tuple[Latents, Latents]:
    """Follows a velocity field from noise to latents. Equation (3), in fp32.

    Args:
        field: (latents (b, h, w, c), timestep (1,) for all examples) -> velocity (b, h, w, c).
        noise: (b, h, w, c).
        sigmas: (n + 1,), falling from 1 to 0.

    Returns:
        The latents at the end (b, h, w, c), and the clean estimate x - sigma v of each step (n, b, h, w, c). Inside
        ``jit`` the estimates cost nothing where they are not used.
    """

    def step(latents: Latents, interval: tuple[jax.Array, jax.Array]) -> tuple[Latents, Latents]:
        sigma, next_sigma = interval
        velocity = field(latents, TIMESTEPS * sigma[None])
        return latents + (next_sigma - sigma) * velocity, latents - sigma * velocity

    sigmas = jnp.asarray(sigmas, jnp.float32)
    return jax.lax.scan(step, noise.astype(jnp.float32), (sigmas[:-1], sigmas[1:]))
