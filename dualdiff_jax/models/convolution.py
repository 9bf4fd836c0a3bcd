"""What an image network is built from: convolutions and group norms, channels last."""

import jax
import jax.numpy as jnp
from flax import nnx

GROUP_NORM_EPSILON = 1e-6


class Convolution(nnx.Module):
    """A ``size`` x ``size`` convolution with bias: (b, h, w, in) -> (b, h', w', out).

    ``padding`` is added before and after both sides. Parameters are fp32; it computes in x's dtype.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        size: int = 3,
        stride: int = 1,
        padding: tuple[int, int] = (1, 1),
        rngs: nnx.Rngs,
    ):
        self.stride, self.padding = stride, padding
        kernel = (size * size * inputs) ** -0.5 * jax.random.normal(rngs.params(), (size, size, inputs, outputs))
        self.kernel = nnx.Param(kernel, out_sharding=("row", "column", "channel", "width"))
        self.bias = nnx.Param(jnp.zeros((outputs,)), out_sharding=("width",))

    def __call__(self, x: jax.Array) -> jax.Array:
        y = jax.lax.conv_general_dilated(
            x,
            self.kernel[...].astype(x.dtype),
            (self.stride, self.stride),
            (self.padding, self.padding),
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )
        return y + self.bias[...].astype(x.dtype)


class GroupNorm(nnx.Module):
    """Normalises each group of channels over its pixels (arXiv 1803.08494), in fp32; returned in x's dtype."""

    def __init__(self, channels: int, groups: int):
        self.groups = groups
        self.scale = nnx.Param(jnp.ones((channels,)), out_sharding=("width",))
        self.bias = nnx.Param(jnp.zeros((channels,)), out_sharding=("width",))

    def __call__(self, x: jax.Array) -> jax.Array:
        b, h, w, c = x.shape
        x32 = x.astype(jnp.float32).reshape(b, h * w, self.groups, c // self.groups)
        centred = x32 - x32.mean(axis=(1, 3), keepdims=True)
        variance = jnp.square(centred).mean(axis=(1, 3), keepdims=True)
        normed = (centred * jax.lax.rsqrt(variance + GROUP_NORM_EPSILON)).reshape(b, h, w, c)
        return (normed * self.scale[...] + self.bias[...]).astype(x.dtype)
