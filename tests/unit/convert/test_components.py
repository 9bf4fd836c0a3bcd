"""An import of some components is a model folder that lists its networks, and those networks work."""

import json

import numpy as np
import pytest

from dualdiff_jax import DualDiffusionPipeline, UserError
from dualdiff_jax.config.published import D_DIT_2B
from dualdiff_jax.convert.importer import Import
from dualdiff_jax.training.initial_weights import check_init_from
from dualdiff_jax.weights import load_config, load_networks
from tests import checkpoints
from tests.checkpoints import CONFIG
from tests.small_run import small_run


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
