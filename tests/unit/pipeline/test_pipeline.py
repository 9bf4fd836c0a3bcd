"""The pipeline's options, on a model with random weights."""

import dataclasses
import itertools
import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

from demo.data import write_tokenizer
from dualdiff_jax import DualDiffusionPipeline, UserError
from dualdiff_jax.config import ModelConfig
from dualdiff_jax.config.resolve import resolve, to_dict
from dualdiff_jax.data.images import read_pixels
from dualdiff_jax.data.tokenizer import Tokenizer
from dualdiff_jax.sampling.flow_sampler import sigma_grid
from dualdiff_jax.weights import save_model
from tests import compiler
from tests.unit.tiny import CONFIG as TINY
from tests.unit.tiny import random_weights

ROOT = Path(__file__).parents[3]
SIDE = 4
LIMITS = dict(height=SIDE, width=SIDE, text_length=6, image_steps=3, caption_length=7, caption_steps=3)


def config(tokens: int) -> ModelConfig:
    sizes = to_dict(TINY)
    sizes["mmdit"]["vocab_size"], sizes["t5"]["vocab_size"] = tokens, tokens + 1
    sizes["sampling"] |= LIMITS | dict(answer_length=12, answer_steps=2, guidance_scale=2.0, batch_size=4)
    return resolve(sizes, ModelConfig)


@pytest.fixture(scope="module")
def pipe(tmp_path_factory) -> DualDiffusionPipeline:
    folder = tmp_path_factory.mktemp("tokenizer")
    write_tokenizer(folder)
    tokenizer = Tokenizer(folder)
    sizes = config(tokenizer.vocab_size)
    return DualDiffusionPipeline(sizes, random_weights(sizes), tokenizer)


@pytest.fixture(scope="module")
def pictures() -> list[np.ndarray]:
    return list(np.random.default_rng(0).integers(0, 256, (3, SIDE, SIDE, 3), np.uint8))


PROMPTS = ["a handwritten three", "a handwritten seven"]


def test_the_images_of_a_prompt_follow_each_other_and_differ(pipe):
    four = pipe.text_to_image(PROMPTS, images_per_prompt=2, output="latents", seed=3)
    repeated = pipe.text_to_image([p for p in PROMPTS for _ in range(2)], output="latents", seed=3)
    np.testing.assert_array_equal(four, repeated)
    assert four.shape == (4, SIDE, SIDE, 1)
    assert not np.allclose(four[0], four[1])


def test_sampling_begins_with_the_given_latents(pipe):
    noise = np.random.default_rng(1).standard_normal((2, SIDE, SIDE, 1)).astype(np.float32)
    found = pipe.text_to_image(PROMPTS, latents=noise, output="latents", seed=0)
    np.testing.assert_array_equal(found, pipe.text_to_image(PROMPTS, latents=noise, output="latents", seed=9))
    assert not np.allclose(found, pipe.text_to_image(PROMPTS, output="latents", seed=0))
    swapped = pipe.text_to_image(PROMPTS[::-1], latents=noise[::-1], output="latents")
    np.testing.assert_allclose(swapped[::-1], found, rtol=1e-5, atol=1e-6)


def test_all_forms_of_output_hold_the_same_images(pipe):
    latents = pipe.text_to_image(PROMPTS, output="latents")
    pixels = pipe.text_to_image(PROMPTS, output="numpy")
    np.testing.assert_allclose(pixels, np.clip(pipe.decode_latents(latents), -1, 1), atol=1e-6)
    images = pipe.text_to_image(PROMPTS)
    np.testing.assert_array_equal(np.stack(images), np.round((pixels + 1) * 127.5).astype(np.uint8))


def test_a_negative_prompt_takes_the_place_of_the_empty_one(pipe):
    plain = pipe.text_to_image(PROMPTS, output="latents")
    np.testing.assert_array_equal(plain, pipe.text_to_image(PROMPTS, "", output="latents"))
    assert not np.allclose(plain, pipe.text_to_image(PROMPTS, "a photo", output="latents"))
    with pytest.raises(UserError, match="negative_prompt is given, but there is no guidance"):
        pipe.text_to_image(PROMPTS, "a photo", guidance_scale=1.0)


def test_one_prompt_and_one_image_need_no_list(pipe, pictures):
    np.testing.assert_array_equal(pipe.text_to_image(PROMPTS[0])[0], pipe.text_to_image(PROMPTS[:1])[0])
    assert pipe.image_to_text(pictures[0]) == pipe.image_to_text(pictures[:1])
    assert pipe.answer(pictures[0], "which digit is this?") == pipe.answer(pictures[:1], ["which digit is this?"])


