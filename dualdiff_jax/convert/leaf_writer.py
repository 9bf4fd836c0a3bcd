"""Writes a model's arrays a layer at a time, in the format that Orbax restores.

Orbax writes the tree (names and its own version marks) around empty arrays; each array is then laid out by
TensorStore, which Orbax itself stands on, and filled layer by layer. A chunk is at most one layer, cut along
the dim that is sharded first (the width), so that a device that holds a shard reads little beside it.
"""

from collections.abc import Mapping
from pathlib import Path

import ml_dtypes
import numpy as np
import orbax.checkpoint as ocp
import tensorstore as ts

from dualdiff_jax.files import remove
from dualdiff_jax.models.leaves import LeafSpec, is_stacked, layer_shape

CHUNK_BYTES = 16 << 20  # a larger layer is cut


class LeafWriter:
    """``folder`` must not exist. After every part was written it is an Orbax checkpoint of ``specs``."""

    def __init__(self, folder: Path, specs: Mapping[str, LeafSpec], dtypes: Mapping[str, np.dtype]):
        with ocp.Checkpointer(ocp.PyTreeCheckpointHandler(use_ocdbt=False)) as checkpointer:
            checkpointer.save(folder.absolute(), {leaf: np.zeros(1, np.float32) for leaf in specs})
        self._folder, self._specs, self._dtypes = folder.absolute(), specs, dtypes
        self._open: tuple[str, ts.TensorStore] | None = None

    def write(self, leaf: str, layer: int | None, part: np.ndarray) -> None:
        """One layer of a stacked leaf, or a whole one. A leaf's parts follow each other."""
        if self._open is None or self._open[0] != leaf:
            self._open = leaf, self._lay_out(leaf)
        store = self._open[1]
        (store if layer is None else store[layer]).write(part).result()

    def _lay_out(self, leaf: str) -> ts.TensorStore:
        spec, dtype = self._specs[leaf], self._dtypes[leaf]
        remove(self._folder / leaf)
        chunk = chunk_shape(spec, dtype)
        return ts.open(
            {
                "driver": "zarr",
                "kvstore": {"driver": "file", "path": str(self._folder / leaf)},
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


def chunk_shape(spec: LeafSpec, dtype: np.dtype) -> list[int]:
    """Of one layer of a stacked leaf, or of a whole one."""
    chunk = list(layer_shape(spec))
    axes = spec.axes[len(spec.axes) - len(chunk) :]
    cut = axes.index("width") if "width" in axes else int(np.argmax(chunk))
    while np.prod(chunk) * np.dtype(dtype).itemsize > CHUNK_BYTES and chunk[cut] > 1:
        chunk[cut] = -(-chunk[cut] // 2)
    return chunk
