"""An import writes a model folder completely or not at all, one layer at a time; the commands report what they do."""

import dataclasses
import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from convert.__main__ import main
from dualdiff_jax.config import MeshConfig
from dualdiff_jax.convert.exporter import export_model
from dualdiff_jax.convert.importer import Import
from dualdiff_jax.convert.leaf_writer import CHUNK_BYTES, LeafWriter, chunk_shape
from dualdiff_jax.models.leaves import LeafSpec
from dualdiff_jax.sharding import make_mesh
from dualdiff_jax.stored_arrays import restore, stored_leaves
from dualdiff_jax.weights import load_model
from tests import checkpoints
from tests.parity.reference import reference_t5

SPEC = LeafSpec((3, 2048, 1024), np.dtype(np.float32), ("layers", "width", "mlp"), True)
SLOW_IMPORT = """
import sys, time
from dualdiff_jax.convert.importer import Import
def slow(written, total):
    print(written, flush=True)
    time.sleep(0.2)
Import(sys.argv[1]).write(sys.argv[2], progress=slow)
"""


def run(*command: str, **options) -> subprocess.Popen:
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "PYTHONPATH": str(Path(__file__).parents[3])}
    return subprocess.Popen([sys.executable, *command], env=environment, text=True, **options)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_orbax_restores_arrays_written_a_layer_at_a_time(tmp_path, dtype):
    rng, dtype = np.random.default_rng(0), jax.numpy.dtype(dtype)
    stacked = rng.standard_normal(SPEC.shape, np.float32).astype(dtype)
    small = rng.standard_normal(5, np.float32).astype(dtype)
    specs = {"a.b.kernel": SPEC, "a.c.0": LeafSpec((5,), SPEC.dtype, ("width",), True)}
    with LeafWriter(tmp_path / "weights", specs, dict.fromkeys(specs, dtype)) as writer:
        for layer in range(3):
            writer.write("a.b.kernel", layer, stacked[layer])
        writer.write("a.c.0", None, small)
    stored = stored_leaves(tmp_path / "weights")
    assert {name: (leaf.shape, leaf.dtype) for name, leaf in stored.items()} == {
        "a.b.kernel": (SPEC.shape, dtype),
        "a.c.0": ((5,), dtype),
    }
    mesh = make_mesh(MeshConfig(), jax.devices()[:1])
    sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    target = {n: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding) for n, leaf in stored.items()}
    found = restore(tmp_path / "weights", target)
    np.testing.assert_array_equal(found["a.b.kernel"], stacked)
    np.testing.assert_array_equal(found["a.c.0"], small)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_chunks_are_small_and_cut_where_shards_are(dtype):
    dtype = jax.numpy.dtype(dtype)
    large = LeafSpec((24, 4096, 2, 10240), dtype, ("layers", "width", "projection", "mlp"), True)
    shape = chunk_shape(large, dtype)
    assert shape[1:] == [2, 10240] and 4096 % shape[0] == 0
    assert CHUNK_BYTES / 2 < np.prod(shape) * dtype.itemsize <= CHUNK_BYTES
    assert chunk_shape(LeafSpec((3, 7), dtype, ("bucket", "heads"), True), dtype) == [3, 7]


def test_a_killed_import_leaves_nothing_that_looks_complete_and_the_next_one_cleans_up(tmp_path):
    checkpoints.write_d_dit(tmp_path / "source", 0)
    output = tmp_path / "model"
    process = run("-c", SLOW_IMPORT, str(tmp_path / "source"), str(output), stdout=subprocess.PIPE)
    for _ in range(3):
        assert process.stdout.readline().strip().isdigit()
    process.send_signal(signal.SIGKILL)
    process.wait()
    left = [path.name for path in tmp_path.iterdir() if path.name != "source"]
    assert left and all(name.startswith(".") for name in left)
    Import(tmp_path / "source").write(output)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model", "source"]
    load_model(output, make_mesh(MeshConfig(), jax.devices()[:1]))


def test_memory_does_not_grow_with_the_model(tmp_path):
    """A T5 of forty layers has more than four hundred megabytes; the import holds a few layers."""
    config = dataclasses.replace(
        checkpoints.CONFIG.t5,
        depth=40,
        width=512,
        mlp_width=1024,
        heads=8,
        head_dim=64,
        vocab_size=checkpoints.VOCABULARY,
    )
    folder = tmp_path / "t5"
    checkpoints.tokenizer(folder)
    model = dataclasses.replace(checkpoints.CONFIG, t5=config)
    tensors = checkpoints.t5_tensors(reference_t5(model))
    size = sum(tensor.nbytes for tensor in tensors.values())
    assert size > 400e6
    checkpoints.write_shards(folder, "model", tensors)
    code = (
        "import resource, sys\n"
        "from dualdiff_jax.convert.importer import Import\n"
        "peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024\n"
        "planned = Import(sys.argv[1]); before = peak(); planned.write(sys.argv[2]); print(peak() - before)\n"
    )
    process = run("-c", code, str(folder), str(tmp_path / "model"), stdout=subprocess.PIPE)
    grown = int(process.communicate()[0].splitlines()[-1])
    assert process.returncode == 0 and grown < size / 2, f"{grown:,} bytes for a model of {size:,}"


def test_exported_files_can_be_read_by_others(tmp_path):
    checkpoints.write_d_dit(tmp_path / "source", 0)
    Import(tmp_path / "source").write(tmp_path / "model")
    for file in export_model(tmp_path / "model", tmp_path / "out").rglob("*"):
        other = stat.S_IROTH & ~_umask()
        assert file.stat().st_mode & other == other, file


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def test_import_prints_what_it_did(tmp_path):
    checkpoints.write_d_dit(tmp_path / "source", 0, "bfloat16")
    process = run(
        "-m", "convert", "import", str(tmp_path / "source"), f"--output={tmp_path / 'model'}", stdout=subprocess.PIPE
    )
    printed = process.communicate()[0]
    assert process.returncode == 0
    assert "mmdit: D-DiT transformer" in printed and "bfloat16 -> bfloat16" in printed and "depth = 3" in printed
    assert printed.splitlines()[-1] == str(tmp_path / "model")


def test_inspect_prints_what_an_import_would_do(tmp_path, capsys):
    checkpoints.write_sd3(tmp_path / "sd3", 0, "float16")
    main(["inspect", str(tmp_path / "sd3")])
    printed = capsys.readouterr().out
    assert "mmdit: SD3 transformer, " in printed and "float16 -> float32" in printed and "depth = 3" in printed
    assert "dropped, D-DiT has no such tensors: time_text_embed.text_embedder.linear_1.bias, " in printed
    assert "initialised, wholly or in the last block: " in printed and "mmdit.null_image" in printed
    assert [path.name for path in tmp_path.iterdir()] == ["sd3"]
