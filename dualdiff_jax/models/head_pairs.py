"""Two attention heads side by side in a TPU's registers, as the kernels of ``paired_attention`` and ``joint_attention``
compute with them.

A head dim of 64 fills half of a register, so a program takes two heads at once. With M_h the lanes of head h,
(1)  out = sum_h M_h softmax(scale * (M_h q) k^T) v
"""

import jax
import jax.numpy as jnp

LANES = 128  # of a register: two heads


def are_pairs(heads: int, head_dim: int) -> bool:
    """Whether every two heads of one device fill a register."""
    return 2 * head_dim == LANES and heads % 2 == 0


def halves() -> tuple[jax.Array, jax.Array]:
    """The lanes of the first head, and those of the second, (1, 128)."""
    is_first = jax.lax.broadcasted_iota(jnp.int32, (1, LANES), 1) < LANES // 2
    return is_first, ~is_first


def masked(x: jax.Array, lanes: jax.Array) -> jax.Array:
    """x (..., 128) in ``lanes``, and zero elsewhere."""
    return jnp.where(lanes, x, jnp.zeros_like(x))


def product(x: jax.Array, y: jax.Array, contracted: tuple[int, int]) -> jax.Array:
    """The product over one dim of each, in fp32."""
    dims = ((contracted[:1], contracted[1:]), ((), ()))
    return jax.lax.dot_general(x, y, dims, preferred_element_type=jnp.float32)


def attend(q: jax.Array, k: jax.Array, v: jax.Array, scale: float) -> jax.Array:
    """Equation (1): q (q, 128), k and v (s, 128) -> (q, 128) in fp32."""
    both, outs = halves(), []
    for lanes in both:
        scores = scale * product(masked(q, lanes), k, (1, 1))
        weights = jnp.exp(scores - scores.max(axis=1, keepdims=True))
        outs.append(product(weights.astype(v.dtype), v, (1, 0)) / weights.sum(axis=1, keepdims=True))
    return jnp.where(both[0], *outs)
