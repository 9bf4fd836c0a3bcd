"""Flow matching on latents (arXiv 2210.02747; rectified flow with SD3's weighting: 2403.03206).

With clean latents x, Gaussian noise e and sigma in (0, 1]:
(1)  noisy latents    x_sigma = (1 - sigma) x + sigma e
(2)  velocity         v = d x_sigma / d sigma = e - x
(3)  loss             w(sigma) |v_model(x_sigma, 1000 sigma, text) - v|^2, averaged over the latent's entries
(4)  clean estimate   x = x_sigma - sigma v, so regressing x instead weights (3) by sigma^2
w = 1 is ``uniform``; w = sigma^2 is ``sigma_squared``, which the released D-DiT weights were trained with.
"""

from collections.abc import Callable, Mapping

import jax.numpy as jnp

from dualdiff_jax.arrays import Latents, PerExample

# Name -> w(sigma) of equation (3), (b,) -> (b,).
WEIGHTINGS: Mapping[str, Callable[[PerExample], PerExample]] = {
    "uniform": jnp.ones_like,
    "sigma_squared": jnp.square,
}


def add_noise(clean_latents: Latents, noise: Latents, sigma: PerExample) -> Latents:
    """Equation (1); latents and noise (b, h, w, c), sigma (b,)."""
    sigma = sigma[:, None, None, None]
    return (1.0 - sigma) * clean_latents + sigma * noise


def velocity_target(clean_latents: Latents, noise: Latents) -> Latents:
    """Equation (2)."""
    return noise - clean_latents


def loss_weight(sigma: PerExample, weighting: str) -> PerExample:
    """w(sigma) of equation (3), (b,); ``ValueError`` for a name that is not in ``WEIGHTINGS``."""
    if weighting not in WEIGHTINGS:
        raise ValueError(f"weighting is {weighting!r}; give one of {list(WEIGHTINGS)}")
    return WEIGHTINGS[weighting](sigma)


def flow_loss(velocity: Latents, target: Latents, sigma: PerExample, weighting: str) -> PerExample:
    """Equation (3).

    Args:
        velocity: (b, h, w, c), the model's.
        target: (b, h, w, c), ``velocity_target``.
        sigma: (b,) in (0, 1].
        weighting: a name of ``WEIGHTINGS``.

    Returns:
        (b,) weighted squared errors, averaged over h, w and c.
    """
    error = jnp.square(velocity.astype(jnp.float32) - target).mean(axis=(1, 2, 3))
    return loss_weight(sigma, weighting) * error
