"""Draws of the clock t in [0, 1] (0 data, 1 noise or all mask) for both modalities.

Images (arXiv 2403.03206, section 3.1), u = sigmoid(N(0, 1)):
(1)  logit_normal         sigma = u
(2)  logit_normal_1000    sigma = 1 - floor(1000 u) / 1000, the 1000 levels that SD3's scheduler knows
Both give the model timestep = 1000 sigma.

Text (arXiv 2406.07524, appendix): one u ~ U(0, 1) spread antithetically over the batch,
(3)  t_i = eps + (1 - eps) ((u + i) / B mod 1),  eps = 1e-3
so that any batch covers the clock evenly; each t_i alone is uniform. Where N batches belong together, as in a
validation, (u + n) / N of batch n stands for u, so that all of them cover it N times as finely.
"""

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp

from dualdiff_jax.arrays import Key, PerExample

T_MIN = 1e-3
LEVELS = 1000
TIMESTEPS = 1000.0  # timestep of sigma = 1

# Name -> sigma of u = sigmoid(N(0, 1)), (b,) -> (b,).
SIGMA_DISTRIBUTIONS: Mapping[str, Callable[[jax.Array], PerExample]] = {
    "logit_normal": lambda u: u,
    "logit_normal_1000": lambda u: 1.0 - jnp.minimum(jnp.floor(LEVELS * u), LEVELS - 1) / LEVELS,
}


def sample_sigma(rng: Key, batch: int, distribution: str) -> PerExample:
    """Draws noise levels.

    Args:
        rng: one key for all of them.
        batch: how many, b.
        distribution: a name of ``SIGMA_DISTRIBUTIONS``: equation (1) or (2).

    Returns:
        (b,) in (0, 1].

    Raises:
        ValueError: there is no such distribution.
    """
    if distribution not in SIGMA_DISTRIBUTIONS:
        raise ValueError(f"distribution is {distribution!r}; give one of {list(SIGMA_DISTRIBUTIONS)}")
    return SIGMA_DISTRIBUTIONS[distribution](jax.nn.sigmoid(jax.random.normal(rng, (batch,))))


def sample_t(rng: Key, batch: int, part: jax.Array | int = 0, parts: int = 1) -> PerExample:
    """Mask clocks by equation (3), in a random order over the batch.

    Args:
        rng: one key for all of them.
        batch: how many, b.
        part: the number of this batch, n, among those that belong together.
        parts: how many these are, N.

    Returns:
        (b,) in [eps, 1].
    """
    rng_offset, rng_order = jax.random.split(rng)
    offset = (jax.random.uniform(rng_offset) + part) / parts
    spread = (offset + jnp.arange(batch)) / batch
    return T_MIN + (1.0 - T_MIN) * jax.random.permutation(rng_order, spread)
