"""A folder of arrays by name, sharded; written and read by Orbax.

A model folder has one or two (``weights.py``). Each chunk carries its checksum (``runtime/checksums.py``), so that a
read of bits that have changed is an error.
"""

import contextlib
import math
from collections.abc import Iterator, Mapping
from pathlib import Path

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath

from dualdiff_jax.arrays import Weights
from dualdiff_jax.errors import UserError
from dualdiff_jax.files import check_holds_arrays
from dualdiff_jax.runtime.checksums import checked_arrays, fault
from dualdiff_jax.runtime.failed_transfers import silence_failed_transfers

# Memory that Orbax may use for reads in progress: a factor on the largest leaf of the target, which a read can hold
# in the dtype of the file (float32 for a bfloat16 target), and a margin in GB.
LARGEST_LEAF_FACTOR, MARGIN_GB = 2, 1


def save_arrays(folder: Path, weights: Weights) -> None:
    """Writes arrays that ``restore`` reads. ``folder`` must not exist."""
    silence_failed_transfers()
    with ocp.Checkpointer(checked_arrays()) as checkpointer:
        checkpointer.save(folder.absolute(), weights)


def stored_leaves(folder: Path) -> dict[str, jax.ShapeDtypeStruct]:
    """Reads the shape and dtype of every array under ``folder``, without the arrays.

    Args:
        folder: written by ``save_arrays``.

    Returns:
        Leaf name -> shape and dtype.

    Raises:
        UserError: the folder is missing or cannot be read.
    """
    check_holds_arrays(folder)
    if not folder.is_dir():
        raise UserError(f"{folder}: is missing; the model folder is incomplete, copy it anew")
    with _reading(folder):
        tree = ocp.PyTreeCheckpointHandler().metadata(epath.Path(folder.absolute())).tree
        return {name: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) for name, leaf in tree.items()}


def read_leaves(folder: Path, stored: Mapping[str, jax.ShapeDtypeStruct]) -> dict[str, np.ndarray]:
    """Reads some full arrays onto the host.

    Args:
        folder: written by ``save_arrays``.
        stored: name of each leaf -> its shape and dtype, from ``stored_leaves``.

    Raises:
        UserError: an array cannot be read, or was changed since it was written.
    """
    item = {name: np.broadcast_to(np.zeros((), leaf.dtype), leaf.shape) for name, leaf in stored.items()}
    return _restore(folder, item, dict.fromkeys(item, ocp.RestoreArgs(restore_type=np.ndarray)))


def restore(folder: Path, target: dict[str, jax.ShapeDtypeStruct]) -> Weights:
    """Reads some arrays onto devices.

    Args:
        folder: written by ``save_arrays``.
        target: the arrays to read: leaf name -> shape, the dtype to convert to, and the sharding.

    Returns:
        One array for each name of ``target``.

    Raises:
        UserError: an array is missing, has another shape, cannot be read, or was changed since it was written.
    """
    return _restore(folder, target, ocp.checkpoint_utils.construct_restore_args(target))


def _restore(folder: Path, item: dict, arguments: dict) -> dict:
    largest = max(math.prod(leaf.shape) * np.dtype(leaf.dtype).itemsize for leaf in item.values())
    handler = ocp.PyTreeCheckpointHandler(
        restore_concurrent_gb=math.ceil(LARGEST_LEAF_FACTOR * largest / 1e9) + MARGIN_GB
    )
    with _reading(folder), ocp.Checkpointer(handler) as checkpointer:
        request = ocp.args.PyTreeRestore(item=item, restore_args=arguments, partial_restore=True)
        return checkpointer.restore(folder.absolute(), args=request)


@contextlib.contextmanager
def _reading(folder: Path) -> Iterator[None]:
    """Orbax and TensorStore raise many types of errors; each means that the arrays are unreadable."""
    silence_failed_transfers()
    try:
        yield
    except Exception as error:
        raise UserError(f"{folder}: cannot be read ({fault(error)}); copy the model folder again") from error
