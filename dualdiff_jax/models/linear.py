"""The affine map that every network here is built from."""

import math
from collections.abc import Mapping

import jax
import jax.numpy as jnp
from flax import nnx

# Names of dims are metadata that the table in sharding.py reads later; no mesh is needed to build a model.
nnx.use_eager_sharding(False)

fan_in_normal = "fan_in_normal"
zeros = "zeros"


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
        y = jnp.tensordot(x, self.kernel[...].astype(x.dtype), self.contracted)
        return y if self.bias is None else y + self.bias[...].astype(x.dtype)