def test_a_wide_image_may_be_read_whole(pipe):
    wide = np.random.default_rng(2).integers(0, 256, (SIDE, 5 * SIDE, 3), np.uint8)
    middle = wide[:, 2 * SIDE : 3 * SIDE]
    call = dict(prompts=[[1]], length=7, steps=3, seed=1)
    cut, whole = (pipe.generate_text(wide, fit=fit, **call).token_ids for fit in ("crop", "letterbox"))
    np.testing.assert_array_equal(cut, pipe.generate_text(middle, **call).token_ids)
    boxed = read_pixels(Image.fromarray(wide), SIDE, SIDE, fit="letterbox")
    np.testing.assert_array_equal(whole, pipe.generate_text(boxed, **call).token_ids)
    assert not np.array_equal(boxed, middle)


def test_like_original_keeps_the_prompt_its_end_and_all_tokens(pipe, pictures):
    prompt, ends = "a handwritten", pipe.tokenizer.end_token_id
    texts = pipe.image_to_text(pictures, prompt=prompt, length=9, like_original=True)
    prefix = [*pipe.tokenizer.tokens(prompt), ends]
    sample = pipe.generate_text(pictures, [np.array(prefix)] * 3, length=9, steps=3)
    for text, row in zip(texts, sample.token_ids, strict=True):
        assert list(row[: len(prefix)]) == prefix
        assert text == pipe.tokenizer.decode_all(row) and text.startswith(prompt) and "</s>" not in text
    ours = pipe.image_to_text(pictures, prompt=prompt, length=9)
    assert not any(text.startswith(prompt) for text in ours)


def test_one_row_stands_for_any_number_of_rows(pipe, pictures):
    rng = np.random.default_rng(0)
    full = {
        "latents": rng.standard_normal((3, SIDE, SIDE, 1), np.float32),
        "timestep": np.array([3.0, 400.0, 900.0], np.float32),
        "text_embeddings": np.asarray(pipe.encode_text(np.arange(18).reshape(3, 6))),
    }
    for alone in itertools.chain(*(itertools.combinations(full, count) for count in range(1, 4))):
        rows = {name: array[:1] if name in alone else array for name, array in full.items()}
        count = 1 if len(alone) == 3 else 3
        repeated = {name: np.repeat(array, count, axis=0) if len(array) == 1 else array for name, array in rows.items()}
        found, expected = pipe.denoise(**rows), pipe.denoise(**repeated)
        np.testing.assert_array_equal(found.velocity, expected.velocity)
        np.testing.assert_array_equal(found.logits, expected.logits)
    found = pipe.denoise(None, full["timestep"], full["text_embeddings"][:1])
    assert found.logits.shape[0] == 3
    token_ids = np.full((3, 6), pipe.tokenizer.mask_token_id)
    found, expected = (pipe.subs_log_probs(full["latents"][:1].repeat(n, axis=0), token_ids) for n in (1, 3))
    np.testing.assert_array_equal(found, expected)
    with pytest.raises(UserError, match="different numbers of examples: 3 in latents, 2 in token_ids"):
        pipe.subs_log_probs(full["latents"], token_ids[:2])


def test_a_folder_of_other_files_is_not_replaced(pipe, tmp_path, monkeypatch):
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / "thesis.txt").write_text("mine")
    monkeypatch.chdir(tmp_path / "work")
    for folder in (".", tmp_path / "work", "../work/"):
        with pytest.raises(UserError, match="work: holds other files, which would be removed; name another folder"):
            pipe.save_pretrained(folder)
    for folder, message in (
        ("", "folder is ''; give"),
        (7, "folder is 7; give"),
        ("thesis.txt", "is a file; name a fo"),
    ):
        with pytest.raises(UserError, match=message):
            pipe.save_pretrained(folder)
    assert [file.read_text() for file in tmp_path.rglob("*") if file.is_file()] == ["mine"]
    for _ in range(2):
        pipe.save_pretrained("model")
    assert sorted(os.listdir()) == ["model", "thesis.txt"]


def test_subs_log_probs_are_a_distribution_at_masks_and_certain_elsewhere(pipe, pictures):
    mask = pipe.tokenizer.mask_token_id
    latents = pipe.encode_image(np.stack(pictures).astype(np.float32) / 127.5 - 1)
    token_ids = np.full((3, 6), mask)
    token_ids[:, 2] = 5
    probs = np.exp(pipe.subs_log_probs(latents, token_ids))
    np.testing.assert_allclose(probs.sum(-1), 1.0, rtol=1e-5)
    assert (probs[:, :, mask] == 0).all() and (probs[:, 2, 5] == 1).all()
    assert (probs[:, 0] > 0).sum() > 3 * 10


