"""A model folder gives back what was saved, or says what is wrong with it."""

import dataclasses
import json
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from demo.data import write_tokenizer
from dualdiff_jax import stored_arrays
from dualdiff_jax import weights as module
from dualdiff_jax.config import MeshConfig, ModelConfig
from dualdiff_jax.config.published import D_DIT_2B
from dualdiff_jax.config.resolve import resolve, to_dict
from dualdiff_jax.data.tokenizer import Tokenizer
from dualdiff_jax.errors import UserError
from dualdiff_jax.models.bundle import weight_shardings
from dualdiff_jax.sharding import make_mesh
from dualdiff_jax.stored_arrays import read_leaves, save_arrays, stored_leaves
from dualdiff_jax.weights import (
    is_model_folder,
    load_config,
    load_model,
    load_networks,
    new_model_folder,
    save_model,
    with_dtype,
)
from tests.unit.tiny import CONFIG as TINY
from tests.unit.tiny import random_weights

MESH = make_mesh(MeshConfig(), jax.devices()[:1])


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory) -> Tokenizer:
    folder = tmp_path_factory.mktemp("tokenizer")
    write_tokenizer(folder)
    return Tokenizer(folder)


@pytest.fixture(scope="module")
def config(tokenizer) -> ModelConfig:
    sizes = to_dict(TINY)
    sizes["mmdit"]["vocab_size"], sizes["t5"]["vocab_size"] = tokenizer.vocab_size, tokenizer.vocab_size + 1
    return resolve(sizes, ModelConfig)


