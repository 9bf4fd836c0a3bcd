"""A gigabyte of weights goes from one folder of a bucket to another, through a kill, in the memory of a few layers."""

import dataclasses
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from dualdiff_jax.convert.importer import Import
from dualdiff_jax.files import as_path
from dualdiff_jax.stored_arrays import read_leaves, stored_leaves
from tests import checkpoints
from tests.end_to_end.command import HANG, ROOT
from tests.parity.reference import reference_t5

DEPTH = 100
IMPORT = """
import resource, sys
from dualdiff_jax.convert.importer import Import
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
planned = Import(sys.argv[1])
before = peak()
planned.write(sys.argv[2], overwrite=True)
print(peak() - before)
"""


def start(source: Path, output: Path) -> subprocess.Popen:
    environment = os.environ | {"JAX_PLATFORMS": "cpu"}
    words = [sys.executable, "-c", IMPORT, str(source), str(output)]
    return subprocess.Popen(words, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True)


@pytest.mark.slow
def test_a_gigabyte_is_imported_after_a_kill_in_the_memory_of_a_few_layers(bucket, tmp_path):
    config = dataclasses.replace(
        checkpoints.CONFIG.t5,
        depth=DEPTH,
        width=512,
        mlp_width=1024,
        heads=8,
        head_dim=64,
        vocab_size=checkpoints.VOCABULARY,
    )
    local, folder = tmp_path / "t5", as_path(f"{bucket.root}/large")
    checkpoints.tokenizer(local)
    tensors = checkpoints.t5_tensors(reference_t5(dataclasses.replace(checkpoints.CONFIG, t5=config)))
    size = sum(tensor.nbytes for tensor in tensors.values())
    assert size > 1e9
    checkpoints.write_shards(local, "model", tensors)
    del tensors
    for file in local.iterdir():
        (folder / "t5" / file.name).write_bytes(file.read_bytes())

    killed = start(folder / "t5", folder / "model")
    deadline = time.monotonic() + HANG
    while len(list((folder / "model" / "weights").rglob("*"))) < 50:
        assert killed.poll() is None and time.monotonic() < deadline
        time.sleep(0.1)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    assert not (folder / "model" / "model.json").exists()

    process = start(folder / "t5", folder / "model")
    grown = int(process.communicate(timeout=HANG)[0].splitlines()[-1])
    assert process.returncode == 0 and grown < size / 4, f"{grown:,} bytes for a model of {size:,}"
    Import(local).write(tmp_path / "model")
    expected = stored_leaves(tmp_path / "model" / "weights")
    assert stored_leaves(folder / "model" / "weights").keys() == expected.keys()
    for leaf, spec in expected.items():
        ours, theirs = (
            read_leaves(model / "weights", {leaf: spec})[leaf].tobytes()
            for model in (folder / "model", tmp_path / "model")
        )
        assert ours == theirs, leaf
