"""Normalisations, computed in fp32 and returned in x's dtype.

(1)  LN(x) = (x - mean(x)) / sqrt(var(x) + eps)     over the last dim, without scale and bias (arXiv 1607.06450)
(2)  modulate(x) = LN(x) (1 + scale) + shift        AdaLN (arXiv 2212.09748)
(3)  RMS(x) = g x / sqrt(mean(x^2) + eps)           over the last dim (arXiv 1910.07467)
(4)  GN(x): (1) over each group of channels and all pixels, with scale and bias (arXiv 1803.08494)
"""

import jax
import jax.numpy as jnp
from flax import nnx
from jax.ad_checkpoint import checkpoint_name

EPSILON = 1e-6  # of all four, as in SD3 and T5
STATISTICS = "row_statistics"  # the name by which a remat policy saves the mean and deviation of each row


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
        vectors = (x.shape[0], x.shape[-1])
        return _modulate(x, jnp.broadcast_to(shift, vectors), jnp.broadcast_to(scale, vectors))


def _layer_norm(x: jax.Array) -> jax.Array:
    x = x.astype(jnp.float32)
    mean, inverse = _statistics(x)
    return (x - mean) * inverse


def _statistics(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Mean and inverse standard deviation of each row of x (..., d) in fp32, (..., 1) each."""
    mean = x.mean(axis=-1, keepdims=True)
    return mean, jax.lax.rsqrt(jnp.square(x - mean).mean(axis=-1, keepdims=True) + EPSILON)


@jax.custom_vjp
def _modulate(x: jax.Array, shift: jax.Array, scale: jax.Array) -> jax.Array:
    return _modulate_forward(x, shift, scale)[0]


def _modulate_forward(x: jax.Array, shift: jax.Array, scale: jax.Array) -> tuple[jax.Array, tuple[jax.Array, ...]]:
    x32 = x.astype(jnp.float32)
    mean, inverse = (checkpoint_name(value, STATISTICS) for value in _statistics(x32))
    y = (x32 - mean) * inverse * (1 + scale.astype(jnp.float32)[:, None]) + shift.astype(jnp.float32)[:, None]
    return y.astype(x.dtype), (x, mean, inverse, shift, scale)


def _modulate_backward(saved: tuple[jax.Array, ...], dy: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """With n = LN(x) and g = dy (1 + scale): dx = (g - mean(g) - n mean(g n)) / sqrt(var(x) + eps).

    The sums over tokens take n from the saved statistics, so that n is in no array of fp32.
    """
    x, mean, inverse, shift, scale = saved
    dy32 = dy.astype(jnp.float32)
    normed = (x.astype(jnp.float32) - mean) * inverse
    g = dy32 * (1 + scale.astype(jnp.float32)[:, None])
    along = (g * normed).mean(axis=-1, keepdims=True)
    dx = inverse * (g - g.mean(axis=-1, keepdims=True) - normed * along)
    d_shift, d_scale = dy32.sum(axis=1), (dy32 * normed).sum(axis=1)
    return dx.astype(x.dtype), d_shift.astype(shift.dtype), d_scale.astype(scale.dtype)


_modulate.defvjp(_modulate_forward, _modulate_backward)


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
