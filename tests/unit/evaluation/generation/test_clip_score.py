"""CLIP score with a small CLIP of random weights."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from dualdiff_jax.errors import UserError
from dualdiff_jax.evaluation.generation import clip_score
from dualdiff_jax.evaluation.generation.clip_score import ClipScore

PROMPTS = ["a photo of a dog", "two dogs and a very long story about " + "dogs " * 40, "a photo of a dog"]
SIDE = 32


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPTokenizer

    folder = tmp_path_factory.mktemp("clip")
    letters = [f"{letter}{end}" for letter in "abcdefghijklmnopqrstuvwxyz" for end in ("", "</w>")]
    words = {word: number for number, word in enumerate([*letters, "<|startoftext|>", "<|endoftext|>"])}
    (folder / "vocab.json").write_text(json.dumps(words))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    CLIPTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt")).save_pretrained(folder)
    CLIPImageProcessor(size={"shortest_edge": SIDE}, crop_size={"height": SIDE, "width": SIDE}).save_pretrained(folder)
    small = dict(hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2)
    torch.manual_seed(0)
    config = CLIPConfig(
        text_config=small | dict(vocab_size=len(words), max_position_embeddings=20, eos_token_id=len(words) - 1),
        vision_config=small | dict(image_size=SIDE, patch_size=8),
        projection_dim=8,
    )
    CLIPModel(config).save_pretrained(folder)
    return folder


@pytest.fixture
def images(tmp_path):
    rng = np.random.default_rng(0)
    (tmp_path / "task").mkdir()
    rows = []
    for number, prompt in enumerate(PROMPTS):
        pixels = rng.integers(0, 256, (40, 50, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"task/{number}.png")
        rows.append({"image": f"{number}.png", "prompt": prompt, "seed": number})
    (tmp_path / "task.images.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n")
    return tmp_path / "task"


@pytest.mark.slow  # transformers' CLIP takes long to import
def test_scores_are_a_hundred_cosines(clip, images):
    from transformers import CLIPModel, CLIPProcessor

    found = ClipScore(images, clip).scores()
    model, processor = CLIPModel.from_pretrained(clip).eval(), CLIPProcessor.from_pretrained(clip)
    assert [*found] == ["0.png", "1.png", "2.png"]
    for number, prompt in enumerate(PROMPTS):  # one by one, through their processor
        with torch.no_grad(), Image.open(images / f"{number}.png") as image:
            given = processor(text=[prompt], images=image, return_tensors="pt", truncation=True, max_length=20)
            output = model(**given)
        expected = 100 * output.logits_per_image.item() / model.logit_scale.exp().item()
        assert found[f"{number}.png"] == pytest.approx(expected, abs=1e-3)
    assert len({round(score, 3) for score in found.values()}) == 3


@pytest.mark.slow
def test_a_folder_without_clip_is_refused(clip, images, tmp_path):
    for name in ("config.json", "preprocessor_config.json"):
        (tmp_path / name).write_bytes((clip / name).read_bytes())
    with pytest.raises(UserError, match="holds no CLIP that transformers can load"):
        ClipScore(images, tmp_path).scores()


def test_what_is_missing_is_named_first(images, tmp_path, monkeypatch):
    with pytest.raises(UserError, match="lacks config.json, preprocessor_config.json; give a folder of CLIP"):
        ClipScore(images, tmp_path)
    for name in clip_score.FILES:
        (tmp_path / name).write_text("{}")
    with pytest.raises(UserError, match="other.images.jsonl: is missing; it says what the images"):
        ClipScore(tmp_path / "other", tmp_path)
    (images / "1.png").unlink()
    with pytest.raises(UserError, match="1 of 3 images cannot be read"):
        ClipScore(images, tmp_path)
    monkeypatch.setattr(clip_score.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="needs torch; pip install -r requirements-evaluation.txt"):
        ClipScore(images, tmp_path)
