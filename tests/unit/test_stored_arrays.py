"""Arrays come back bit for bit, or not at all; folders of earlier versions, without checksums, come back too."""

from pathlib import Path

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import orbax.checkpoint as ocp
import pytest

from dualdiff_jax.arrays import Weights
from dualdiff_jax.convert.leaf_writer import LeafWriter
from dualdiff_jax.errors import UserError
from dualdiff_jax.models.leaves import LeafSpec
from dualdiff_jax.runtime.checksums import fault
from dualdiff_jax.stored_arrays import read_leaves, restore, save_arrays, stored_leaves
from tests.flipped_bits import flipped_bits

FLIPS = 100
SHARDING = jax.sharding.SingleDeviceSharding(jax.devices()[0])


def some_weights() -> Weights:
    rng = np.random.default_rng(0)
    shapes = {"a.blocks.kernel": (3, 16, 40), "a.bias": (7,), "b.embedding": (50, 16), "b.scale": (1,)}
    weights: Weights = {name: jnp.asarray(rng.standard_normal(shape, np.float32)) for name, shape in shapes.items()}
    weights["b.zeros"] = jnp.zeros((3, 5, 4))  # fresh leaves have layers of zeros
    return weights | {"b.half": weights["a.blocks.kernel"].astype(jnp.bfloat16)}


def read(folder: Path, dtype: str | None = None) -> Weights:
    stored = stored_leaves(folder).items()
    return restore(folder, {n: jax.ShapeDtypeStruct(s.shape, dtype or s.dtype, sharding=SHARDING) for n, s in stored})


def is_same(found: Weights, expected: Weights) -> bool:
    return found.keys() == expected.keys() and all(
        found[name].dtype == value.dtype and np.array_equal(found[name], value) for name, value in expected.items()
    )


def write_by_layers(folder: Path, weights: Weights) -> None:
    """As imports do."""
    specs = {
        name: LeafSpec(value.shape, value.dtype, ("layers", "width", "mlp")[3 - value.ndim :], True)
        for name, value in weights.items()
    }
    with LeafWriter(folder, specs, {name: np.dtype(value.dtype) for name, value in weights.items()}) as writer:
        for name, value in weights.items():
            for layer in range(3) if value.ndim == 3 else (None,):
                writer.write(name, layer, np.asarray(value if layer is None else value[layer]))


@pytest.mark.parametrize("write", [save_arrays, write_by_layers])
def test_a_flipped_bit_changes_no_array_unnoticed(tmp_path, write):
    folder, weights = tmp_path / "weights", some_weights()
    write(folder, weights)
    assert is_same(read(folder), weights)
    refused = []
    for file in flipped_bits(folder, FLIPS, seed=0):
        try:
            assert is_same(read(folder), weights), file
        except UserError as error:
            refused.append(str(error))
    assert all(message.startswith(f"{folder}: cannot be read (") for message in refused)
    assert all(message.endswith("); copy the model folder again") for message in refused)
    named = [name for name in weights if any(f"({name} was changed since it was written)" in line for line in refused)]
    assert len(refused) > FLIPS / 3 and {"a.blocks.kernel", "b.embedding", "b.half"} <= set(named)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16, None])
def test_a_change_is_found_in_whatever_dtype_the_array_is_read(tmp_path, dtype):
    folder, kernel = tmp_path / "weights", some_weights()["a.blocks.kernel"]
    save_arrays(folder, {"kernel": kernel})
    file = max(folder.rglob("d/*"), key=lambda path: path.stat().st_size)
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    with pytest.raises(UserError, match=r"weights: cannot be read \(kernel was changed since it was written\); copy"):
        read_leaves(folder, stored_leaves(folder)) if dtype is None else read(folder, dtype)


def test_a_fault_with_half_a_character_can_be_shown():
    assert fault(ValueError('no "\ud83d" in zarr.json')) == 'no "?" in zarr.json'


@pytest.mark.parametrize("use_ocdbt", [True, False])
def test_arrays_without_checksums_are_read_as_before(tmp_path, use_ocdbt):
    folder, weights = tmp_path / "weights", some_weights()
    with ocp.Checkpointer(ocp.PyTreeCheckpointHandler(use_ocdbt=use_ocdbt)) as checkpointer:
        checkpointer.save(folder, weights)
    assert is_same(read(folder), weights)
    assert is_same(read_leaves(folder, stored_leaves(folder)), weights)
    assert read(folder, "bfloat16")["a.bias"].dtype == ml_dtypes.bfloat16