@pytest.fixture(scope="module")
def written(config, tokenizer, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("written") / "model"
    save_model(folder, config, random_weights(config), tokenizer)
    return folder


@pytest.fixture
def folder(written, tmp_path) -> Path:
    return shutil.copytree(written, tmp_path / "model")


def edit(folder: Path, **fields: object) -> None:
    """Changes fields of model.json; None takes one out."""
    file = folder / "model.json"
    description = json.loads(file.read_text(encoding="utf-8")) | fields
    file.write_text(json.dumps({name: value for name, value in description.items() if value is not None}))


def test_what_was_saved_comes_back_on_its_shardings(written, config, tokenizer):
    found, weights, tokens = load_model(written, MESH)
    expected = random_weights(config)
    assert found == config and tokens.fingerprint() == tokenizer.fingerprint()
    assert weights.keys() == expected.keys()
    shardings = weight_shardings(config, MESH)
    for name, value in weights.items():
        np.testing.assert_array_equal(value, expected[name], err_msg=name)
        assert value.dtype == expected[name].dtype and value.sharding == shardings[name], name


def test_a_place_that_can_hold_no_arrays_is_refused_before_anything_is_written(config, tokenizer):
    with (
        pytest.raises(UserError, match="s3://bucket/model: Orbax writes and reads arrays on disks and in gs://"),
        new_model_folder("s3://bucket/model", config, tokenizer),
    ):
        pytest.fail("a folder was made")


def test_the_description_is_format_version_networks_and_config(written, config):
    description = json.loads((written / "model.json").read_text(encoding="utf-8"))
    assert description["format"] == "dualdiff_jax model" and description["version"] == 1
    assert description["networks"] == ["mmdit", "t5", "autoencoder"] and description["config"] == json.loads(
        json.dumps(to_dict(config))
    )
    assert (written / "model.json").read_text(encoding="utf-8").startswith('{\n  "format"')


def test_a_dtype_changes_the_weights_and_what_the_model_computes_in(written, config):
    found, weights, _ = load_model(written, MESH, "bfloat16")
    assert found == dataclasses.replace(config, compute_dtype="bfloat16") != config
    assert {value.dtype for value in weights.values()} == {jnp.dtype("bfloat16")}
    assert with_dtype(config, None) == config
    with pytest.raises(UserError, match="dtype is 'float16'; give 'float32' or 'bfloat16'"):
        with_dtype(config, "float16")


def test_one_leaf_and_the_list_of_all_are_read_alone(written, config):
    leaves = stored_leaves(written / "weights")
    expected = random_weights(config)
    assert {name: (leaf.shape, leaf.dtype) for name, leaf in leaves.items()} == {
        name: (value.shape, value.dtype) for name, value in expected.items()
    }
    names = ("t5.embedding", "mmdit.blocks.image.qkv.kernel")
    found = read_leaves(written / "weights", {name: leaves[name] for name in names})
    assert found.keys() == set(names)
    for name, value in found.items():
        assert isinstance(value, np.ndarray)
        np.testing.assert_array_equal(value, expected[name])


@pytest.mark.parametrize(
    ("networks", "gone"), [(("mmdit",), ("t5", "autoencoder")), (("t5",), ("mmdit", "autoencoder"))]
)
def test_the_fields_of_an_absent_network_that_the_others_need_are_kept(config, tokenizer, tmp_path, networks, gone):
    leaves = {n: value for n, value in random_weights(config).items() if n.split(".")[0] in networks}
    with new_model_folder(tmp_path / "part", config, tokenizer, networks) as partial:
        save_arrays(partial / "weights", leaves)
    assert load_networks(tmp_path / "part") == networks
    description = json.loads((tmp_path / "part" / "model.json").read_text(encoding="utf-8"))["config"]
    kept = {network: set(description[network]) for network in gone}
    if "mmdit" in networks:
        assert kept == {"t5": {"width"}, "autoencoder": {"kind", "channels"}}
    else:
        assert kept == {"mmdit": {"vocab_size"}, "autoencoder": set()}
    found = load_config(tmp_path / "part")
    for network in gone:
        for field, value in D_DIT_2B[network].items():
            known = kept[network]
            expected = getattr(getattr(config, network), field) if field in known else value
            assert getattr(getattr(found, network), field) == expected, (network, field)
    assert load_model(tmp_path / "part", MESH)[1].keys() == leaves.keys()


def test_an_older_folder_that_names_no_networks_has_all(folder):
    edit(folder, networks=None)
    assert load_networks(folder) == ("mmdit", "t5", "autoencoder")
    assert is_model_folder(folder) and not is_model_folder(folder / "weights")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"format": "another"}, "format: found .another., expected .dualdiff_jax model."),
        ({"format": 3}, "format: found 3, expected"),
        ({"version": 2}, "has format version 2, this program reads 1"),
        ({"version": None}, "model.json: lacks 'version'.*; copy the model folder again"),
        ({"config": 3}, "config: found 3, expected an object"),
        ({"config": {"mmdit": 3}}, "mmdit: found 3|mmdit: expected a section"),
        ({"networks": ["clip"]}, "networks: found 'clip'"),
        ({"pad_token": 3}, "pad_token: found 3, expected a text"),
        ({"networks": 3}, "networks: found 3, expected a list"),
        ({"config": {"mmdit": {"wdith": 3}}}, "config in .*model.json"),
    ],
)
def test_a_description_that_cannot_be_used_is_refused(folder, fields, message):
    edit(folder, **fields)
    with pytest.raises(UserError, match=message):
        load_model(folder, MESH)


def test_a_folder_that_is_none_or_incomplete_is_named(folder, tmp_path):
    with pytest.raises(UserError, match="nothing: .*no model folder"):
        load_config(tmp_path / "nothing")
    (tmp_path / "model_index.json").write_text("{}")
    with pytest.raises(UserError, match="no model folder.*; convert it with python -m convert import"):
        load_config(tmp_path)
    (folder / "model.json").write_text("{")
    with pytest.raises(UserError, match="model.json: is no JSON"):
        load_config(folder)
    shutil.rmtree(folder / "weights")
    with pytest.raises(UserError, match="weights: is missing; the model folder is incomplete"):
        stored_leaves(folder / "weights")
    (folder / "weights").mkdir()
    with pytest.raises(UserError, match="weights: cannot be read .*; copy the model folder again"):
        stored_leaves(folder / "weights")


