"""Pointwise functions, computed in fp32 and returned in x's dtype: bfloat16 would round at each step inside them."""

import jax
import jax.numpy as jnp


def silu(x: jax.Array) -> jax.Array:
    """x sigmoid(x)."""
    return jax.nn.silu(x.astype(jnp.float32)).astype(x.dtype)


def gelu(x: jax.Array) -> jax.Array:
    """The tanh approximation of GELU (arXiv 1606.08415), as in T5 v1.1 and SD3."""
    return jax.nn.gelu(x.astype(jnp.float32), approximate=True).astype(x.dtype)
