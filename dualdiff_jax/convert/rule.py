"""One torch tensor fills one region of one leaf.

(1)  array[index] = tensor.transpose(order).reshape(shape of array[index])
(2)  tensor = array[index].reshape(shape[order]).transpose(inverse of order)

``array`` is a whole leaf or, for a leaf of stacked layers, one layer: the most that is in memory at a time. A
developer writes an ``Entry`` once for all layers; ``expand`` turns it into the ``Rule``s that both directions follow.
"""

import dataclasses
import math
from collections.abc import Callable, Iterator

import numpy as np

from dualdiff_jax.models.leaves import LeafSpec, layer_shape, layers_of

Shape = tuple[int, ...]
TensorLayout = Callable[[Shape], tuple[Shape, Shape]]  # shape of array[index] -> the tensor's (shape, order)
ALL = slice(None)


@dataclasses.dataclass(frozen=True)
class Rule:
    """Where one tensor goes.

    Attributes:
        key: the tensor's name, without the prefix that a file may put before it.
        shape: of the tensor.
        order: the tensor's dims in the order in which the leaf has them.
        leaf: name of the leaf.
        layer: index of the layer; None where the leaf is not stacked.
        index: of the tensor's region in the array.
        tied: other names under which a file may hold the same tensor.
    """

    key: str
    shape: Shape
    order: Shape
    leaf: str
    layer: int | None
    index: tuple[int | slice, ...]
    tied: tuple[str, ...] = ()

    @property
    def size(self) -> int:
        """How many numbers the tensor has."""
        return math.prod(self.shape)

    def insert(self, tensor: np.ndarray, array: np.ndarray) -> None:
        """Writes a tensor into its region of ``array``, by equation (1).

        Args:
            tensor: has ``self.shape``.
            array: the leaf or layer to write into; its dtype stays.
        """
        array[self.index] = tensor.transpose(self.order).reshape(array[self.index].shape)

    def extract(self, array: np.ndarray) -> np.ndarray:
        """Reads the tensor out of its leaf or layer, by equation (2); contiguous, in the array's dtype."""
        region = array[self.index].reshape([self.shape[dim] for dim in self.order])
        return np.ascontiguousarray(region.transpose(np.argsort(self.order)))

    def overlaps(self, other: "Rule") -> bool:
        """Whether some number of the model belongs to both."""
        is_same_leaf = (self.leaf, self.layer) == (other.leaf, other.layer)
        return is_same_leaf and all(map(_meet, self.index, other.index))


def _meet(a: int | slice, b: int | slice) -> bool:
    (start_a, stop_a), (start_b, stop_b) = (
        (at.start or 0, math.inf if at.stop is None else at.stop) if isinstance(at, slice) else (at, at + 1)
        for at in (a, b)
    )
    return start_a < stop_b and start_b < stop_a


@dataclasses.dataclass(frozen=True)
class Entry:
    """Which tensors fill a leaf, for all of its layers.

    Attributes:
        leaf: name of the leaf.
        keys: one tensor, or one for each index of the leaf's dim ``projection``. ``{layer}`` in a key is the
            index of the layer.
        layout: shape and order of a tensor.
        tied: other names under which a file may hold the tensor.
        layers: the layers that the entry fills; None for all.
        projections: the indices of ``projection`` that a single key fills, in the order in which the tensor holds
            them; None for all.
    """

    leaf: str
    keys: tuple[str, ...]
    layout: TensorLayout
    tied: tuple[str, ...] = ()
    layers: slice | None = None
    projections: slice | None = None


def matrix(inputs: int = 1) -> TensorLayout:
    """The weight of torch's Linear, (outputs, inputs); a kernel here starts with ``inputs`` input dims."""
    return lambda region: ((math.prod(region[inputs:]), math.prod(region[:inputs])), (1, 0))


def vector(region: Shape) -> tuple[Shape, Shape]:
    """A bias or a scale, which has one dim in torch."""
    return (math.prod(region),), (0,)


def convolution(region: Shape) -> tuple[Shape, Shape]:
    """The weight of torch's Conv2d, (outputs, inputs, row, column); here (row, column, inputs, outputs)."""
    rows, columns, inputs, outputs = region
    return (outputs, inputs, rows, columns), (2, 3, 1, 0)


def pointwise(region: Shape) -> tuple[Shape, Shape]:
    """A 1 x 1 convolution, (outputs, inputs, 1, 1), that is a matrix here."""
    inputs = region[0]
    return (math.prod(region[1:]), inputs, 1, 1), (1, 0, 2, 3)


def tensor(*shape: int, order: Shape | None = None) -> TensorLayout:
    """A tensor of exactly this shape; ``order`` as in ``Rule``, None for the tensor's own order."""
    return lambda region: (shape, order or tuple(range(len(shape))))


def linear(
    leaf: str,
    *keys: str,
    inputs: int = 1,
    bias: bool = True,
    layers: slice | None = None,
    projections: slice | None = None,
) -> Iterator[Entry]:
    """The entries of a ``Linear``.

    Args:
        leaf: the module's name, without ``.kernel`` and ``.bias``.
        keys: torch's names of the module, without ``.weight`` and ``.bias``.
        inputs: how many dims of the kernel are inputs.
        bias: whether there is a bias.
        layers, projections: as in ``Entry``.
    """
    weights, biases = tuple(f"{key}.weight" for key in keys), tuple(f"{key}.bias" for key in keys)
    yield Entry(f"{leaf}.kernel", weights, matrix(inputs), layers=layers, projections=projections)
    if bias:
        yield Entry(f"{leaf}.bias", biases, vector, layers=layers, projections=projections)


def stack_layers(spec: LeafSpec, dtype: np.dtype, read: Callable[[int | None], np.ndarray]) -> np.ndarray:
    """Assembles a leaf.

    Args:
        spec: of the leaf.
        dtype: of the result.
        read: index of a layer -> its array; called with None, for the whole array, where the leaf is not stacked.
    """
    leaf = np.empty(spec.shape, dtype)
    for layer in layers_of(spec):
        leaf[... if layer is None else layer] = read(layer)
    return leaf


def expand(entry: Entry, spec: LeafSpec) -> Iterator[Rule]:
    """One rule for each layer and each key of an entry, given the ``spec`` of its leaf."""
    shape = layer_shape(spec)
    axes = spec.axes[len(spec.axes) - len(shape) :]
    for layer in layers_of(spec)[entry.layers or ALL]:
        for number, key in enumerate(entry.keys):
            index: list[int | slice] = [ALL] * len(shape)
            if len(entry.keys) > 1:
                index[axes.index("projection")] = number
            elif entry.projections is not None:
                index[axes.index("projection")] = entry.projections
            region = tuple(len(range(size)[at]) for size, at in zip(shape, index, strict=True) if isinstance(at, slice))
            torch_shape, order = entry.layout(region)
            yield Rule(key.format(layer=layer), torch_shape, order, entry.leaf, layer, tuple(index), entry.tied)
