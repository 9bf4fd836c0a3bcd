"""Images from images: strength, masks, variations."""

import io

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from dualdiff_jax import DualDiffusionPipeline, UserError
from dualdiff_jax.data.images import normalize, read_pixels
from dualdiff_jax.pipeline import programs
from dualdiff_jax.pipeline.edit_inputs import repainted_pixels
from tests.unit.pipeline.shallow import shallow_pipeline
from tests.unit.pipeline.test_pipeline import PROMPTS

HIGH, WIDE = 6, 4
RNG = np.random.default_rng(0)
IMAGE, OTHER = RNG.integers(0, 256, (2, HIGH, WIDE, 3), np.uint8)
MASK = np.zeros((HIGH, WIDE), bool)
MASK[1:3, :2] = True


@pytest.fixture(scope="module")
def pipe(tmp_path_factory) -> DualDiffusionPipeline:
    return shallow_pipeline(tmp_path_factory.mktemp("tokenizer"))


def png(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(array).save(file, "PNG")
    return file.getvalue()


def test_editing_begins_from_the_image_with_the_noise_of_its_first_level(pipe, monkeypatch):
    """Strength 0.5 takes the last two of 4 steps; they are those of text to image."""
    drawn, noise = programs.noise, []
    monkeypatch.setattr(programs, "noise", lambda rngs, shape: noise.append(drawn(rngs, shape)) or noise[-1])
    levels = [1.0, 0.8, 0.5, 0.2]
    found = pipe.image_to_image(IMAGE, PROMPTS[0], strength=0.5, sigmas=levels, seed=3, output="latents")
    clean = np.asarray(pipe.encode_image(normalize(IMAGE)[None]))
    begin = 0.5 * clean + 0.5 * np.asarray(noise[0])
    expected = pipe.text_to_image(
        PROMPTS[0], latents=begin, sigmas=levels[2:], height=HIGH, width=WIDE, output="latents"
    )
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


def test_all_of_the_strength_is_text_to_image_and_little_keeps_the_image(pipe):
    options = dict(seed=5, output="numpy", sigma_shift=1.0)
    whole = pipe.image_to_image(IMAGE, PROMPTS[0], strength=1.0, **options)
    np.testing.assert_array_equal(whole, pipe.text_to_image(PROMPTS[0], height=HIGH, width=WIDE, **options))
    grey = normalize(np.repeat(IMAGE.mean(-1, keepdims=True).round().astype(np.uint8), 3, -1))  # latents are grey
    little = pipe.image_to_image(IMAGE, PROMPTS[0], strength=0.01, steps=1000, seed=5, output="numpy", sigma_shift=1.0)
    assert np.abs(little[0] - grey).mean() < 0.2 < np.abs(whole[0] - grey).mean()


def test_one_image_goes_with_all_prompts_and_one_prompt_with_all_images(pipe):
    options = dict(output="latents", strength=0.7, seed=[1, 2])
    of_prompts = pipe.image_to_image(IMAGE, PROMPTS, images_per_prompt=2, **options)
    assert len(of_prompts) == 4 and not np.allclose(of_prompts[0], of_prompts[2])
    several = pipe.image_to_image([IMAGE, OTHER], PROMPTS[0], images_per_prompt=2, **options)
    for index, image in enumerate((IMAGE, OTHER)):
        alone = pipe.image_to_image(
            image, PROMPTS[0], images_per_prompt=2, strength=0.7, seed=index + 1, output="latents"
        )
        np.testing.assert_allclose(several[2 * index : 2 * index + 2], alone, rtol=1e-4, atol=1e-4)
    each = pipe.image_to_image([IMAGE, OTHER], PROMPTS, output="latents", strength=0.7, seed=[1, 2])
    np.testing.assert_allclose(each[0], several[0], rtol=1e-4, atol=1e-4)


def test_an_image_keeps_its_size_unless_another_one_is_asked_for(pipe):
    assert pipe.image_to_image(IMAGE, PROMPTS[0])[0].size == (WIDE, HIGH)
    resized = pipe.image_to_image(IMAGE, PROMPTS[0], height=8, width=8, seed=2)
    np.testing.assert_array_equal(resized[0], pipe.image_to_image(read_pixels(IMAGE, 8, 8), PROMPTS[0], seed=2)[0])


@pytest.mark.parametrize("sampler", ["euler", "heun", "dpm++2m"])
@pytest.mark.parametrize("strength", [1.0, 0.5])
def test_what_is_not_white_comes_back_byte_for_byte(pipe, sampler, strength):
    images = pipe.inpaint([IMAGE, OTHER], MASK, PROMPTS, sampler=sampler, strength=strength, steps=4)
    for image, given in zip(images, (IMAGE, OTHER), strict=True):
        np.testing.assert_array_equal(np.asarray(image)[~MASK], given[~MASK])
        assert (np.asarray(image)[MASK] != given[MASK]).any(-1).mean() > 0.5


def test_masks_of_every_form_are_one_mask(pipe, tmp_path):
    white = np.where(MASK, np.uint8(255), np.uint8(0))
    file = tmp_path / "mask.png"
    Image.fromarray(white).save(file)
    expected = pipe.inpaint(IMAGE, MASK, PROMPTS[0], output="numpy")
    forms = [
        *(white, white[..., None], MASK.astype(np.float32), MASK.astype(np.float64) * 0.6),
        *(Image.fromarray(white), Image.fromarray(white).convert("1"), Image.fromarray(white).convert("RGB")),
        *(file, str(file), png(white), [MASK], MASK.astype(jnp.bfloat16), jnp.asarray(MASK, jnp.bfloat16)),
    ]
    for form in forms:
        np.testing.assert_array_equal(pipe.inpaint(IMAGE, form, PROMPTS[0], output="numpy"), expected)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "PA", "P", "L"])