def test_a_list_of_negative_prompts_has_one_for_each(pipe):
    both = pipe.text_to_image(PROMPTS, ["a photo", "a digit"], output="latents", seed=2)
    for index, negative in enumerate(("a photo", "a digit")):
        alone = pipe.text_to_image(PROMPTS, negative, output="latents", seed=2)
        np.testing.assert_allclose(both[index], alone[index], rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(
        pipe.text_to_image(PROMPTS, ["a photo"] * 2, output="latents"),
        pipe.text_to_image(PROMPTS, "a photo", output="latents"),
    )


def test_an_image_with_a_seed_of_its_own_is_that_of_a_call_alone(pipe, pictures):
    seeds = [7, 2**40 + 7]
    both = pipe.text_to_image(PROMPTS, seed=seeds, images_per_prompt=2, output="latents")
    for index, (prompt, seed) in enumerate(zip(PROMPTS, seeds, strict=True)):
        alone = pipe.text_to_image(prompt, seed=seed, images_per_prompt=2, output="latents")
        rounding = 1e-5 * np.abs(alone).max()  # sums in batches of another size
        np.testing.assert_allclose(both[2 * index : 2 * index + 2], alone, rtol=0, atol=rounding)
    texts = pipe.image_to_text(pictures, seed=[1, 2, 3])
    assert texts == [
        pipe.image_to_text(picture, seed=seed)[0] for picture, seed in zip(pictures, (1, 2, 3), strict=True)
    ]


def test_every_bit_of_a_seed_counts(pipe):
    seeds = (156680208700286, 156680208700286 % 2**32, 2**64 - 1, 2**32)
    drawn = [pipe.text_to_image(PROMPTS[0], seed=seed, output="latents").tobytes() for seed in seeds]
    assert len(set(drawn)) == len(seeds)


def test_sigmas_of_the_grid_give_the_grids_images(pipe):
    levels = sigma_grid(3, pipe.config.sampling.sigma_shift)
    expected = pipe.text_to_image(PROMPTS, steps=3, output="latents")
    for given in (levels, levels[:-1], [float(level) for level in levels]):
        np.testing.assert_array_equal(pipe.text_to_image(PROMPTS, sigmas=given, output="latents"), expected)
    assert not np.allclose(pipe.text_to_image(PROMPTS, sigmas=[1.0, 0.9, 0.1], output="latents"), expected)


def test_embeddings_of_the_prompts_give_the_prompts_images(pipe):
    length = pipe.config.sampling.text_length
    expected = pipe.text_to_image(PROMPTS, "a photo", output="latents")
    given = pipe.encode_text(np.stack([pipe.tokenizer.caption_ids(prompt, length) for prompt in PROMPTS]))
    negative = np.asarray(pipe.encode_text(pipe.tokenizer.caption_ids("a photo", length)[None]))
    found = pipe.text_to_image(prompt_embeddings=given, negative_prompt_embeddings=negative, output="latents")
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_max_sequence_length_is_that_of_a_model_with_such_a_text_length(pipe):
    sizes = to_dict(pipe.config)
    sizes["sampling"]["text_length"] = 9
    other = DualDiffusionPipeline(resolve(sizes, ModelConfig), pipe.weights, pipe.tokenizer)
    found = pipe.text_to_image(PROMPTS, max_sequence_length=9, output="latents")
    np.testing.assert_array_equal(found, other.text_to_image(PROMPTS, output="latents"))
    assert not np.array_equal(found, pipe.text_to_image(PROMPTS, output="latents"))


@pytest.mark.parametrize("scale", [0, 0.5])
def test_a_scale_up_to_one_is_no_guidance(pipe, scale):
    plain = pipe.text_to_image(PROMPTS, guidance_scale=1.0, output="latents")
    np.testing.assert_array_equal(pipe.text_to_image(PROMPTS, guidance_scale=scale, output="latents"), plain)


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda p, i: p.text_to_image([]), "prompts is empty; give at least one text"),
        (lambda p, i: p.text_to_image(PROMPTS, output="jpeg"), "output is 'jpeg'; give one of pil, numpy, latents"),
        (
            lambda p, i: p.text_to_image(PROMPTS, latents=np.zeros((2, 4, 5, 1))),
            r"latents is an array \(2, 4, 5, 1\)",
        ),
        (
            lambda p, i: p.text_to_image(PROMPTS, height=5),
            "height x width is 5 x 4 pixels, which this model cannot make; give multiples of 2",
        ),
        (lambda p, i: p.text_to_image(PROMPTS, height=0), "height is 0; give a whole number from 1 to"),
        (lambda p, i: p.text_to_image(PROMPTS, steps=0), "steps: 0 is below 1"),
        (
            lambda p, i: p.text_to_image(PROMPTS, sigma_shift=0.0),
            "sigma_shift: 0.0 is below 0.001",
        ),
        (
            lambda p, i: p.text_to_image(PROMPTS, images_per_prompt=0),
            "images_per_prompt is 0; give a whole number from 1 to",
        ),
        (lambda p, i: p.image_to_text(i, steps=-1), "steps: -1 is below 1"),
        (lambda p, i: p.answer(i, ["a"] * 3, length=0), "length: 0 is below 2"),
        (
            lambda p, i: p.text_to_image(PROMPTS, seed=-1),
            "seed is -1; give a whole number from 0 to",
        ),
        (lambda p, i: p.text_to_image(PROMPTS, guidance_scale=float("nan")), "guidance_scale: is not a number"),
        (lambda p, i: p.image_to_text(i, order="left"), "order is 'left'; give one of ancestral, confidence"),
        (lambda p, i: p.image_to_text([]), "images is empty; give at least one image"),
        (lambda p, i: p.image_to_text(i, length=2, prompt="a handwritten three"), "leaves no room"),
        (lambda p, i: p.answer(i, ["which digit is this?"]), "3 images, but 1 questions"),
        (lambda p, i: p.answer(i[0], "which digit is this?", length=3), "leaves no room for an answer"),
    ],
)
def test_an_argument_that_cannot_be_used_is_named(pipe, pictures, call, message):
    with pytest.raises(UserError, match=message):
        call(pipe, pictures)


