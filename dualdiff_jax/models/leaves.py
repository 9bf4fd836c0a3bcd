"""The weights before they exist: the name, shape and dtype of each, and the logical axis of each dim.

A leaf's name is its path in the module tree, dotted: ``mmdit.blocks.image.qkv.kernel``. The dims of a kernel are
inputs, then outputs (``models/linear.py``), after ``layers`` in a stack (``models/stack.py``). Only the linear map
after attention has two input dims, ``heads`` and ``head_dim``.
"""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import NamedSharding

NETWORKS = ("mmdit", "t5", "autoencoder")  # the first part of a leaf's name
EMBEDDING = "t5.embedding"


class Constant(nnx.Variable):
    """An array that is stored with the weights and never trained."""


@dataclasses.dataclass(frozen=True)
class LeafSpec:
    """One array before it exists."""

    shape: tuple[int, ...]
    dtype: jnp.dtype
    axes: tuple[str | None, ...]  # one logical axis for each dim
    trainable: bool  # False for constants such as the position table

    def abstract(self, sharding: NamedSharding) -> jax.ShapeDtypeStruct:
        """The array that will exist, placed by ``sharding``."""
        return jax.ShapeDtypeStruct(self.shape, self.dtype, sharding=sharding)


class KernelDims(NamedTuple):
    """The dims of a kernel by role, each a tuple of dim numbers in ascending order."""

    stack: tuple[int, ...]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]


def network_of(name: str) -> str:
    """The one of ``NETWORKS`` that the leaf ``name`` belongs to."""
    return name.partition(".")[0]


def is_kernel(name: str) -> bool:
    """Whether the leaf ``name`` is the matrix of a linear map or of a convolution."""
    return name.endswith(".kernel")


def is_stacked(spec: LeafSpec) -> bool:
    """Whether the first dim counts layers."""
    return spec.axes[0] == "layers"


def layers_of(spec: LeafSpec) -> tuple[int | None, ...]:
    """The indices of a stacked leaf's layers; ``(None,)`` for any other leaf."""
    return tuple(range(spec.shape[0])) if is_stacked(spec) else (None,)


def layer_shape(spec: LeafSpec) -> tuple[int, ...]:
    """The shape of one layer of a stacked leaf; the whole shape of any other leaf."""
    return spec.shape[1:] if is_stacked(spec) else spec.shape


def kernel_dims(spec: LeafSpec) -> KernelDims:
    """Which dims of the kernel ``spec`` are stacked layers, which are inputs and which are outputs."""
    first = 1 if is_stacked(spec) else 0
    last = first + (2 if spec.axes[first] == "heads" else 1)
    dims = tuple(range(len(spec.shape)))
    return KernelDims(dims[:first], dims[first:last], dims[last:])