def test_what_is_transparent_in_a_mask_stays(mode):
    """White everywhere, and transparent where nothing is painted."""
    alpha = Image.fromarray(np.where(MASK, np.uint8(255), np.uint8(0)))
    if mode == "L":
        mask = alpha
    elif mode == "P":
        mask = Image.fromarray(MASK.astype(np.uint8)).convert("P")
        mask.putpalette([255] * 6)
        mask.info["transparency"] = 0
    elif mode == "PA":
        mask = Image.new("PA", alpha.size)
        mask.putpalette([255] * 6)
        mask.putalpha(alpha)
    else:
        mask = Image.new(mode, alpha.size, "white")
        mask.putalpha(alpha)
    assert mask.mode == mode
    np.testing.assert_array_equal(repainted_pixels(mask, [MASK.shape], MASK.shape, "crop")[0], MASK)


def test_each_image_may_have_its_own_mask(pipe):
    masks = [MASK, ~MASK]
    images = pipe.inpaint([IMAGE, OTHER], masks, PROMPTS[0], images_per_prompt=2)
    for index, (given, mask) in enumerate(zip((IMAGE, OTHER), masks, strict=True)):
        for image in images[2 * index : 2 * index + 2]:
            np.testing.assert_array_equal(np.asarray(image)[~mask], given[~mask])


def test_an_empty_mask_gives_the_image_and_a_full_one_text_to_image(pipe):
    (same,) = pipe.inpaint(IMAGE, np.zeros_like(MASK), PROMPTS[0])
    np.testing.assert_array_equal(same, IMAGE)
    options = dict(seed=4, output="latents")
    full = pipe.inpaint(IMAGE, np.ones_like(MASK), PROMPTS[0], **options)
    expected = pipe.text_to_image(PROMPTS[0], height=HIGH, width=WIDE, **options)
    np.testing.assert_allclose(full, expected, rtol=1e-5, atol=1e-5)


def test_known_latents_are_the_images_at_the_end_and_guide_the_rest(pipe):
    options = dict(seed=4, output="latents", steps=4)
    found = pipe.inpaint(IMAGE, MASK, PROMPTS[0], **options)
    clean = np.asarray(pipe.encode_image(normalize(IMAGE)[None]))
    np.testing.assert_array_equal(found[0][~MASK], clean[0][~MASK])
    other = pipe.inpaint(OTHER, MASK, PROMPTS[0], **options)
    assert not np.allclose(found[0][MASK], other[0][MASK])


