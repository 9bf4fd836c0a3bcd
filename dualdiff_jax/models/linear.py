"""The affine map that every network here is built from."""

import functools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.ad_checkpoint import checkpoint_name

from dualdiff_jax.models.int8 import Int8Kernel

PRODUCT = "product"  # the name by which a remat policy saves a product
fan_in_normal = "fan_in_normal"
zeros = "zeros"
MANY_ROWS = 1024  # of x; a product of so many keeps a large device busy on its own


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def product(x: jax.Array, kernel: jax.Array, contracted: int) -> jax.Array:
    """Contracts x's last ``contracted`` dims with the kernel's first, in x's dtype.

    The kernel's gradient is summed over the batch, and over devices, in the kernel's own dtype, so a bfloat16 pass
    over fp32 weights rounds no sum to bfloat16.

    Args:
        x: (..., inputs).
        kernel: (inputs, outputs); it is cast to x's dtype.
        contracted: Number of input dims.

    Returns:
        (..., outputs).
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
    """y + bias in y's dtype. The bias's gradient is summed in the bias's own dtype, as in ``product``."""
    return y + bias.astype(y.dtype)


def _sum_to_bias(bias: jax.Array, dy: jax.Array) -> tuple[jax.Array, jax.Array]:
    return dy, dy.astype(bias.dtype).sum(axis=tuple(range(dy.ndim - bias.ndim)))


shifted.defvjp(lambda y, bias: (shifted(y, bias), bias), _sum_to_bias)


class Linear(nnx.Module):
    """Contracts the last ``len(inputs)`` dims of x with the kernel and adds a bias.

    One declaration gives the kernel's shape (inputs, then outputs), its sharding and its initial scale. Heads and head
    dim are dims of their own. Parameters are fp32; the product and the sum are computed in x's dtype.

    Args:
        inputs: Logical axis -> size, for each dim of x that is contracted.
        outputs: Logical axis -> size, for each dim of the result that takes their place.
        bias: Whether a bias is added; it starts at zero.
        init: ``fan_in_normal`` (standard deviation 1 / sqrt(inputs)), ``zeros``, or a standard deviation.
        rngs: Draws the kernel.

    Raises:
        ValueError: ``init`` is an unknown name.
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
            if init == fan_in_normal:
                init = math.prod(inputs.values()) ** -0.5
            elif isinstance(init, str):
                raise ValueError(
                    f"init {init!r} is none of {fan_in_normal}, {zeros}; give one, or a standard deviation"
                )
            kernel = init * jax.random.normal(rngs.params(), shape)
        self.kernel = nnx.Param(kernel, out_sharding=(*inputs, *outputs))
        self.bias = nnx.Param(jnp.zeros(tuple(outputs.values())), out_sharding=tuple(outputs)) if bias else None

    def __call__(self, x: jax.Array) -> jax.Array:
        kernel: Any = self.kernel.get_value()
        return _map(x, kernel, None if self.bias is None else self.bias[...], self.contracted)

    def merged(self, x: jax.Array) -> jax.Array:
        """The same with heads and head dim as one dim, of x or, where x has no heads, of the result.

        TPUs pad a last dim of 64 to 128, in memory and in products.
        """
        kernel, bias = self.kernel[...], None if self.bias is None else self.bias[...]
        if self.contracted == 2:
            return _map(x, kernel.reshape(-1, *kernel.shape[2:]), bias, 1)
        bias = None if bias is None else bias.reshape(*bias.shape[:-2], -1)
        return _map(x, kernel.reshape(*kernel.shape[:-2], -1), bias, 1)

    def projections(self, x: jax.Array) -> Sequence[jax.Array] | None:
        """What each part of a joint projection gives, (..., outputs of the part), where its parts are separated.

        Few rows leave a large device idle, so they go through one product, whose result is written before it is cut
        up. With ``MANY_ROWS`` each part has a product of its own and nothing is cut up; XLA for GPUs would join
        products of one x again, so each gets an x that cannot be seen to be the same.
        """
        kernels: Any = self.kernel.get_value()
        if type(kernels) is not tuple or self.bias is None:
            return None
        biases: Any = self.bias.get_value()
        if math.prod(x.shape[: x.ndim - self.contracted]) < MANY_ROWS:
            y = _map(x, jnp.concatenate(kernels, axis=-1), jnp.concatenate(biases), self.contracted)
            return jnp.split(jax.lax.optimization_barrier(y), len(kernels), axis=-1)
        return [
            _map(x, kernel, bias, self.contracted)
            for x, kernel, bias in zip(jax.lax.optimization_barrier([x] * len(kernels)), kernels, biases, strict=True)
        ]


def _map(x: jax.Array, kernel: jax.Array | Int8Kernel, bias: jax.Array | None, contracted: int) -> jax.Array:
    """x kernel + bias. What a remat policy keeps of it is the sum, as its readers read it."""
    y = kernel.product(x, contracted) if isinstance(kernel, Int8Kernel) else product(x, kernel, contracted)
    return checkpoint_name(y if bias is None else shifted(y, bias), PRODUCT)
