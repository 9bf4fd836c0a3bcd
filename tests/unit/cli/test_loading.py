"""What a command cannot use is refused before the weights of its model are read."""

import json

import numpy as np
import pytest
from PIL import Image

from dualdiff_jax.cli import edit, given_texts, joint, loading, sample
from dualdiff_jax.errors import UserError
from dualdiff_jax.weights import save_model
from tests.checkpoints import write_d_dit
from tests.unit.pipeline.shallow import shallow_pipeline

GIVEN = dict(dtype=None, seed=0, as_json=True, overwrite=False)
PROMPTS, QUESTION = ["a handwritten three"], ["which digit is this?"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """``model/``, ``a.png`` and ``broken.png``."""
    folder = tmp_path_factory.mktemp("loading")
    pipe = shallow_pipeline(tmp_path_factory.mktemp("tokenizer"))
    save_model(folder / "model", pipe.config, pipe.weights, pipe.tokenizer)
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (6, 4, 3), np.uint8)).save(folder / "a.png")
    whole = (folder / "a.png").read_bytes()
    (folder / "broken.png").write_bytes(whole[: len(whole) // 2])
    return folder


@pytest.fixture
def calls(folder, tmp_path):
    """Each command by name, as a function of its options."""
    model, image, out = str(folder / "model"), str(folder / "a.png"), str(tmp_path / "out")
    images, of_edit = [image], dict(strength=None)
    return {
        "generate": lambda **o: sample.generate(model, PROMPTS, out, **GIVEN | o),
        "edit": lambda **o: edit.edit(model, images, out, PROMPTS, **GIVEN | of_edit | o),
        "inpaint": lambda **o: edit.inpaint(model, images, out, PROMPTS, **GIVEN | of_edit | dict(masks=images) | o),
        "variations": lambda **o: edit.variations(model, images, out, **GIVEN | of_edit | dict(count=1) | o),
        "caption": lambda **o: sample.caption(model, o.pop("images", images), None, **GIVEN | o),
        "answer": lambda **o: sample.answer(model, images, o.pop("questions", QUESTION), None, **GIVEN | o),
        "infill": lambda **o: given_texts.infill(model, images, ["the digit _"], None, **GIVEN | o),
        "score": lambda **o: given_texts.score(model, images, PROMPTS, o.pop("questions", []), None, **GIVEN | o),
        "joint": lambda **o: joint.joint(model, out, o.pop("prompt", ""), 1, **GIVEN | o),
    }


@pytest.mark.parametrize(
    ("mode", "options", "message"),
    [
        ("generate", dict(sigma_shift=float("nan")), "sigma_shift: is not a number; give one from 0.001 to 1000"),
        ("joint", dict(sigma_shift=float("inf")), "sigma_shift: inf is above 1000"),
        ("generate", dict(height=7, width=8), "height x width is 7 x 8 pixels, which this model cannot make"),
        ("caption", dict(height=3), "which this model cannot make; give multiples of"),
        ("edit", dict(height=8), "one of height and width is given; give both"),
        ("inpaint", dict(width=8), "one of height and width is given; give both"),
        ("generate", dict(zero_init_steps=1, guidance_scale=4.0), "zero_init_steps is for guidance_rule cfg_zero_star"),
        (
            "generate",
            dict(steps=2, zero_init_steps=2, guidance_rule="cfg_zero_star", guidance_scale=4.0),
            "zero_init_steps is 2 of 2 steps",
        ),
        ("generate", dict(guidance_rule="cfg_zero_star", guidance_scale=1.0), "guidance_rule is given, but guidance_s"),
        ("edit", dict(guidance_interval=(0.2, 0.8), guidance_scale=0.5), "guidance_interval is given, but guidance_s"),
        ("generate", dict(zero_init_steps=1, guidance_scale=0.0), "zero_init_steps is given, but guidance_scale is 0"),
        (
            "generate",
            dict(negative_prompt="a three", guidance_scale=1.0),
            "negative_prompt is given, but there is no gui",
        ),
        ("edit", dict(negative_prompt="a three", guidance_scale=1.0), "negative_prompt is given, but there is no gui"),
        ("caption", dict(order="threshold", steps=3), "steps is for order ancestral, confidence, and order is thresh"),
        ("answer", dict(order="confidence", remask=0.1), "remask is for order ancestral, and order is confidence"),
        ("answer", dict(guidance_null="text"), "guidance_null is given without a guidance_scale above 1"),
        ("answer", dict(length=2), "leaves no room for an answer in 2"),
        ("answer", dict(questions=["\u4e2d?"]), "this model's tokenizer does not know"),
        ("caption", dict(early_stop=True, remask=0.1), "early_stop would change the texts of this call"),
        ("infill", dict(tokens_per_blank=[1, 2]), "tokens_per_blank has 2 entries for the 1 blanks"),
        ("infill", dict(tokens_per_blank=0), "tokens_per_blank is 0; give a whole number from 1"),
        ("infill", dict(length=3), "there is room for 2"),
        ("score", dict(samples=5), "samples is 5; give an even number"),
        ("score", dict(samples=2), "samples is 2; give a whole number from 4"),
        ("score", dict(length=2), "tokens too many for length 2"),
        ("joint", dict(prompt="a handwritten three", length=3), "leaves no room; shorten it"),
        ("variations", dict(height=8), "one of height and width is given; give both"),
    ],
)
def test_what_a_call_cannot_use_is_refused_before_the_weights_are_read(calls, mode, options, message, monkeypatch):
    monkeypatch.setattr(loading, "load", None)
    with pytest.raises(UserError, match=message):
        calls[mode](**options)


@pytest.mark.parametrize("mode", ["caption", "answer", "infill", "score", "edit", "variations", "inpaint"])
def test_the_last_of_many_images_is_read_before_the_weights_are(folder, tmp_path, mode, monkeypatch):
    monkeypatch.setattr(loading, "load", None)
    model, out, broken = str(folder / "model"), str(tmp_path), str(folder / "broken.png")
    images = [str(folder / "a.png"), broken]
    calls = {
        "caption": lambda: sample.caption(model, images, None, **GIVEN),
        "answer": lambda: sample.answer(model, images, QUESTION, None, **GIVEN),
        "infill": lambda: given_texts.infill(model, images, ["the digit _"], None, **GIVEN),
        "score": lambda: given_texts.score(model, images, PROMPTS, [], None, **GIVEN),
        "edit": lambda: edit.edit(model, images, out, PROMPTS, strength=None, **GIVEN),
        "variations": lambda: edit.variations(model, images, out, count=1, strength=None, **GIVEN),
        "inpaint": lambda: edit.inpaint(model, images[:1], out, PROMPTS, masks=[broken], strength=None, **GIVEN),
    }
    with pytest.raises(UserError, match="broken.png: is not an image that can be read"):
        calls[mode]()


def test_an_attention_that_does_not_run_here_is_refused_before_the_weights_are_read(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(loading, "load", None)
    found = json.loads((folder / "model" / "model.json").read_text())
    found["config"]["attention"] = "cudnn"
    model = tmp_path / "model"
    model.mkdir()
    (model / "model.json").write_text(json.dumps(found))
    (model / "tokenizer").symlink_to(folder / "model" / "tokenizer")
    with pytest.raises(UserError, match="model.attention 'cudnn' needs an NVIDIA GPU"):
        sample.generate(str(model), PROMPTS, str(tmp_path / "out"), **GIVEN)


@pytest.mark.parametrize(
    "mode", ["generate", "edit", "inpaint", "variations", "caption", "answer", "infill", "score", "joint"]
)
def test_what_a_call_can_use_is_rehearsed_without_computing(calls, mode, monkeypatch):
    asked = []

    def load(*given):
        asked.append(given)
        raise UserError("loaded")

    monkeypatch.setattr(loading, "load", load)
    with pytest.raises(UserError, match="^loaded$"):
        calls[mode]()
    assert len(asked) == 1


def test_a_call_of_a_diffusers_folder_is_rehearsed_too(tmp_path, monkeypatch):
    monkeypatch.setattr(loading, "load", None)
    write_d_dit(tmp_path / "d-dit", seed=0)
    with pytest.raises(UserError, match="height x width is 7 x 8 pixels, which this model cannot make"):
        sample.generate(str(tmp_path / "d-dit"), ["a"], str(tmp_path / "out"), **GIVEN, height=7, width=8)
