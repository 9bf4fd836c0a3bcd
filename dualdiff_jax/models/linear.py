"""The affine map that every network here is built from."""

import functools
import math
from collections.abc import Mapping

import jax
import jax.numpy as jnp
from flax import nnx
from jax.ad_checkpoint import checkpoint_name

# Names of dims are metadata that the table in sharding.py reads later; no mesh is needed to build a model.
nnx.use_eager_sharding(False)

PRODUCT = "product"  # what a remat policy knows a product by
fan_in_normal = "fan_in_normal"
zeros = "zeros"


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def product(x: jax.Array, kernel: jax.Array, contracted: int) -> jax.Array:
    """x's last ``contracted`` dims with the kernel's first, in x's dtype.

    The kernel's gradient is summed over the batch, and over devices, in the kernel's own dtype: a bfloat16 pass
    over fp32 weights rounds no sum to bfloat16.
    """
    return jnp.tensordot(x, kernel.astype(x.dtype), contracted)


def _forward(x: jax.Array, kernel: jax.Array, contracted: int) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return product(x, kernel, contracted), (x, kernel)


def _backward(contracted: int, saved: tuple[jax.Array, jax.Array], dy: jax.Array) -> tuple[jax.Array, jax.Array]:
    x, kernel = saved
    outputs, leading = kernel.ndim - contracted, x.ndim - contracted
    kept = tuple(range(contracted, kernel.ndim)), tuple(range(dy.ndim - outputs, dy.ndim))
    dx = jax.lax.dot_general(dy, kernel.astype(dy.dtype), ((kept[1], kept[0]), ((), ())))
    batch = tuple(range(leading))
    dkernel = jax.lax.dot_general(x, dy, ((batch, batch), ((), ())), preferred_element_type=kernel.dtype)
    return dx, dkernel


product.defvjp(_forward, _backward)


@jax.custom_vjp
def shifted(y: jax.Array, bias: jax.Array) -> jax.Array:
    """y + bias in y's dtype; the bias's gradient, too, is summed in its own dtype."""
    return y + bias.astype(y.dtype)


def _sum_to_bias(bias: jax.Array, dy: jax.Array) -> tuple[jax.Array, jax.Array]:
    return dy, dy.astype(bias.dtype).sum(axis=tuple(range(dy.ndim - bias.ndim)))


shifted.defvjp(lambda y, bias: (shifted(y, bias), bias), _sum_to_bias)


class Linear(nnx.Module):
    """Contracts the last ``len(inputs)`` dims of x with the kernel and adds a bias.

    ``inputs`` and ``outputs`` map a logical axis name to its size, so one declaration gives the
    kernel's shape (inputs, then outputs), its sharding and its initial scale. Head dims stay dims.
    Parameters are fp32; the product is taken in x's dtype, as is the sum.
    """

    def __init__(
        self,
        inputs: Mapping[str, int],
        outputs: Mapping[str, int],
        *,
        bias: bool = True,
        init: str | float = fan_in_normal,
        rngs: nnx.Rngs,
    ):
        shape = (*inputs.values(), *outputs.values())
        self.contracted = len(inputs)
        if init == zeros:
            kernel = jnp.zeros(shape)
        else:
            scale = math.prod(inputs.values()) ** -0.5 if init == fan_in_normal else init
            kernel = scale * jax.random.normal(rngs.params(), shape)
        self.kernel = nnx.Param(kernel, out_sharding=(*inputs, *outputs))
        self.bias = nnx.Param(jnp.zeros(tuple(outputs.values())), out_sharding=tuple(outputs)) if bias else None

    def __call__(self, x: jax.Array) -> jax.Array:
        y = checkpoint_name(product(x, self.kernel[...], self.contracted), PRODUCT)
        return y if self.bias is None else shifted(y, self.bias[...])
