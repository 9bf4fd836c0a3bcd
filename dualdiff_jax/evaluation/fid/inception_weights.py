"""Inception's weights from the files of pytorch-fid and torch-fidelity, which hold the same tensors.

``pt_inception-2015-12-05-6726825d.pth`` and ``weights-inception-2015-12-05-6726825d.pth``, or a safetensors file with
the same keys. The conversion is strict: each key has exactly one leaf, each leaf is filled, each shape fits, and one
report lists all faults. The file's classifier, which is behind the features, is checked and left out.
"""

import functools
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from flax import nnx

from dualdiff_jax.convert.tensor_file import TensorFile
from dualdiff_jax.convert.tensors import listed_faults, open_file
from dualdiff_jax.errors import UserError, quoted
from dualdiff_jax.evaluation.fid.inception import FEATURES, Inception

PUBLISHED = "6726825d"  # how the SHA-256 of the published file begins
CLASSES = 1008
FIRST_CHANNELS = 32  # of the first unit, with a divisor of 1
TORCH_NAMES = {
    "kernel": "conv.weight",
    "scale": "bn.weight",
    "bias": "bn.bias",
    "mean": "bn.running_mean",
    "variance": "bn.running_var",
}
KERNEL_DIMS = (2, 3, 1, 0)  # of a torch kernel (outputs, inputs, rows, columns) in our order
COUNTER = ".bn.num_batches_tracked"  # of training; some files have it

InceptionWeights = Mapping[str, np.ndarray]  # leaf name -> fp32


@functools.cache
def _blueprint(divisor: int) -> tuple[nnx.GraphDef, dict[str, tuple[int, ...]]]:
    graph, state = nnx.split(nnx.eval_shape(lambda: Inception(divisor, rngs=nnx.Rngs(0))))
    leaves = nnx.to_flat_state(state)
    return graph, {".".join(map(str, path)): tuple(leaf.get_value().shape) for path, leaf in leaves}


def leaf_shapes(divisor: int = 1) -> Mapping[str, tuple[int, ...]]:
    """The shape of every leaf of ``Inception(divisor)`` by its name, such as ``mixed_5b.branch1x1.kernel``."""
    return _blueprint(divisor)[1]


def torch_key(leaf: str) -> str:
    """The name of a leaf's tensor, such as ``Mixed_5b.branch1x1.conv.weight``."""
    unit, _, name = leaf.rpartition(".")
    return f"{unit[0].upper()}{unit[1:]}.{TORCH_NAMES[name]}"


def torch_shape(leaf: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape of a leaf's tensor."""
    return tuple(shape[dim] for dim in np.argsort(KERNEL_DIMS)) if leaf.endswith(".kernel") else shape


def read_weights(file: Path, divisor: int = 1) -> InceptionWeights:
    """Reads the weights of ``Inception(divisor)``.

    Args:
        file: ``.pth``, ``.pt``, ``.bin`` or ``.safetensors``.
        divisor: of the network's widths; the published network's is 1.

    Raises:
        UserError: the file is missing, damaged or of another network; the message lists all faults.
    """
    tensors = open_file(file)
    shapes = leaf_shapes(divisor)
    faults = list(_faults(tensors, shapes, divisor))
    if faults:
        count, lines = listed_faults(faults)
        raise UserError(
            f"{file}: is no Inception of FID, it has {count}; give pt_inception-2015-12-05-{PUBLISHED}.pth of "
            f"pytorch-fid, or torch-fidelity's file:\n{lines}"
        )
    return {leaf: _read(tensors, leaf) for leaf in shapes}


def _faults(tensors: TensorFile, shapes: Mapping[str, tuple[int, ...]], divisor: int) -> Iterator[str]:
    expected = {torch_key(leaf): torch_shape(leaf, shape) for leaf, shape in shapes.items()}
    unused = {"fc.weight": (CLASSES, FEATURES // divisor), "fc.bias": (CLASSES,)}
    for key, info in tensors.items():
        shape = (expected | unused).get(key)
        if shape is None:
            is_counter = key.endswith(COUNTER) and f"{key.removesuffix(COUNTER)}.conv.weight" in expected
            if not is_counter:
                yield f"{quoted(key)}: found an unknown name"
        elif info.shape != shape:
            yield f"{key}: found shape {info.shape}, expected {shape}"
        elif not np.issubdtype(info.dtype, np.floating):
            yield f"{key}: found {info.dtype}, expected floating point numbers"
    for key, shape in expected.items():
        if key not in tensors:
            yield f"{key}: found nothing, expected shape {shape}"


def _read(tensors: TensorFile, leaf: str) -> np.ndarray:
    key = torch_key(leaf)
    array = tensors.read(key).astype(np.float32)
    if not np.isfinite(array).all() or (leaf.endswith(".variance") and (array < 0).any()):
        raise UserError(f"{tensors.path}: {key} has numbers that cannot be; the file is damaged, download it again")
    return np.ascontiguousarray(array.transpose(KERNEL_DIMS)) if leaf.endswith(".kernel") else array


def feature_count(weights: Mapping[str, Any]) -> int:
    """The numbers of a feature vector."""
    return FEATURES // _divisor(weights)


def _divisor(weights: Mapping[str, Any]) -> int:
    return FIRST_CHANNELS // weights["conv2d_1a_3x3.kernel"].shape[-1]


def bind(weights: Mapping[str, Any]) -> Inception:
    """The network with given weights; cheap, and meant to be called inside ``jit``."""
    leaves = [(tuple(name.split(".")), value) for name, value in weights.items()]
    return nnx.merge(_blueprint(_divisor(weights))[0], nnx.from_flat_state(leaves))
