"""No command removes what it reads, and an export of numbers that its dtype cannot hold replaces nothing."""

import shutil
from pathlib import Path
from typing import cast

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from dualdiff_jax.convert.exporter import export_model
from dualdiff_jax.convert.importer import Import
from dualdiff_jax.convert.lora_merge import merge_lora
from dualdiff_jax.convert.output import check_apart
from dualdiff_jax.errors import UserError
from dualdiff_jax.files.bucket_path import BucketPath
from dualdiff_jax.weights import load_config
from tests import checkpoints

BIAS = "decoder.conv_in.bias"


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("sources")
    checkpoints.write_d_dit(root / "released", 0)
    return Import(root / "released").write(root / "model")


def place(name: str) -> Path:
    """A local path, or a bucket's; ``as_path`` would ask for credentials."""
    return cast(Path, BucketPath(name)) if "://" in name else Path(name)


def contents(folder: Path) -> dict[Path, bytes]:
    return {file.relative_to(folder): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


@pytest.mark.parametrize(
    ("output", "source", "message"),
    [
        ("/a/b", "/a/b/model", "/a/b: holds /a/b/model, which would be removed; choose another --output"),
        ("/a/b", "/a/c/../b/x.safetensors", "/a/b: holds"),
        ("/a/b", "/a/b", "is what the command reads"),
        ("gs://bucket/a", "gs://bucket/a/model", "gs://bucket/a: holds gs://bucket/a/model"),
        ("gs://bucket/a", "gs://bucket/a", "is what the command reads"),
        ("/a/b/model", "/a/b", None),
        ("/a/b", "/a/bc", None),
        ("gs://bucket/a/model", "gs://bucket/a", None),
        ("gs://bucket/a", "/bucket/a", None),
    ],
)
def test_an_output_must_lie_apart_from_each_source(output, source, message):
    if message is None:
        check_apart(place(output), [place(source)])
        return
    with pytest.raises(UserError, match=message):
        check_apart(place(output), [place(source)])


def test_a_folder_on_a_disk_alone_may_be_replaced_by_what_is_read_from_it():
    check_apart(Path("/a"), [Path("/a")], may_equal=True)
    with pytest.raises(UserError, match="is what the command reads"):
        check_apart(place("gs://bucket/a"), [place("gs://bucket/a")], may_equal=True)


def test_a_link_into_the_output_is_followed(tmp_path):
    (tmp_path / "out" / "model").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "out" / "model")
    with pytest.raises(UserError, match="link, which would be removed"):
        check_apart(tmp_path / "out", [tmp_path / "link"])


def test_an_export_over_the_folder_of_its_model_leaves_the_model(model, tmp_path):
    shutil.copytree(model, tmp_path / "model")
    (tmp_path / "model_index.json").write_text("{}")  # by which the folder counts as an older export
    before = contents(tmp_path)
    with pytest.raises(UserError, match=r"holds .*model, which would be removed"):
        export_model(tmp_path / "model", tmp_path, overwrite=True)
    assert contents(tmp_path) == before


def test_an_import_over_the_folder_of_its_source_leaves_the_source(model, tmp_path):
    shutil.copytree(model, tmp_path / "old")
    shutil.copytree(model.with_name("released") / "vae", tmp_path / "old" / "vae")
    before = contents(tmp_path)
    planned = Import(tmp_path / "old" / "vae")
    with pytest.raises(UserError, match=r"holds .*vae, which would be removed"):
        planned.write(tmp_path / "old", overwrite=True)
    released = model.with_name("released")
    planned = Import(released / "transformer", autoencoder=tmp_path / "old" / "vae", tokenizer=released / "tokenizer")
    with pytest.raises(UserError, match=r"holds .*vae/diffusion_pytorch_model.safetensors"):
        planned.write(tmp_path / "old", overwrite=True)
    assert contents(tmp_path) == before


def test_a_merge_over_the_folder_of_its_model_leaves_it_and_onto_the_model_itself_replaces_it(model, tmp_path):
    shutil.copytree(model, tmp_path / "old")
    shutil.copytree(model, tmp_path / "old" / "inner")
    before = contents(tmp_path)
    with pytest.raises(UserError, match=r"holds .*inner, which would be removed"):
        merge_lora(tmp_path / "old" / "inner", [], tmp_path / "old", overwrite=True)
    assert contents(tmp_path) == before
    merge_lora(tmp_path / "old", [], tmp_path / "old", overwrite=True)
    assert load_config(tmp_path / "old") == load_config(model)


def test_a_merge_onto_a_model_in_a_bucket_is_refused_before_it_is_read():
    with pytest.raises(UserError, match="^gs://bucket/m: is what the command reads"):
        merge_lora(place("gs://bucket/m"), [], place("gs://bucket/m"), overwrite=True)


@pytest.mark.parametrize("stored", [np.float32, ml_dtypes.bfloat16])
def test_numbers_too_large_for_the_dtype_are_named_before_anything_is_replaced(model, tmp_path, stored):
    source = shutil.copytree(model.with_name("released"), tmp_path / "source")
    file = source / "vae" / "diffusion_pytorch_model.safetensors"
    tensors = {key: tensor.astype(stored) for key, tensor in load_file(file).items()}
    tensors[BIAS][:2] = [1e5, np.inf]  # the second was infinite before
    save_file(tensors, file)
    large = Import(source).write(tmp_path / "large")
    before = contents(export_model(model, tmp_path / "out", dtype="float16"))
    with pytest.raises(UserError, match=f"large: has numbers too large for --dtype=float16 in {BIAS}; choose another"):
        export_model(large, tmp_path / "out", dtype="float16", overwrite=True)
    assert contents(tmp_path / "out") == before
    export_model(large, tmp_path / "out", dtype="bfloat16", overwrite=True)
