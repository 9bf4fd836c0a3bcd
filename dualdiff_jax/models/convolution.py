"""The convolution that the autoencoder is built from, channels last."""

import jax
import jax.numpy as jnp
from flax import nnx

from dualdiff_jax.sharding import constrain


class Convolution(nnx.Module):
    """A ``size`` x ``size`` convolution with bias: (b, h, w, inputs) -> (b, h', w', outputs).

    Parameters are fp32; it computes in x's dtype.

    Args:
        inputs: Channels of x.
        outputs: Channels of the result.
        size: Side of the kernel, in pixels.
        stride: Of the kernel, in pixels.
        padding: Rows of zeros above and below, and columns to the left and to the right.
        rngs: Draws the kernel, with variance 1 / (size^2 inputs).
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
        # Gathered before the convolution: XLA for TPUs would convolve with a few channels of each device at a time.
        kernel = constrain(self.kernel[...].astype(x.dtype), "convolution")
        y = jax.lax.conv_general_dilated(
            x,
            kernel,
            (self.stride, self.stride),
            (self.padding, self.padding),
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )
        return y + self.bias[...].astype(x.dtype)
