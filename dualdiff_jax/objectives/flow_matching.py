"""Flow matching on latents (arXiv 2210.02747; rectified flow with SD3's weighting: 2403.03206).

With clean latents x, Gaussian noise e and sigma in (0, 1]:
(1)  noisy latents    x_sigma = (1 - sigma) x + sigma e
(2)  velocity         v = d x_sigma / d sigma = e - x
(3)  loss             w(sigma) |v_model(x_sigma, 1000 sigma, text) - v|^2, averaged over the latent's entries
(4)  clean estimate   x = x_sigma - sigma v, so regressing x instead weights (3) by sigma^2
w = 1 is ``uniform``; w = sigma^2 is ``sigma_squared``, what the released D-DiT weights were trained with.
"""

import jax.numpy as jnp

from dualdiff_jax.arrays import Latents, PerExample


def add_noise(clean_latents: Latents, noise: Latents, sigma: PerExample) -> Latents:
    """Equation (1); all (b, h, w, c), sigma (b,)."""
    sigma = sigma[:, None, None, None]
    return (1.0 - sigma) * clean_latents + sigma * noise


def velocity_target(clean_latents: Latents, noise: Latents) -> Latents:
    """Equation (2)."""
    return noise - clean_latents


def loss_weight(sigma: PerExample, weighting: str) -> PerExample:
    """w(sigma) of equation (3): ``uniform`` or ``sigma_squared``."""
    return jnp.square(sigma) if weighting == "sigma_squared" else jnp.ones_like(sigma)


def flow_loss(velocity: Latents, target: Latents, sigma: PerExample, weighting: str) -> PerExample:
    """(b,) weighted squared velocity error, averaged over h, w, c. Equation (3)."""
    error = jnp.square(velocity.astype(jnp.float32) - target).mean(axis=(1, 2, 3))
    return loss_weight(sigma, weighting) * error
