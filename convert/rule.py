"""One torch tensor is one part of one leaf.

(1)  leaf[index] = tensor.transpose(order).reshape(shape of leaf[index])
(2)  tensor = leaf[index].reshape(shape[order]).transpose(inverse of order)

A leaf of stacked layers or of fused projections has several parts and so is fed by several tensors. An
``Entry`` is what a person writes down, once for all layers; ``expand`` turns it into the ``Rule``s that
both directions, and a reader that holds one tensor at a time, go by.
"""

import dataclasses
import math
from collections.abc import Callable, Iterator

import numpy as np

from dualdiff_jax.models.bundle import LeafSpec

Shape = tuple[int, ...]
Layout = Callable[[Shape], tuple[Shape, Shape]]  # shape of the leaf's part -> the tensor's (shape, order)


@dataclasses.dataclass(frozen=True)
class Rule:
    """Where one tensor goes. ``tied`` are further names under which a file may hold the same tensor."""

    key: str
    shape: Shape  # of the tensor
    order: Shape  # of its dims, as the leaf has them
    leaf: str
    index: tuple[int | slice, ...]  # of the tensor's part in the leaf
    tied: tuple[str, ...] = ()

    def place(self, tensor: np.ndarray, leaf: np.ndarray) -> None:
        """Writes a tensor of ``self.shape`` into its part of ``leaf``, in the leaf's dtype. Equation (1)."""
        leaf[self.index] = tensor.transpose(self.order).reshape(leaf[self.index].shape)

    def take(self, leaf: np.ndarray) -> np.ndarray:
        """The tensor, contiguous, of ``self.shape`` and the leaf's dtype. Equation (2)."""
        part = leaf[self.index].reshape([self.shape[dim] for dim in self.order])
        return np.ascontiguousarray(part.transpose(np.argsort(self.order)))


@dataclasses.dataclass(frozen=True)
class Entry:
    """``leaf`` comes from ``keys``: one, or one for each index of its dim ``projection``.

    ``{layer}`` in a key counts the leaf's first dim.
    """

    leaf: str
    keys: tuple[str, ...]
    layout: Layout
    tied: tuple[str, ...] = ()


def matrix(inputs: int = 1) -> Layout:
    """Torch's Linear weight (outputs, inputs); ours has the inputs first, as its first ``inputs`` dims."""
    return lambda part: ((math.prod(part[inputs:]), math.prod(part[:inputs])), (1, 0))


def vector(part: Shape) -> tuple[Shape, Shape]:
    """A bias or a scale: one dim in torch."""
    return (math.prod(part),), (0,)


def tensor(*shape: int, order: Shape | None = None) -> Layout:
    """A tensor of exactly this shape."""
    return lambda part: (shape, order or tuple(range(len(shape))))


def linear(leaf: str, *keys: str, inputs: int = 1, bias: bool = True) -> Iterator[Entry]:
    """The entries of a ``Linear``: its kernel from ``<key>.weight``, its bias from ``<key>.bias``."""
    yield Entry(f"{leaf}.kernel", tuple(f"{key}.weight" for key in keys), matrix(inputs))
    if bias:
        yield Entry(f"{leaf}.bias", tuple(f"{key}.bias" for key in keys), vector)


def expand(entry: Entry, spec: LeafSpec) -> Iterator[Rule]:
    """One rule for each layer and each key of an entry."""
    stacked, fused = spec.axes[0] == "layers", len(entry.keys) > 1
    projection = spec.axes.index("projection") if fused else None
    for layer in range(spec.shape[0]) if stacked else (0,):
        for number, key in enumerate(entry.keys):
            index: list[int | slice] = [slice(None)] * len(spec.shape)
            if stacked:
                index[0] = layer
            if projection is not None:
                index[projection] = number
            part = tuple(size for size, at in zip(spec.shape, index, strict=True) if isinstance(at, slice))
            shape, order = entry.layout(part)
            yield Rule(key.format(layer=layer), shape, order, entry.leaf, tuple(index), entry.tied)
