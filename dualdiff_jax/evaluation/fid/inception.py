"""Inception V3 as FID uses it: the network of TensorFlow's file ``inception-2015-12-05``, up to its last pooling.

It differs from the Inception V3 of arXiv 1512.00567 (and torchvision) in two places, both kept: an average pool does
not count the zeros around the picture, and block ``mixed_7c`` pools by the maximum. Modules and units are named as in
the torch ports of that file, pytorch-fid's and torch-fidelity's.
"""

from functools import partial

import jax
import jax.numpy as jnp
from flax import nnx

SIDE = 299  # pixels
FEATURES = 2048
EPSILON = 1e-3  # of the batch norms

Size = int | tuple[int, int]


class ConvUnit(nnx.Module):
    """Convolution, batch norm with fixed statistics, ReLU: (b, h, w, inputs) -> (b, h', w', outputs) fp32.

    Args:
        inputs: Channels of x.
        outputs: Channels of the result.
        size: Rows and columns of the kernel, or one number for both.
        stride: In pixels.
        same: Whether zeros around x keep its height and width (with stride 1); without them the result is smaller.
        rngs: Draws the kernel, with variance 2 / fan-in; statistics begin as those of the standard normal.
    """

    def __init__(self, inputs: int, outputs: int, size: Size, *, stride: int = 1, same: bool = True, rngs: nnx.Rngs):
        rows, columns = (size, size) if isinstance(size, int) else size
        self.stride, self.padding = stride, "SAME" if same else "VALID"
        deviation = (2 / (rows * columns * inputs)) ** 0.5
        self.kernel = nnx.Param(deviation * jax.random.normal(rngs.params(), (rows, columns, inputs, outputs)))
        self.scale = nnx.Param(jnp.ones((outputs,)))
        self.bias = nnx.Param(jnp.zeros((outputs,)))
        self.mean = nnx.Param(jnp.zeros((outputs,)))
        self.variance = nnx.Param(jnp.ones((outputs,)))

    def __call__(self, x: jax.Array) -> jax.Array:
        y = jax.lax.conv_general_dilated(
            x,
            self.kernel[...],
            (self.stride, self.stride),
            self.padding,
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            precision=jax.lax.Precision.HIGHEST,  # else TPUs and some GPUs multiply in fewer bits
        )
        scale = self.scale[...] * jax.lax.rsqrt(self.variance[...] + EPSILON)
        return jax.nn.relu((y - self.mean[...]) * scale + self.bias[...])


def max_pool(x: jax.Array, *, stride: int, same: bool = False) -> jax.Array:
    """The maximum of each 3 x 3 window."""
    padding = "SAME" if same else "VALID"
    return jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, (1, 3, 3, 1), (1, stride, stride, 1), padding)


def average_pool(x: jax.Array) -> jax.Array:
    """The mean of each 3 x 3 window's pixels inside the picture, at stride 1."""

    def total(values: jax.Array) -> jax.Array:
        return jax.lax.reduce_window(values, 0.0, jax.lax.add, (1, 3, 3, 1), (1, 1, 1, 1), "SAME")

    return total(x) / total(jnp.ones((1, *x.shape[1:3], 1), x.dtype))


