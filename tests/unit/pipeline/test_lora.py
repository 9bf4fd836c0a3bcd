"""LoRAs on a loaded model: added, several at once, taken away to the bit."""

import shutil

import jax
import numpy as np
import pytest

from demo.data import write_tokenizer
from dualdiff_jax import DualDiffusionPipeline, UserError
from dualdiff_jax.config import MeshConfig
from dualdiff_jax.convert.lora_merge import merge_lora
from dualdiff_jax.data.tokenizer import Tokenizer
from dualdiff_jax.models.separated import separated_weights, stacked_weights
from dualdiff_jax.sharding import make_mesh
from dualdiff_jax.weights import load_model, save_model
from tests.unit.convert.loras import draw, write
from tests.unit.pipeline.test_pipeline import config as sized
from tests.unit.tiny import random_weights


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A tokenizer, and two LoRAs of all but the text head, one of the image stream's queries, keys and values."""
    folder = tmp_path_factory.mktemp("loras")
    write_tokenizer(folder / "words")
    terms = [term for term in draw() if term.rule.key != "text_proj_out"]
    write(folder / "all.safetensors", terms)
    some = [term for term in draw("kohya", seed=1) if term.rule.key.endswith("0.x_block.attn.qkv")]
    write(folder / "some.safetensors", some, "kohya")
    return folder


def pipeline(folder, is_separated: bool = True) -> DualDiffusionPipeline:
    tokenizer = Tokenizer(folder / "words")
    config = sized(tokenizer.vocab_size)
    weights = random_weights(config)
    return DualDiffusionPipeline(config, separated_weights(config, weights) if is_separated else weights, tokenizer)


@pytest.fixture(scope="module")
def loaded(folder) -> DualDiffusionPipeline:
    """A pipeline with one LoRA, named ``here``."""
    pipe = pipeline(folder)
    pipe.load_lora(folder / "some.safetensors", name="here")
    return pipe


def stacked(pipe: DualDiffusionPipeline) -> dict[str, np.ndarray]:
    return {name: np.asarray(leaf) for name, leaf in stacked_weights(pipe.config, pipe.weights).items()}


def assert_same(found, expected, **tolerance) -> None:
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, err_msg=name, **({"rtol": 0, "atol": 0} | tolerance))


def test_a_lora_is_named_after_its_folder_or_its_file(folder, tmp_path):
    pipe = pipeline(folder)
    for name in ("style.v1", "style.v2"):
        (tmp_path / name).mkdir()
        shutil.copy(folder / "some.safetensors", tmp_path / name / "pytorch_lora_weights.safetensors")
        assert pipe.load_lora(tmp_path / name) == name
    assert pipe.load_lora(folder / "some.safetensors") == "some"
    pipe.unload_lora("style.v1")
    assert list(pipe.loras) == ["style.v2", "some"]


@pytest.mark.parametrize("is_separated", [True, False])
def test_loras_add_up_and_are_taken_away_to_the_bit(folder, is_separated):
    pipe = pipeline(folder, is_separated)
    before = stacked(pipe)
    assert pipe.load_lora(folder / "all.safetensors", 0.5) == "all"
    one = stacked(pipe)
    assert pipe.load_lora(str(folder / "some.safetensors"), -2, name="b") == "b"
    assert pipe.loras == {"all": 0.5, "b": -2.0}
    both = stacked(pipe)
    pipe.unload_lora("all")
    other = stacked(pipe)
    sums = {name: one[name].astype(np.float64) + other[name] - before[name] for name in before}
    assert_same(both, sums, rtol=1e-5, atol=1e-5)
    qkv = "mmdit.blocks.image.qkv.kernel"
    assert [name for name in before if not np.array_equal(before[name], other[name])] == [qkv]
    assert np.array_equal(before[qkv][1], other[qkv][1]) and not np.array_equal(before[qkv][0], other[qkv][0])
    pipe.unload_lora()
    assert pipe.loras == {}
    assert_same(stacked(pipe), before)


def test_both_forms_of_weights_and_the_merged_folder_agree(folder, tmp_path):
    pipe, other = pipeline(folder), pipeline(folder, is_separated=False)
    save_model(tmp_path / "model", other.config, other.weights, other.tokenizer)
    for each in (pipe, other):
        each.load_lora(folder / "all.safetensors", 0.5)
        each.load_lora(folder / "some.safetensors", 0.25)
    assert_same(stacked(pipe), stacked(other), rtol=1e-6, atol=1e-6)
    loras = list(pipe._loras.values())
    merge_lora(tmp_path / "model", loras, tmp_path / "merged")
    _, merged, _ = load_model(tmp_path / "merged", make_mesh(MeshConfig(), jax.devices()[:1]))
    assert_same({name: np.asarray(leaf) for name, leaf in merged.items()}, stacked(pipe), rtol=1e-6, atol=1e-6)


def test_a_scale_of_0_changes_nothing_and_another_changes_what_is_drawn(folder):
    pipe = pipeline(folder)
    plain = pipe.text_to_image("a handwritten three", output="latents", steps=1)
    pipe.load_lora(folder / "all.safetensors", 0)
    np.testing.assert_array_equal(pipe.text_to_image("a handwritten three", output="latents", steps=1), plain)
    pipe.unload_lora("all")
    pipe.load_lora(folder / "all.safetensors")
    assert not np.allclose(pipe.text_to_image("a handwritten three", output="latents", steps=1), plain)
    pipe.unload_lora("all")
    np.testing.assert_array_equal(pipe.text_to_image("a handwritten three", output="latents", steps=1), plain)


@pytest.mark.parametrize(
    ("call", "told"),
    [
        (lambda pipe, file: pipe.load_lora(file, float("nan")), "scale is nan; give a finite number"),
        (lambda pipe, file: pipe.load_lora(file, "1"), "scale is '1'; give a finite number"),
        (lambda pipe, file: pipe.load_lora(file, name=""), "name is ''; give a text"),
        (lambda pipe, file: pipe.load_lora(file, name="here"), "a LoRA is loaded as 'here' already"),
        (lambda pipe, file: pipe.load_lora(3), "path is 3; give the path"),
        (lambda pipe, file: pipe.unload_lora("gone"), "no LoRA is loaded as 'gone'; loaded are 'here'"),
    ],
)
def test_a_wrong_argument_leaves_everything_as_it_was(folder, loaded, call, told):
    pipe = loaded
    before = pipe.weights
    with pytest.raises(UserError, match=told):
        call(pipe, folder / "all.safetensors")
    assert pipe.weights is before and pipe.loras == {"here": 1.0}


def test_a_model_without_an_mmdit_takes_no_lora(folder):
    pipe = pipeline(folder)
    pipe.weights = {name: leaf for name, leaf in pipe.weights.items() if name.startswith("t5.")}
    with pytest.raises(UserError, match="this model holds no mmdit"):
        pipe.load_lora(folder / "some.safetensors")
