"""Pointwise functions, computed in fp32 and returned in x's dtype: bfloat16 would round at each step inside them."""

import math

import jax
import jax.numpy as jnp


def silu(x: jax.Array) -> jax.Array:
    """x sigmoid(x)."""
    return jax.nn.silu(x.astype(jnp.float32)).astype(x.dtype)


@jax.custom_vjp
def gelu(x: jax.Array) -> jax.Array:
    """The tanh approximation of GELU (arXiv 1606.08415), as in T5 v1.1 and SD3."""
    return jax.nn.gelu(x.astype(jnp.float32), approximate=True).astype(x.dtype)


def _gelu_backward(x: jax.Array, dy: jax.Array) -> tuple[jax.Array]:
    """With u the argument of tanh and s = sigmoid(2 u), GELU is x s, and its derivative s + x s (1 - s) 2 u'.

    Written with tanh, XLA would keep the forward pass's tanh in memory, in fp32; without the barrier, dx before it is
    rounded, for the bias's gradient.
    """
    x32 = x.astype(jnp.float32)
    double_u = 2 * math.sqrt(2 / math.pi) * (x32 + 0.044715 * x32**3)
    slope = 2 * math.sqrt(2 / math.pi) * (1 + 3 * 0.044715 * x32**2)
    s = jax.nn.sigmoid(double_u)
    dx = (s + x32 * s * jax.nn.sigmoid(-double_u) * slope) * dy.astype(jnp.float32)
    return (jax.lax.optimization_barrier(dx.astype(x.dtype)),)


gelu.defvjp(lambda x: (gelu(x), x), _gelu_backward)