class BlockA(nnx.Module):
    """35 x 35, with a 5 x 5 branch."""

    def __init__(self, inputs: int, pooled: int, divisor: int, rngs: nnx.Rngs):
        unit, d = partial(ConvUnit, rngs=rngs), divisor
        self.branch1x1 = unit(inputs, 64 // d, 1)
        self.branch5x5_1 = unit(inputs, 48 // d, 1)
        self.branch5x5_2 = unit(48 // d, 64 // d, 5)
        self.branch3x3dbl_1 = unit(inputs, 64 // d, 1)
        self.branch3x3dbl_2 = unit(64 // d, 96 // d, 3)
        self.branch3x3dbl_3 = unit(96 // d, 96 // d, 3)
        self.branch_pool = unit(inputs, pooled, 1)

    def __call__(self, x: jax.Array) -> jax.Array:
        branch5x5 = self.branch5x5_2(self.branch5x5_1(x))
        branch3x3 = self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(x)))
        return _joined(self.branch1x1(x), branch5x5, branch3x3, self.branch_pool(average_pool(x)))


class BlockB(nnx.Module):
    """35 x 35 to 17 x 17."""

    def __init__(self, inputs: int, divisor: int, rngs: nnx.Rngs):
        unit, d = partial(ConvUnit, rngs=rngs), divisor
        self.branch3x3 = unit(inputs, 384 // d, 3, stride=2, same=False)
        self.branch3x3dbl_1 = unit(inputs, 64 // d, 1)
        self.branch3x3dbl_2 = unit(64 // d, 96 // d, 3)
        self.branch3x3dbl_3 = unit(96 // d, 96 // d, 3, stride=2, same=False)

    def __call__(self, x: jax.Array) -> jax.Array:
        branch3x3dbl = self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(x)))
        return _joined(self.branch3x3(x), branch3x3dbl, max_pool(x, stride=2))


class BlockC(nnx.Module):
    """17 x 17, with 7 x 7 convolutions as a row and a column."""

    def __init__(self, inputs: int, inner: int, divisor: int, rngs: nnx.Rngs):
        unit, outputs = partial(ConvUnit, rngs=rngs), 192 // divisor
        self.branch1x1 = unit(inputs, outputs, 1)
        self.branch7x7_1 = unit(inputs, inner, 1)
        self.branch7x7_2 = unit(inner, inner, (1, 7))
        self.branch7x7_3 = unit(inner, outputs, (7, 1))
        self.branch7x7dbl_1 = unit(inputs, inner, 1)
        self.branch7x7dbl_2 = unit(inner, inner, (7, 1))
        self.branch7x7dbl_3 = unit(inner, inner, (1, 7))
        self.branch7x7dbl_4 = unit(inner, inner, (7, 1))
        self.branch7x7dbl_5 = unit(inner, outputs, (1, 7))
        self.branch_pool = unit(inputs, outputs, 1)

    def __call__(self, x: jax.Array) -> jax.Array:
        branch7x7 = self.branch7x7_3(self.branch7x7_2(self.branch7x7_1(x)))
        twice = self.branch7x7dbl_3(self.branch7x7dbl_2(self.branch7x7dbl_1(x)))
        twice = self.branch7x7dbl_5(self.branch7x7dbl_4(twice))
        return _joined(self.branch1x1(x), branch7x7, twice, self.branch_pool(average_pool(x)))


class BlockD(nnx.Module):
    """17 x 17 to 8 x 8."""

    def __init__(self, inputs: int, divisor: int, rngs: nnx.Rngs):
        unit, d = partial(ConvUnit, rngs=rngs), divisor
        self.branch3x3_1 = unit(inputs, 192 // d, 1)
        self.branch3x3_2 = unit(192 // d, 320 // d, 3, stride=2, same=False)
        self.branch7x7x3_1 = unit(inputs, 192 // d, 1)
        self.branch7x7x3_2 = unit(192 // d, 192 // d, (1, 7))
        self.branch7x7x3_3 = unit(192 // d, 192 // d, (7, 1))
        self.branch7x7x3_4 = unit(192 // d, 192 // d, 3, stride=2, same=False)

    def __call__(self, x: jax.Array) -> jax.Array:
        branch7x7 = self.branch7x7x3_3(self.branch7x7x3_2(self.branch7x7x3_1(x)))
        return _joined(self.branch3x3_2(self.branch3x3_1(x)), self.branch7x7x3_4(branch7x7), max_pool(x, stride=2))


class BlockE(nnx.Module):
    """8 x 8, with branches that fork; it pools by the average or, as ``mixed_7c`` does, by the maximum."""

    def __init__(self, inputs: int, divisor: int, rngs: nnx.Rngs, *, pools_maximum: bool):
        unit, d = partial(ConvUnit, rngs=rngs), divisor
        self.pools_maximum = pools_maximum
        self.branch1x1 = unit(inputs, 320 // d, 1)
        self.branch3x3_1 = unit(inputs, 384 // d, 1)
        self.branch3x3_2a = unit(384 // d, 384 // d, (1, 3))
        self.branch3x3_2b = unit(384 // d, 384 // d, (3, 1))
        self.branch3x3dbl_1 = unit(inputs, 448 // d, 1)
        self.branch3x3dbl_2 = unit(448 // d, 384 // d, 3)
        self.branch3x3dbl_3a = unit(384 // d, 384 // d, (1, 3))
        self.branch3x3dbl_3b = unit(384 // d, 384 // d, (3, 1))
        self.branch_pool = unit(inputs, 192 // d, 1)

    def __call__(self, x: jax.Array) -> jax.Array:
        once = self.branch3x3_1(x)
        twice = self.branch3x3dbl_2(self.branch3x3dbl_1(x))
        pooled = max_pool(x, stride=1, same=True) if self.pools_maximum else average_pool(x)
        return _joined(
            self.branch1x1(x),
            self.branch3x3_2a(once),
            self.branch3x3_2b(once),
            self.branch3x3dbl_3a(twice),
            self.branch3x3dbl_3b(twice),
            self.branch_pool(pooled),
        )


class Inception(nnx.Module):
    """(b, h, w, 3) fp32, about [-1, 1], with sides of at least 75 (FID: 299) -> (b, 2048 / divisor) fp32.

    Args:
        divisor: Divides the number of channels of every unit, for tests; a divisor of 16.
        rngs: Draws the kernels, which converted weights replace.
    """

    def __init__(self, divisor: int = 1, *, rngs: nnx.Rngs):
        unit, d = partial(ConvUnit, rngs=rngs), divisor
        self.conv2d_1a_3x3 = unit(3, 32 // d, 3, stride=2, same=False)
        self.conv2d_2a_3x3 = unit(32 // d, 32 // d, 3, same=False)
        self.conv2d_2b_3x3 = unit(32 // d, 64 // d, 3)
        self.conv2d_3b_1x1 = unit(64 // d, 80 // d, 1)
        self.conv2d_4a_3x3 = unit(80 // d, 192 // d, 3, same=False)
        self.mixed_5b = BlockA(192 // d, 32 // d, d, rngs)
        self.mixed_5c = BlockA(256 // d, 64 // d, d, rngs)
        self.mixed_5d = BlockA(288 // d, 64 // d, d, rngs)
        self.mixed_6a = BlockB(288 // d, d, rngs)
        self.mixed_6b = BlockC(768 // d, 128 // d, d, rngs)
        self.mixed_6c = BlockC(768 // d, 160 // d, d, rngs)
        self.mixed_6d = BlockC(768 // d, 160 // d, d, rngs)
        self.mixed_6e = BlockC(768 // d, 192 // d, d, rngs)
        self.mixed_7a = BlockD(768 // d, d, rngs)
        self.mixed_7b = BlockE(1280 // d, d, rngs, pools_maximum=False)
        self.mixed_7c = BlockE(2048 // d, d, rngs, pools_maximum=True)

    def __call__(self, x: jax.Array) -> jax.Array:
        x = self.conv2d_2b_3x3(self.conv2d_2a_3x3(self.conv2d_1a_3x3(x)))
        x = self.conv2d_4a_3x3(self.conv2d_3b_1x1(max_pool(x, stride=2)))
        x = max_pool(x, stride=2)
        for block in (self.mixed_5b, self.mixed_5c, self.mixed_5d, self.mixed_6a, self.mixed_6b, self.mixed_6c):
            x = block(x)
        for block in (self.mixed_6d, self.mixed_6e, self.mixed_7a, self.mixed_7b, self.mixed_7c):
            x = block(x)
        return x.mean(axis=(1, 2))


def _joined(*branches: jax.Array) -> jax.Array:
    return jnp.concatenate(branches, axis=-1)
