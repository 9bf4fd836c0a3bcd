"""Kernels in 8 bits, for inference: half the memory, and half of what a pass reads at small batches.

Symmetric, weights only, one scale for each output (as LLM.int8()'s absmax rows, arXiv 2208.07339, section 2):
(1)  scale_n = max_d |W_dn| / 127,   values_dn = round(W_dn / scale_n)
(2)  x W ~ (x values) scale, with the product in x's dtype and the scaling in fp32
It is approximate: a weight moves by at most scale_n / 2.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

LARGEST = 127


class Int8Kernel(NamedTuple):
    """A kernel in 8 bits."""

    values: jax.Array  # (inputs, outputs) int8
    scale: jax.Array  # (outputs) fp32

    def product(self, x: jax.Array, contracted: int) -> jax.Array:
        """Equation (2): contracts x's last ``contracted`` dims, in x's dtype."""
        y = jnp.tensordot(x, self.values.astype(x.dtype), contracted)
        return (y * self.scale).astype(x.dtype)


def in_8_bits(kernel: jax.Array, contracted: int) -> Int8Kernel:
    """Equation (1) for a kernel (inputs, outputs) whose first ``contracted`` dims are inputs."""
    kernel = kernel.astype(jnp.float32)
    scale = jnp.abs(kernel).max(axis=tuple(range(contracted))) / LARGEST
    values = jnp.round(kernel / jnp.where(scale > 0, scale, 1.0))
    return Int8Kernel(values.astype(jnp.int8), scale)