@pytest.mark.parametrize(
    ("removed", "added"),
    [
        (["mmdit.text_out.bias"], []),
        ([], ["t5.stray"]),
        (["mmdit.text_out.bias", "t5.norm.scale"], ["mmdit.stray", "t5.stray"]),
    ],
)
def test_every_missing_and_every_additional_leaf_is_named(config, tokenizer, tmp_path, removed, added):
    leaves = dict(random_weights(config)) | {name: np.zeros(3, np.float32) for name in added}
    for name in removed:
        del leaves[name]
    save_model(tmp_path / "model", config, leaves, tokenizer)
    with pytest.raises(UserError, match="weights: does not fit model.json") as error:
        load_model(tmp_path / "model", MESH)
    assert [line.strip() for line in str(error.value).splitlines()[1:]] == [
        *(f"{name}: is missing" for name in removed),
        *(f"{name}: has no place in this model" for name in added),
    ]


def test_an_array_of_another_shape_is_named(config, tokenizer, tmp_path):
    leaves = random_weights(config)
    name, (rows, width) = "t5.embedding", leaves["t5.embedding"].shape
    save_model(tmp_path / "model", config, leaves | {name: leaves[name][1:]}, tokenizer)
    fault = rf"does not fit model.json:\n  {name}: has shape \({rows - 1}, {width}\), expected \({rows}, {width}\)$"
    with pytest.raises(UserError, match=fault):
        load_model(tmp_path / "model", MESH)


def test_a_tokenizer_of_another_size_is_refused(config, tokenizer, tmp_path):
    sizes = to_dict(config)
    sizes["mmdit"]["vocab_size"] -= 1
    other = resolve(sizes, ModelConfig)
    save_model(tmp_path / "model", other, random_weights(other), tokenizer)
    with pytest.raises(UserError, match=f"has {tokenizer.vocab_size} tokens and its model scores"):
        load_model(tmp_path / "model", MESH)


def test_arrays_that_are_cut_off_are_refused(folder):
    for file in (folder / "weights").glob("**/d/*"):
        file.write_bytes(file.read_bytes()[:10])
    with pytest.raises(UserError, match="weights: cannot be read .*; copy the model folder again"):
        load_model(folder, MESH)


def test_only_the_first_process_describes_the_model(config, tokenizer, tmp_path, monkeypatch):
    monkeypatch.setattr(module.jax, "process_index", lambda: 1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "new_folder", lambda folder, mark: _given(Path(folder)))
        with new_model_folder(tmp_path / "model", config, tokenizer) as partial:
            assert partial == tmp_path / "model"
    assert not (tmp_path / "model").exists()


class _given:
    def __init__(self, folder: Path):
        self.folder = folder

    def __enter__(self) -> Path:
        return self.folder

    def __exit__(self, *error: object) -> None:
        pass


@pytest.mark.parametrize(("count", "gigabytes"), [(1, 2), (250_000_000, 3), (300_000_000, 4)])
def test_a_read_may_hold_twice_its_largest_array_and_a_gigabyte(tmp_path, monkeypatch, count, gigabytes):
    asked = []

    def note(restore_concurrent_gb: int) -> None:
        asked.append(restore_concurrent_gb)
        raise RuntimeError

    monkeypatch.setattr(stored_arrays.ocp, "PyTreeCheckpointHandler", note)
    item = {
        "large": jax.ShapeDtypeStruct((count // 2, 2), jnp.float32)
        if count > 1
        else jax.ShapeDtypeStruct((1,), "int8"),
        "small": jax.ShapeDtypeStruct((1,), jnp.int8),
    }
    with pytest.raises(RuntimeError):
        stored_arrays._restore(tmp_path, item, {})
    assert asked == [gigabytes]
