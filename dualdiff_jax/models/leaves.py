"""What is known of a weight before it exists: its name, shape, dtype, and what each of its dims is.

A leaf's name is its path in the module tree, dotted: ``mmdit.blocks.image.qkv.kernel``. ``models/linear.py`` lays a
kernel out as inputs, then outputs; ``models/stack.py`` puts ``layers`` in front. Of the linear maps here only the one
after attention has two input dims, ``heads`` and ``head_dim``.
"""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import NamedSharding

NETWORKS = ("mmdit", "t5", "autoencoder")  # the first part of a leaf's name


class Constant(nnx.Variable):
    """An array that is stored with the weights and never trained."""


@dataclasses.dataclass(frozen=True)
class LeafSpec:
    """What is known of one array before it exists."""

    shape: tuple[int, ...]
    dtype: jnp.dtype
    axes: tuple[str | None, ...]  # logical names, one a dim
    trainable: bool  # False for constants such as the position table

    def abstract(self, sharding: NamedSharding) -> jax.ShapeDtypeStruct:
        """The array that will be, laid out as ``sharding`` says."""
        return jax.ShapeDtypeStruct(self.shape, self.dtype, sharding=sharding)


class KernelDims(NamedTuple):
    """Numbers of the dims, in the kernel's order."""

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
    """The layers of a stacked leaf; ``(None,)`` of any other."""
    return tuple(range(spec.shape[0])) if is_stacked(spec) else (None,)


def layer_shape(spec: LeafSpec) -> tuple[int, ...]:
    """The shape of one layer of a stacked leaf; of any other leaf, its own."""
    return spec.shape[1:] if is_stacked(spec) else spec.shape


def kernel_dims(spec: LeafSpec) -> KernelDims:
    """Which dims of a kernel are stacked layers, which inputs and which outputs, by their logical names."""
    first = 1 if is_stacked(spec) else 0
    last = first + (2 if spec.axes[first] == "heads" else 1)
    dims = tuple(range(len(spec.shape)))
    return KernelDims(dims[:first], dims[first:last], dims[last:])