SHARDED = """
import sys, jax, numpy as np
from dualdiff_jax import DualDiffusionPipeline
from dualdiff_jax.config import MeshConfig
from dualdiff_jax.sharding import make_mesh
pictures = np.load(sys.argv[2])["pictures"]
found = {}
for name, devices in (("one", 1), ("eight", 8)):
    mesh = make_mesh(MeshConfig(), jax.devices()[:devices])
    pipe = DualDiffusionPipeline.from_pretrained(sys.argv[1], mesh)
    leaf = pipe.weights["mmdit.blocks.image.mlp_in.kernel"][0]
    assert leaf.addressable_shards[0].data.size == leaf.size // devices
    found[name] = pipe.text_to_image(["a handwritten three"] * 3, output="latents")
    found[name + "_text"] = pipe.generate_text(list(pictures), [np.zeros(0, int)] * 3, length=7, steps=3).token_ids
np.savez(sys.argv[2], **found)
"""


def test_eight_devices_sample_what_one_samples(pipe, pictures, tmp_path):
    save_model(tmp_path / "model", pipe.config, pipe.weights, pipe.tokenizer)
    np.savez(tmp_path / "arrays.npz", pictures=np.stack(pictures))
    flags = f"--xla_force_host_platform_device_count=8 {compiler.FLAGS}"
    finished = subprocess.run(
        [sys.executable, "-c", SHARDED, str(tmp_path / "model"), str(tmp_path / "arrays.npz")],
        env={"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT), "PATH": ""},
        capture_output=True,
        text=True,
    )
    assert finished.returncode == 0, finished.stderr
    found = dict(np.load(tmp_path / "arrays.npz"))
    np.testing.assert_allclose(found["eight"], found["one"], rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(found["eight_text"], found["one_text"])


def test_weights_and_computation_take_the_dtype_that_is_given(pipe, tmp_path):
    save_model(tmp_path / "model", pipe.config, pipe.weights, pipe.tokenizer)
    half = DualDiffusionPipeline.from_pretrained(tmp_path / "model", dtype="bfloat16")
    assert {str(leaf.dtype) for leaf in jax.tree.leaves(half.weights)} == {"bfloat16"}
    assert half.encode_text(np.ones((1, 4), int)).dtype == jax.numpy.bfloat16
    assert half.config == dataclasses.replace(pipe.config, compute_dtype="bfloat16")
    assert half.text_to_image(PROMPTS)[0].size == (SIDE, SIDE)
    with pytest.raises(UserError, match="dtype is 'float16'"):
        DualDiffusionPipeline.from_pretrained(tmp_path / "model", dtype="float16")
