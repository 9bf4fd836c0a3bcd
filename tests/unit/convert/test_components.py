"""An import of some components is a model folder that lists its networks, and those networks work."""

import json
import logging
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from dualdiff_jax import DualDiffusionPipeline, UserError
from dualdiff_jax.config.published import D_DIT_2B
from dualdiff_jax.convert.importer import Import
from dualdiff_jax.training.initial_weights import check_init_from
from dualdiff_jax.weights import load_config, load_networks
from tests import checkpoints
from tests.checkpoints import CONFIG
from tests.small_run import small_run

INNER_T5 = "text_encoders.t5xxl.transformer."


def latents(pipe: DualDiffusionPipeline) -> np.ndarray:
    return np.zeros((1, 8, 8, pipe.config.autoencoder.channels), np.float32)


def text_embeddings(pipe: DualDiffusionPipeline) -> np.ndarray:
    return np.zeros((1, 3, pipe.config.t5.width), np.float32)


CALLS = {
    "t5": lambda pipe: pipe.encode_text(np.zeros((1, 3), np.int32)),
    "mmdit": lambda pipe: pipe.denoise(latents(pipe), np.zeros(1), text_embeddings(pipe)),
    "autoencoder": lambda pipe: pipe.decode_latents(latents(pipe)),
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Network -> a model folder with that network alone."""
    root = tmp_path_factory.mktemp("components")
    checkpoints.write_d_dit(root / "d_dit", 0)
    return {network: Import(root / "d_dit", components=[network]).write(root / network) for network in CALLS}


@pytest.mark.parametrize("network", CALLS)
def test_a_present_network_works_and_a_call_of_an_absent_one_names_it(folders, network):
    pipe = DualDiffusionPipeline.from_pretrained(folders[network], dtype="float32")
    CALLS[network](pipe)
    for absent in CALLS.keys() - {network}:
        with pytest.raises(UserError, match=f"holds no {absent}; import it again"):
            CALLS[absent](pipe)
    with pytest.raises(UserError, match="this model holds no"):
        pipe.text_to_image(["a handwritten three"], height=16, width=16)


def test_an_absent_network_keeps_only_the_sizes_that_the_others_share(folders):
    written = {network: json.loads((folder / "model.json").read_text()) for network, folder in folders.items()}
    sections = {network: {name: written[network]["config"][name] for name in CALLS} for network in CALLS}
    assert {network: one["networks"] for network, one in written.items()} == {network: [network] for network in CALLS}
    vocabulary = {"vocab_size": checkpoints.VOCABULARY}
    assert sections["t5"] | {"t5": None} == {"mmdit": vocabulary, "t5": None, "autoencoder": {}}
    assert sections["autoencoder"] | {"autoencoder": None} == {"mmdit": vocabulary, "t5": {}, "autoencoder": None}
    assert sections["mmdit"]["t5"] == {"width": CONFIG.t5.width}
    assert sections["mmdit"]["autoencoder"] == {"kind": "kl", "channels": CONFIG.autoencoder.channels}


def test_other_sizes_of_an_absent_network_are_the_published_ones(folders):
    config = load_config(folders["mmdit"])
    assert load_networks(folders["mmdit"]) == ("mmdit",)
    assert config.mmdit == CONFIG.mmdit and config.t5.width == CONFIG.t5.width
    assert config.t5.depth == D_DIT_2B["t5"]["depth"]


def test_training_needs_a_complete_model(folders, tmp_path):
    config, tokenizer = small_run(tmp_path)
    object.__setattr__(config, "init_from", str(folders["mmdit"]))
    with pytest.raises(UserError, match="holds no t5 and no autoencoder; training needs a complete model"):
        check_init_from(config, tokenizer)


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> Path:
    """SD3's original file without and with T5, and T5 alone."""
    root = tmp_path_factory.mktemp("files")
    tensors, t5 = checkpoints.original_file(0), checkpoints.t5_tensors(checkpoints.random_networks(0)["t5"])
    save_file(tensors, root / "sd3.safetensors")
    save_file(tensors | {f"{INNER_T5}{key}": tensor for key, tensor in t5.items()}, root / "sd3_t5.safetensors")
    save_file(t5, root / "t5.safetensors")
    checkpoints.tokenizer(root / "words")
    checkpoints.write_d_dit(root / "d_dit", 0)
    return root


@pytest.mark.parametrize(
    ("source", "options"),
    [
        ("sd3.safetensors", {"t5": "t5.safetensors"}),
        ("sd3_t5.safetensors", {"t5": "t5.safetensors"}),
        ("sd3.safetensors", {"t5": "sd3_t5.safetensors"}),
        ("sd3_t5.safetensors", {"autoencoder": "sd3.safetensors"}),
        ("d_dit", {"autoencoder": "sd3.safetensors"}),
    ],
)
def test_a_network_replaces_another_where_a_file_holds_several(files, source, options):
    given = {flag: files / name for flag, name in options.items()}
    planned = Import(files / source, tokenizer=files / "words", **given)
    assert set(planned.networks) == set(CALLS)
    for network, file in given.items():
        assert planned.checkpoint.components[network].tensors.path == file


def test_a_key_of_no_network_is_unknown_where_another_network_is_replaced(files, tmp_path):
    save_file(load_file(files / "sd3_t5.safetensors") | {"x.y": np.zeros(1, np.float32)}, tmp_path / "a.safetensors")
    with pytest.raises(UserError, match="the weights have a fault:\n.*x.y: found an unknown name"):
        Import(tmp_path / "a.safetensors", tokenizer=files / "words", t5=files / "t5.safetensors")


@pytest.mark.parametrize("flag", ["t5", "autoencoder"])
def test_a_file_for_a_network_that_is_not_imported_is_named(files, flag):
    with pytest.raises(UserError, match=rf"sd3_t5.safetensors: --components leaves {flag} out; .* leave --{flag} out"):
        Import(files / "sd3.safetensors", components=["mmdit"], **{flag: files / "sd3_t5.safetensors"})


@pytest.mark.parametrize("dtype", [np.int64, np.bool_])
def test_a_mask_embedding_of_other_than_floating_point_numbers_is_refused(files, tmp_path, dtype):
    save_file({"row": np.ones(CONFIG.t5.width, dtype)}, tmp_path / "row.safetensors")
    with pytest.raises(UserError, match=f"row.safetensors: holds a vector of dtype {np.dtype(dtype)}; expected float"):
        Import(files / "d_dit", mask_embedding=tmp_path / "row.safetensors")


def test_a_mask_embedding_with_a_number_too_large_is_refused(files, tmp_path):
    save_file({"row": np.full(CONFIG.t5.width, 1e39)}, tmp_path / "row.safetensors")
    with pytest.raises(UserError, match="row.safetensors: holds numbers too large for float32; copy the file again"):
        Import(files / "d_dit", mask_embedding=tmp_path / "row.safetensors")


def test_a_mask_embedding_that_is_not_finite_is_logged(files, tmp_path, caplog):
    save_file({"row": np.full(CONFIG.t5.width, np.nan, np.float32)}, tmp_path / "row.safetensors")
    with caplog.at_level(logging.WARNING):
        Import(files / "d_dit", mask_embedding=tmp_path / "row.safetensors")
    assert "row.safetensors: holds numbers that are not finite" in caplog.text
