"""Model folders and checkpoints in a bucket: the same bits as on a disk, and nothing half-written is read."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from convert.__main__ import main as convert
from dualdiff_jax import UserError
from dualdiff_jax.convert.exporter import export_model
from dualdiff_jax.convert.importer import Import
from dualdiff_jax.convert.tensors import open_file
from dualdiff_jax.convert.torch_file import save_tensor
from dualdiff_jax.files import as_path, ranges
from dualdiff_jax.stored_arrays import read_leaves, stored_leaves
from dualdiff_jax.weights import load_config, load_tokenizer
from tests import checkpoints

ROOT = Path(__file__).parents[2]
SHARD = 400_000  # bytes; several files of each network
EIGHT_DEVICES = "--xla_force_host_platform_device_count=8"


def python(code: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess:
    words, variables = [sys.executable, "-c", code, *arguments], os.environ | {"JAX_PLATFORMS": "cpu"} | environment
    return subprocess.run(words, cwd=ROOT, env=variables, capture_output=True, text=True)


def upload(folder: Path, target: Path) -> None:
    for file in folder.rglob("*"):
        if file.is_file():
            (target / file.relative_to(folder).as_posix()).write_bytes(file.read_bytes())


def contents(folder: Path) -> dict[str, bytes]:
    return {str(file)[len(str(folder)) + 1 :]: file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def arrays(model: Path) -> dict[str, bytes]:
    found = read_leaves(model / "weights", stored_leaves(model / "weights"))
    return {leaf: array.tobytes() for leaf, array in found.items()}


@pytest.fixture(scope="module")
def folder(bucket) -> Path:
    return as_path(f"{bucket.root}/models")


@pytest.fixture(scope="module")
def here(tmp_path_factory) -> Path:
    """A released model, and what an import and an export make of it, on a disk."""
    root = tmp_path_factory.mktemp("here")
    checkpoints.write_d_dit(root / "released", 0)
    Import(root / "released").write(root / "model")
    export_model(root / "model", root / "exported", shard_bytes=SHARD)
    return root


@pytest.fixture(scope="module")
def source(here, folder) -> Path:
    upload(here / "released", folder / "released")
    return folder / "released"


@pytest.fixture(scope="module")
def model(source, folder) -> Path:
    convert(["import", str(source), f"--output={folder / 'model'}"])
    return folder / "model"


@pytest.fixture(autouse=True)
def working_directory(tmp_path, monkeypatch):
    """A name of a bucket that is taken for a local one makes a folder ``gs:`` here."""
    monkeypatch.chdir(tmp_path)
    yield
    assert not list(tmp_path.glob("gs:*"))


def test_an_import_from_and_to_a_bucket_equals_a_local_one(here, model):
    assert arrays(model) == arrays(here / "model")
    assert load_config(model) == load_config(here / "model")
    assert load_tokenizer(model).fingerprint() == load_tokenizer(here / "model").fingerprint()
    assert contents(model / "tokenizer") == contents(here / "model" / "tokenizer")


def test_an_export_from_and_to_a_bucket_equals_a_local_one(here, model, folder):
    export_model(str(model), str(folder / "exported"), shard_bytes=SHARD)
    assert contents(folder / "exported") == contents(here / "exported")
    assert sum(name.startswith("transformer/") for name in contents(folder / "exported")) > 3
    export_model(model, Path("back"), shard_bytes=SHARD)
    assert contents(Path("back")) == contents(here / "exported")


ON_EIGHT_DEVICES = """
import sys
import jax
from dualdiff_jax.config.run import MeshConfig
from dualdiff_jax.sharding import make_mesh
from dualdiff_jax.weights import load_model, save_model

config, weights, tokenizer = load_model(sys.argv[1], make_mesh(MeshConfig(), jax.devices()))
assert {len(array.sharding.device_set) for array in weights.values()} == {8}
assert not all(array.is_fully_replicated for array in weights.values())
save_model(sys.argv[2], config, weights, tokenizer)
"""


@pytest.mark.slow
def test_a_model_of_a_bucket_is_loaded_onto_eight_devices_and_saved_again(here, model, folder):
    done = python(ON_EIGHT_DEVICES, str(model), str(folder / "saved"), XLA_FLAGS=EIGHT_DEVICES)
    assert done.returncode == 0, done.stderr
    assert arrays(folder / "saved") == arrays(here / "model")


def test_torch_files_are_read_in_parts(folder, tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    tensors = {f"{index}.weight": torch.from_numpy(rng.standard_normal((40, 50), np.float32)) for index in range(9)}
    monkeypatch.setattr(ranges, "PIECE", 1000)  # several pieces a tensor
    for number, new in enumerate((True, False)):
        local, there = tmp_path / f"{number}.pth", folder / f"torch/{number}.pth"
        torch.save(tensors, local, _use_new_zipfile_serialization=new)
        there.write_bytes(local.read_bytes())
        found = open_file(there)
        assert dict(found) == dict(open_file(local)) and len(found) == 9
        for key in found:
            assert found.read(key).tobytes() == tensors[key].numpy().tobytes()
    save_tensor(np.arange(7.0), folder / "row.pth")
    assert (open_file(folder / "row.pth").read("") == np.arange(7.0)).all()


def test_a_damaged_file_of_a_bucket_is_refused_as_a_local_one(here, folder, tmp_path):
    data = (here / "released/vae/diffusion_pytorch_model.safetensors").read_bytes()
    for name, content in {"cut": data[:-8], "header": data[:50], "empty": b"", "text": b"no tensors" * 9}.items():
        (tmp_path / f"{name}.safetensors").write_bytes(content)
        (folder / f"{name}.safetensors").write_bytes(content)
        sentences = []
        for place in (tmp_path, folder):
            with pytest.raises(UserError) as error:
                open_file(place / f"{name}.safetensors")
            sentences.append(str(error.value).replace(str(place), ""))
        assert sentences[0] == sentences[1]


KILLED = """
import os, random, sys
from dualdiff_jax.files.bucket_path import BucketPath
from dualdiff_jax.convert import leaf_writer
from convert.__main__ import main

