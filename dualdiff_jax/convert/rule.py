"""One torch tensor is one part of one leaf.

(1)  part[index] = tensor.transpose(order).reshape(shape of part[index])
(2)  tensor = part[index].reshape(shape[order]).transpose(inverse of order)

A part is a whole leaf or, of a leaf of stacked layers, one layer: what has to be in memory at a time. An
``Entry`` is what a person writes down, once for all layers; ``expand`` turns it into the ``Rule``s that
both directions go by.
"""

import dataclasses
import math
from collections.abc import Callable, Iterator

import numpy as np

from dualdiff_jax.models.leaves import LeafSpec, layer_shape, layers_of

Shape = tuple[int, ...]
TensorLayout = Callable[[Shape], tuple[Shape, Shape]]  # shape of part[index] -> the tensor's (shape, order)
ALL = slice(None)


@dataclasses.dataclass(frozen=True)
class Rule:
    """Where one tensor goes. ``tied`` are further names under which a file may hold the same tensor."""

    key: str
    shape: Shape  # of the tensor
    order: Shape  # of its dims, as the leaf has them
    leaf: str
    layer: int | None  # None where the leaf is not stacked
    index: tuple[int | slice, ...]  # of the tensor's place in the part
    tied: tuple[str, ...] = ()

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    def place(self, tensor: np.ndarray, part: np.ndarray) -> None:
        """Writes a tensor of ``self.shape`` into its place, in the part's dtype. Equation (1)."""
        part[self.index] = tensor.transpose(self.order).reshape(part[self.index].shape)

    def take(self, part: np.ndarray) -> np.ndarray:
        """The tensor, contiguous, of ``self.shape`` and the part's dtype. Equation (2)."""
        found = part[self.index].reshape([self.shape[dim] for dim in self.order])
        return np.ascontiguousarray(found.transpose(np.argsort(self.order)))


@dataclasses.dataclass(frozen=True)
class Entry:
    """``leaf`` comes from ``keys``: one, or one for each index of its dim ``projection``.

    ``{layer}`` in a key counts the leaf's first dim. ``layers`` and ``projections`` narrow an entry to some
    of them; a single key then fills these projections in this order.
    """

    leaf: str
    keys: tuple[str, ...]
    layout: TensorLayout
    tied: tuple[str, ...] = ()
    layers: slice | None = None
    projections: slice | None = None


def matrix(inputs: int = 1) -> TensorLayout:
    """Torch's Linear weight (outputs, inputs); ours has the inputs first, as its first ``inputs`` dims."""
    return lambda part: ((math.prod(part[inputs:]), math.prod(part[:inputs])), (1, 0))


def vector(part: Shape) -> tuple[Shape, Shape]:
    """A bias or a scale: one dim in torch."""
    return (math.prod(part),), (0,)


def convolution(part: Shape) -> tuple[Shape, Shape]:
    """Torch's (outputs, inputs, row, column); ours is (row, column, inputs, outputs)."""
    rows, columns, inputs, outputs = part
    return (outputs, inputs, rows, columns), (2, 3, 1, 0)


def pointwise(part: Shape) -> tuple[Shape, Shape]:
    """A 1 x 1 convolution (outputs, inputs, 1, 1) that is a matrix here."""
    inputs = part[0]
    return (math.prod(part[1:]), inputs, 1, 1), (1, 0, 2, 3)


def tensor(*shape: int, order: Shape | None = None) -> TensorLayout:
    """A tensor of exactly this shape."""
    return lambda part: (shape, order or tuple(range(len(shape))))


def linear(leaf: str, *keys: str, inputs: int = 1, bias: bool = True, **narrowed: slice | None) -> Iterator[Entry]:
    """The entries of a ``Linear``: its kernel from ``<key>.weight``, its bias from ``<key>.bias``."""
    yield Entry(f"{leaf}.kernel", tuple(f"{key}.weight" for key in keys), matrix(inputs), **narrowed)
    if bias:
        yield Entry(f"{leaf}.bias", tuple(f"{key}.bias" for key in keys), vector, **narrowed)


def whole_leaf(spec: LeafSpec, dtype: np.dtype, read: Callable[[int | None], np.ndarray]) -> np.ndarray:
    """A leaf from its layers, each as ``read`` gives it."""
    leaf = np.empty(spec.shape, dtype)
    for layer in layers_of(spec):
        leaf[... if layer is None else layer] = read(layer)
    return leaf


def expand(entry: Entry, spec: LeafSpec) -> Iterator[Rule]:
    """One rule for each layer and each key of an entry."""
    shape = layer_shape(spec)
    axes = spec.axes[len(spec.axes) - len(shape) :]
    for layer in layers_of(spec)[entry.layers or ALL]:
        for number, key in enumerate(entry.keys):
            index: list[int | slice] = [ALL] * len(shape)
            if len(entry.keys) > 1:
                index[axes.index("projection")] = number
            elif entry.projections is not None:
                index[axes.index("projection")] = entry.projections
            found = tuple(len(range(size)[at]) for size, at in zip(shape, index, strict=True) if isinstance(at, slice))
            torch_shape, order = entry.layout(found)
            yield Rule(key.format(layer=layer), torch_shape, order, entry.leaf, layer, tuple(index), entry.tied)
