"""How a kernel's dims divide: (stacked layers, inputs, outputs), read off their logical names.

``models/linear.py`` lays a kernel out as inputs, then outputs; ``models/stack.py`` puts ``layers`` in front. Of the
linear maps here only the one after attention has two input dims, ``heads`` and ``head_dim``.
"""

from typing import NamedTuple

from dualdiff_jax.models.bundle import LeafSpec


class KernelDims(NamedTuple):
    """Numbers of the dims, in the kernel's order."""

    stack: tuple[int, ...]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]


def is_kernel(name: str) -> bool:
    return name.endswith(".kernel")


def kernel_dims(spec: LeafSpec) -> KernelDims:
    first = 1 if spec.axes[0] == "layers" else 0
    last = first + (2 if spec.axes[first] == "heads" else 1)
    dims = tuple(range(len(spec.shape)))
    return KernelDims(dims[:first], dims[first:last], dims[last:])
