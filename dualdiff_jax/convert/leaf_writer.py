"""Writes a model's arrays one layer at a time, in the format that Orbax restores.

Orbax writes the tree (names and version marks) with placeholder arrays. TensorStore, on which Orbax is built, then
creates each array in place of its placeholder and fills it layer by layer. A chunk is at most one layer, cut along
the dim that is sharded first (the width), so that a device reads little more than its shard; it carries its checksum.
"""

import collections
import contextlib
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import orbax.checkpoint as ocp
import tensorstore as ts

from dualdiff_jax.files import is_bucket, remove
from dualdiff_jax.files.ranges import CONNECTIONS
from dualdiff_jax.models.leaves import LeafSpec, is_stacked, layer_shape
from dualdiff_jax.runtime.checksums import PLAIN

CHUNK_BYTES = 16 << 20  # a larger layer is cut into chunks
PENDING_BYTES = 128 << 20  # of layers that are copied and not yet stored; a bucket stores each after some time


class LeafWriter:
    """A context manager, after which ``folder`` is a complete Orbax checkpoint if ``write`` received every layer.

    Args:
        folder: must not exist.
        specs: of every leaf, by name.
        dtypes: in which each leaf is stored.
    """

    def __init__(self, folder: Path, specs: Mapping[str, LeafSpec], dtypes: Mapping[str, np.dtype]):
        folder = folder.absolute()
        with ocp.Checkpointer(ocp.PyTreeCheckpointHandler(use_ocdbt=False, use_zarr3=True)) as checkpointer:
            checkpointer.save(folder, {leaf: np.zeros(1, np.float32) for leaf in specs})
        with ThreadPoolExecutor(CONNECTIONS) as pool:
            list(pool.map(remove, [folder / leaf for leaf in specs]))  # the placeholders
        created = {leaf: _create(folder / leaf, spec, dtypes[leaf]) for leaf, spec in specs.items()}
        self._stores = {leaf: store.result() for leaf, store in created.items()}
        self._pending: collections.deque[tuple[int, ts.WriteFutures]] = collections.deque()

    def __enter__(self) -> "LeafWriter":
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        with contextlib.suppress(Exception) if kind else contextlib.nullcontext():
            self._wait(0)

    def write(self, leaf: str, layer: int | None, array: np.ndarray) -> None:
        """Writes one layer of a stacked leaf, or a leaf that is not stacked; returns before all of it is stored.

        Args:
            leaf: name of the leaf.
            layer: index of the layer; None where the leaf is not stacked.
            array: in the leaf's dtype.
        """
        store = self._stores[leaf]
        writing = (store if layer is None else store[layer]).write(array)
        writing.copy.result()  # the caller may change the array from here on
        self._pending.append((array.nbytes, writing))
        self._wait(PENDING_BYTES)

    def _wait(self, most: int) -> None:
        """Waits until at most so many bytes are copied and not yet stored."""
        while sum(size for size, _ in self._pending) > most or (self._pending and not most):
            self._pending.popleft()[1].result()


def _create(folder: Path, spec: LeafSpec, dtype: np.dtype) -> ts.Future[ts.TensorStore]:
    """Begins to make an array of a leaf's shape, without values."""
    chunk = chunk_shape(spec, dtype)
    return ts.open(
        {
            "driver": "zarr3",
            "kvstore": _store(folder),
            "store_data_equal_to_fill_value": True,  # a reader takes a chunk of zeros that is missing for lost
            "metadata": {
                "shape": spec.shape,
                "chunk_grid": {
                    "name": "regular",
                    "configuration": {"chunk_shape": [1, *chunk] if is_stacked(spec) else chunk},
                },
                "data_type": np.dtype(dtype).name,
                "codecs": PLAIN,
            },
        },
        create=True,
    )


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
