"""Normalisations, computed in fp32 and returned in x's dtype.

(1)  LN(x) = (x - mean(x)) / sqrt(var(x) + eps)     over the last dim, without scale and bias (arXiv 1607.06450)
(2)  modulate(x) = LN(x) (1 + scale) + shift        AdaLN (arXiv 2212.09748)
(3)  RMS(x) = g x / sqrt(mean(x^2) + eps)           over the last dim (arXiv 1910.07467)
(4)  GN(x): (1) over each group of channels and all pixels, with scale and bias (arXiv 1803.08494)
"""

import jax
import jax.numpy as jnp
from flax import nnx

EPSILON = 1e-6  # of all four, as in SD3 and T5


def layer_norm(x: jax.Array) -> jax.Array:
    """Equation (1); x (..., d)."""
    return _layer_norm(x).astype(x.dtype)


def modulate(x: jax.Array, shift: jax.Array, scale: jax.Array) -> jax.Array:
    """Equation (2).

    Args:
        x: (b, s, d).
        shift: (b, d), for every token of x.
        scale: (b, d), likewise.

    Returns:
        (b, s, d) in x's dtype.
    """
    with jax.named_scope("modulate"):
        shift, scale = (vector.astype(jnp.float32)[:, None] for vector in (shift, scale))
        return (_layer_norm(x) * (1 + scale) + shift).astype(x.dtype)


def _layer_norm(x: jax.Array) -> jax.Array:
    x = x.astype(jnp.float32)
    centred = x - x.mean(axis=-1, keepdims=True)
    variance = jnp.square(centred).mean(axis=-1, keepdims=True)
    return centred * jax.lax.rsqrt(variance + EPSILON)


class RMSNorm(nnx.Module):
    """Equation (3): (..., d) -> (..., d)."""

    def __init__(self, width: int):
        self.scale = nnx.Param(jnp.ones((width,)), out_sharding=("width",))

    def __call__(self, x: jax.Array) -> jax.Array:
        x32 = x.astype(jnp.float32)
        normed = x32 * jax.lax.rsqrt(jnp.square(x32).mean(axis=-1, keepdims=True) + EPSILON)
        return (normed * self.scale[...]).astype(x.dtype)


class GroupNorm(nnx.Module):
    """Equation (4): (b, h, w, c) -> (b, h, w, c)."""

    def __init__(self, channels: int, groups: int):
        self.groups = groups
        self.scale = nnx.Param(jnp.ones((channels,)), out_sharding=("width",))
        self.bias = nnx.Param(jnp.zeros((channels,)), out_sharding=("width",))

    def __call__(self, x: jax.Array) -> jax.Array:
        b, h, w, c = x.shape
        x32 = x.astype(jnp.float32).reshape(b, h * w, self.groups, c // self.groups)
        centred = x32 - x32.mean(axis=(1, 3), keepdims=True)
        variance = jnp.square(centred).mean(axis=(1, 3), keepdims=True)
        normed = (centred * jax.lax.rsqrt(variance + EPSILON)).reshape(b, h, w, c)
        return (normed * self.scale[...] + self.bias[...]).astype(x.dtype)
