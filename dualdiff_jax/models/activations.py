"""Pointwise functions in fp32, returned in x's dtype: in bfloat16 each step inside them would round once more."""

import jax
import jax.numpy as jnp


def silu(x: jax.Array) -> jax.Array:
    return jax.nn.silu(x.astype(jnp.float32)).astype(x.dtype)


def gelu(x: jax.Array) -> jax.Array:
    """The tanh approximation (arXiv 1606.08415), as T5 v1.1 and SD3 have it."""
    return jax.nn.gelu(x.astype(jnp.float32), approximate=True).astype(x.dtype)
