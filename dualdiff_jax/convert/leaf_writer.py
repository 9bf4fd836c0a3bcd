"""Writes a model's arrays one layer at a time, in the format that Orbax restores.

Orbax writes the tree (names and version marks) with placeholder arrays. TensorStore, on which Orbax is built, then
creates each array in place of its placeholder and fills it layer by layer. A chunk is at most one layer, cut along
the dim that is sharded first (the width), so that a device reads little more than its shard.
"""

from collections.abc import Mapping
from pathlib import Path

import ml_dtypes
import numpy as np
import orbax.checkpoint as ocp
import tensorstore as ts

from dualdiff_jax.files import is_bucket, remove
from dualdiff_jax.models.leaves import LeafSpec, is_stacked, layer_shape

CHUNK_BYTES = 16 << 20  # a larger layer is cut into chunks


class LeafWriter:
    """Writes a folder that is a complete Orbax checkpoint once ``write`` has received every layer of every leaf.

    Args:
        folder: must not exist.
        specs: of every leaf, by name.
        dtypes: in which each leaf is stored.
    """

    def __init__(self, folder: Path, specs: Mapping[str, LeafSpec], dtypes: Mapping[str, np.dtype]):
        with ocp.Checkpointer(ocp.PyTreeCheckpointHandler(use_ocdbt=False)) as checkpointer:
            checkpointer.save(folder.absolute(), {leaf: np.zeros(1, np.float32) for leaf in specs})
        self._folder, self._specs, self._dtypes = folder.absolute(), specs, dtypes
        self._open: tuple[str, ts.TensorStore] | None = None

    def write(self, leaf: str, layer: int | None, array: np.ndarray) -> None:
        """Writes one layer of a stacked leaf, or a leaf that is not stacked.

        Args:
            leaf: name of the leaf. The layers of a leaf must be written one after the other.
            layer: index of the layer; None where the leaf is not stacked.
            array: in the leaf's dtype.
        """
        if self._open is None or self._open[0] != leaf:
            self._open = leaf, self._create(leaf)
        store = self._open[1]
        (store if layer is None else store[layer]).write(array).result()

    def _create(self, leaf: str) -> ts.TensorStore:
        """Replaces the placeholder of a leaf by an array of its shape, without values."""
        spec, dtype = self._specs[leaf], self._dtypes[leaf]
        remove(self._folder / leaf)
        chunk = chunk_shape(spec, dtype)
        return ts.open(
            {
                "driver": "zarr",
                "kvstore": _store(self._folder / leaf),
                "metadata": {
                    "shape": spec.shape,
                    "chunks": [1, *chunk] if is_stacked(spec) else chunk,
                    "dtype": "bfloat16" if dtype == ml_dtypes.bfloat16 else np.dtype(dtype).str,
                    "compressor": None,
                    "fill_value": None,
                },
            },
            create=True,
        ).result()


def _store(folder: Path) -> str | dict[str, str]:
    """TensorStore's name of a folder."""
    return f"{folder}/" if is_bucket(folder) else {"driver": "file", "path": str(folder)}


def chunk_shape(spec: LeafSpec, dtype: np.dtype) -> list[int]:
    """The largest chunk of at most ``CHUNK_BYTES`` of one layer, or of a leaf that is not stacked.

    The width is halved until the chunk is small enough; the largest dim where there is no width.
    """
    chunk = list(layer_shape(spec))
    axes = spec.axes[len(spec.axes) - len(chunk) :]
    cut = axes.index("width") if "width" in axes else int(np.argmax(chunk))
    while np.prod(chunk) * np.dtype(dtype).itemsize > CHUNK_BYTES and chunk[cut] > 1:
        chunk[cut] = -(-chunk[cut] // 2)
    return chunk