left = int(sys.argv[1])

def counted(method):
    def call(*arguments, **named):
        global left
        left -= 1
        if left < 0:
            os._exit(9)
        return method(*arguments, **named)
    return call

for name in ("write_bytes", "write_text", "upload"):
    setattr(BucketPath, name, counted(getattr(BucketPath, name)))
leaf_writer.LeafWriter.write = counted(leaf_writer.LeafWriter.write)
main(sys.argv[2:])
"""


def killed(writes: int, *arguments: str) -> None:
    done = python(KILLED, str(writes), *arguments)
    assert done.returncode == 9, done.stderr


@pytest.mark.slow
def test_a_killed_import_leaves_no_model_and_the_next_one_writes_it_whole(here, source, folder):
    output = folder / "killed_model"
    words = ["import", str(source), f"--output={output}", "--components=t5"]
    killed(np.random.default_rng().integers(3, 12), *words)
    assert (output / "weights" / "_METADATA").exists() and not (output / "model.json").exists()
    with pytest.raises(UserError, match=r"killed_model: is no model folder, it has no model\.json"):
        load_config(output)
    convert(words)
    assert arrays(output) == {leaf: data for leaf, data in arrays(here / "model").items() if leaf.startswith("t5.")}
    with pytest.raises(SystemExit, match=r"killed_model: exists already; .* --overwrite"):
        convert(words)


@pytest.mark.slow
def test_a_killed_export_leaves_no_pipeline_and_the_next_one_writes_it_whole(here, model, folder):
    output = folder / "killed_export"
    killed(np.random.default_rng().integers(5, 9), "export", str(model), f"--output={output}")
    assert (output / "transformer").is_dir() and not (output / "model_index.json").exists()
    with pytest.raises(UserError):
        Import(output)
    (output / "of_the_killed_one").write_text("half")
    export_model(model, output, shard_bytes=SHARD)
    assert contents(output) == contents(here / "exported")


def test_objects_of_somebody_else_are_not_overwritten(source, folder):
    (folder / "data" / "precious.txt").write_text("mine")
    with pytest.raises(SystemExit, match="data: exists already"):
        convert(["import", str(source), f"--output={folder / 'data'}"])
    assert (folder / "data" / "precious.txt").read_text() == "mine"
    with pytest.raises(UserError, match="is a whole bucket, which would be emptied"):
        Import(source).write("gs://bucket", overwrite=True)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["inspect", "gs://bucket/none"], "gs://bucket/none: there is no such file or folder"),
        (["inspect", "gs://no-such-bucket/x"], "gs://no-such-bucket/x: there is no such file or folder"),
        (["inspect", "ftp://bucket/x"], "such an address is not known"),
        (["inspect", "gs:/bucket/x"], "such an address is not known"),
        (["export", "gs://bucket/none", "--output=x"], "gs://bucket/none: is no model folder"),
    ],
)
def test_what_is_not_there_is_one_sentence(bucket, arguments, sentence):
    with pytest.raises(SystemExit, match=sentence):
        convert(arguments)


def test_a_bucket_that_refuses_is_one_sentence(here, bucket, folder):
    bucket.fail(refused=True)
    try:
        with pytest.raises(SystemExit, match="error: .*refused: may not be written") as error:
            convert(["import", str(here / "released"), f"--output={folder / 'refused'}"])
    finally:
        bucket.fail()
    assert "\n" not in str(error.value) and not (folder / "refused").exists()


def test_arrays_are_refused_on_amazons_buckets(here, monkeypatch):
    for variable in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(variable, "none")
    with pytest.raises(SystemExit, match=r"Orbax writes and reads arrays on disks and in gs://"):
        convert(["import", str(here / "released"), "--output=s3://bucket/model"])
