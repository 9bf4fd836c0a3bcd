"""What an image network is built from: convolutions and group norms, channels last."""

import jax
import jax.numpy as jnp
from flax import nnx


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