def test_zero_init_repaints_too(pipe):
    (image,) = pipe.inpaint(IMAGE, MASK, PROMPTS[0], guidance_rule="cfg_zero_star", zero_init_steps=2, steps=4)
    np.testing.assert_array_equal(np.asarray(image)[~MASK], IMAGE[~MASK])


def test_a_mask_follows_its_image_to_another_size(pipe):
    for fit in ("crop", "letterbox"):
        (image,) = pipe.inpaint(IMAGE, MASK, PROMPTS[0], height=8, width=12, fit=fit)
        kept = read_pixels(np.repeat(MASK[..., None], 3, -1).astype(np.uint8) * 255, 8, 12, fit=fit)[..., 0] < 128
        assert 0 < kept.sum() < kept.size
        np.testing.assert_array_equal(np.asarray(image)[kept], read_pixels(IMAGE, 8, 12, fit=fit)[kept])


def test_variations_are_several_of_each_image_without_a_prompt(pipe):
    found = pipe.variations([IMAGE, OTHER], count=3, strength=0.7, output="latents", seed=2)
    expected = pipe.image_to_image(
        [IMAGE, OTHER], "", strength=0.7, images_per_prompt=3, guidance_scale=1.0, output="latents", seed=2
    )
    np.testing.assert_array_equal(found, expected)
    assert len(found) == 6 and not np.allclose(found[0], found[1])
    assert len(pipe.variations(IMAGE)) == 4


def test_a_strength_of_less_than_a_step_is_one_step(pipe):
    few, one = (pipe.image_to_image(IMAGE, PROMPTS[0], steps=4, strength=s, output="latents") for s in (1e-20, 0.25))
    np.testing.assert_array_equal(few, one)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda p: p.image_to_image(IMAGE, PROMPTS[0], strength=0), "strength is 0; give a number above 0 and up to 1"),
        (lambda p: p.image_to_image(IMAGE, PROMPTS[0], height=8), "one of height and width is given; give both"),
        (
            lambda p: p.image_to_image([IMAGE, OTHER], [*PROMPTS, PROMPTS[0]]),
            "prompts has 3 entries for 2 images; give one, or one for each image",
        ),
        (
            lambda p: p.image_to_image([IMAGE, IMAGE[:2]], PROMPTS[0]),
            "images are of different sizes, 6 x 4, 2 x 4; give height and width",
        ),
        (lambda p: p.image_to_image(IMAGE[:5], PROMPTS[0]), "5 x 4 pixels, which this model cannot make"),
        (
            lambda p: p.inpaint(IMAGE, MASK[:4], PROMPTS[0]),
            r"masks\[0\] has 4 x 4 pixels \(height x width\) and its image 6 x 4; give a mask of the image's size",
        ),
        (lambda p: p.inpaint(IMAGE, [MASK, MASK], PROMPTS[0]), "masks has 2 entries for 1 images"),
        (lambda p: p.inpaint(IMAGE, MASK.astype(int), PROMPTS[0]), r"masks is an array \(6, 4\) of int64; give"),
        (lambda p: p.inpaint(IMAGE, MASK * 2.0, PROMPTS[0]), "masks holds floats outside"),
        (
            lambda p: p.inpaint(IMAGE, MASK.astype(np.uint8), PROMPTS[0]),
            "masks is an array of uint8 that holds no number",
        ),
        (lambda p: p.image_to_image(IMAGE, PROMPTS[0], strength=np.complex64(1)), "strength is "),
        (lambda p: p.inpaint(IMAGE, None, PROMPTS[0]), "masks is None; give an image, white where it is repainted"),
        (lambda p: p.variations(IMAGE, prompts="a"), "prompts is not for variations, which have no prompt"),
        (lambda p: p.variations(IMAGE, count=0), "count is 0; give a whole number from 1"),
        (lambda p: p.variations([IMAGE] * 2, count=1 << 20), "count is 1048576; give a whole number from 1 to 524288"),
    ],
)
def test_what_cannot_be_edited_is_one_sentence(pipe, call, message):
    with pytest.raises(UserError, match=message):
        call(pipe)
