"""How a call's images are sampled: samplers, guidance, shift, streams."""

import ast
import dataclasses
import itertools
import types
from pathlib import Path

import diffusers
import numpy as np
import pytest
from diffusers.schedulers.scheduling_flow_match_euler_discrete import FlowMatchEulerDiscreteScheduler

from dualdiff_jax import DualDiffusionPipeline, UserError
from dualdiff_jax.config.fields import ConfigError
from dualdiff_jax.pipeline import image_programs, inputs, programs
from dualdiff_jax.pipeline.image_options import ImageOptions, image_settings
from dualdiff_jax.pipeline.noise_levels import noise_levels, truncated
from dualdiff_jax.sampling.flow_sampler import IMAGE_SAMPLERS, follow, sigma_grid
from tests.unit.pipeline.shallow import shallow_pipeline
from tests.unit.pipeline.test_pipeline import PROMPTS, SIDE, config

IMAGE_TO_IMAGE = "pipelines/stable_diffusion_3/pipeline_stable_diffusion_3_img2img.py"
SAMPLING = dataclasses.replace(config(11).sampling, sigma_shift=3.0)


def settings(default=SAMPLING, strength=1.0, **options):
    return image_settings(default, (default.height, default.width), ImageOptions(**options), strength)


@pytest.fixture(scope="module")
def pipe(tmp_path_factory) -> DualDiffusionPipeline:
    return shallow_pipeline(tmp_path_factory.mktemp("tokenizer"))


def sample(field, noise, levels):
    sampler = IMAGE_SAMPLERS["dpm++2m"]
    return follow(sampler, field, sampler.start(noise), levels)


@pytest.fixture
def calls(monkeypatch) -> list[tuple[str, int, bool]]:
    """The programs that run: (name, examples or steps, whether guided)."""
    found = []
    follow, encode = image_programs.generate_images, programs.encode_text

    def generate(config, weights, text, null, state, sigmas, scale, known, **static):
        found.append(("sampler", len(sigmas) - 1, null is not None))
        return follow(config, weights, text, null, state, sigmas, scale, known, **static)

    def encode_text(config, weights, token_ids):
        found.append(("t5", len(token_ids), False))
        return encode(config, weights, token_ids)

    monkeypatch.setattr(image_programs, "generate_images", generate)
    monkeypatch.setattr(programs, "encode_text", encode_text)
    return found


def latents(pipe, **options):
    return pipe.text_to_image(PROMPTS, output="latents", **options)


def test_the_model_says_what_a_call_leaves_out(pipe):
    chosen = dict(image_sampler="heun", guidance_rule="cfg_zero_star", guidance_interval=(0.2, 0.8), zero_init_steps=2)
    default = dataclasses.replace(SAMPLING, **chosen)
    assert settings(default)._replace(sigmas=None) == (*("heun", None, 2.0, "cfg_zero_star", (0.2, 0.8), 2),)
    with pytest.raises(ConfigError, match=r"guidance_interval is \(0.8, 0.2\); give two numbers, the lower one first"):
        dataclasses.replace(SAMPLING, guidance_interval=(0.8, 0.2))
    with pytest.raises(ConfigError, match=r"guidance_interval is \(0.8,\); give two numbers"):
        dataclasses.replace(SAMPLING, guidance_interval=(0.8,))
    found = DualDiffusionPipeline(dataclasses.replace(pipe.config, sampling=default), pipe.weights, pipe.tokenizer)
    named = dict(sampler="heun", guidance_rule="cfg_zero_star", guidance_interval=(0.2, 0.8), zero_init_steps=2)
    np.testing.assert_array_equal(latents(found), latents(pipe, sigma_shift=3.0, **named))


@pytest.mark.parametrize("name", IMAGE_SAMPLERS)
def test_each_sampler_has_its_own_images_and_one_step_in_common(pipe, name):
    euler = latents(pipe, steps=4)
    assert np.array_equal(latents(pipe, steps=4, sampler=name), euler) == (name == "euler")
    np.testing.assert_allclose(latents(pipe, steps=1, sampler=name), latents(pipe, steps=1), rtol=1e-5, atol=1e-5)


def test_an_interval_of_all_levels_is_constant_guidance_and_an_empty_one_none(pipe, calls):
    np.testing.assert_array_equal(latents(pipe, guidance_interval=(0.0, 1.0)), latents(pipe))
    np.testing.assert_array_equal(latents(pipe, guidance_interval=[0.001, 0.002]), latents(pipe, guidance_scale=1.0))
    assert [call for call in calls if call[0] == "sampler"] == [("sampler", 3, g) for g in (True, True, False, False)]


@pytest.mark.parametrize("name", IMAGE_SAMPLERS)
def test_outside_the_interval_the_null_prompt_is_not_evaluated(pipe, calls, name):
    found = latents(pipe, sigmas=[1.0, 0.8, 0.6, 0.4, 0.2], guidance_interval=(0.3, 0.7), sampler=name)
    assert [call for call in calls if call[0] == "sampler"] == [
        ("sampler", 2, False),
        ("sampler", 2, True),
        ("sampler", 1, False),
    ]
    assert not np.allclose(found, latents(pipe, sigmas=[1.0, 0.8, 0.6, 0.4, 0.2], sampler=name))


def test_zero_init_begins_later_with_the_same_noise(pipe, calls):
    """A step of velocity 0 leaves the noise; what follows is the sampler on the rest of the grid."""
    grid = dict(sigmas=[1.0, 0.7, 0.4], guidance_rule="cfg_zero_star")
    found = latents(pipe, zero_init_steps=2, **grid)
    assert calls[-1] == ("sampler", 1, True)
    rest = latents(pipe, sigmas=[0.4], guidance_rule="cfg_zero_star", zero_init_steps=0)
    np.testing.assert_array_equal(found, rest)
    (sample,) = pipe.generate_images(PROMPTS, zero_init_steps=2, **grid)
    noise = np.asarray(programs.noise(inputs.example_keys(0, len(PROMPTS)), found.shape[1:]))
    for estimate in np.asarray(sample.estimates)[:2]:
        np.testing.assert_array_equal(estimate, noise)
    assert sample.estimates.shape == (3, *noise.shape)


@pytest.mark.parametrize(
    "sigmas",
    ([0.5, 0.5 - 1e-10], [0.5, 1e-46, 0.0], [0.5, 1e-40], [0.5, 0.5], [[0.5], [0.3, 0.1]], [0.5j]),
)
def test_levels_have_to_fall_as_they_are_used(pipe, sigmas):
    with pytest.raises(UserError, match="sigmas is "):
        latents(pipe, sigmas=sigmas, sampler="dpm++2m")


def test_equal_levels_of_a_long_grid_do_no_harm():
    levels = np.array([0.9, 0.5, 0.5, 0.2, 0.0], np.float32)
    state, estimates = sample(lambda x, k: 0.5 * x, np.ones((1, 2, 2, 1), np.float32), levels)
    assert np.isfinite(state.latents).all() and np.isfinite(estimates).all()
    assert np.any(np.diff(sigma_grid(10000, 1000.0)) == 0.0)


@pytest.mark.parametrize("interval", ([[0.1, 0.2], [0.3]], [0.1], np.array([0j, 0.5]), "01"))
def test_an_interval_is_two_numbers(pipe, interval):
    with pytest.raises(UserError, match="guidance_interval is .*; give"):
        latents(pipe, guidance_interval=interval)


def test_a_stream_tells_its_progress(pipe):
    found = []
    list(pipe.stream_images(PROMPTS, steps=2, progress=lambda done, total: found.append((done, total))))
    expected = []
    latents(pipe, steps=2, progress=lambda done, total: expected.append((done, total)))
    assert found == expected and found[-1] == (len(PROMPTS), len(PROMPTS))


def test_without_guidance_no_rule_of_the_model_changes_anything_and_none_of_a_call_is_taken(pipe):
    plain = latents(pipe, guidance_scale=1.0)
    rules = dict(guidance_rule="cfg_zero_star", guidance_interval=(0.2, 0.5), zero_init_steps=2)
    default = dataclasses.replace(pipe.config.sampling, **rules)
    ruled = DualDiffusionPipeline(dataclasses.replace(pipe.config, sampling=default), pipe.weights, pipe.tokenizer)
    np.testing.assert_array_equal(latents(ruled, guidance_scale=1.0), plain)
    for name, value in rules.items():
        with pytest.raises(UserError, match=f"{name} is given, but guidance_scale is 1, and up to 1 is no guidance"):
            latents(pipe, guidance_scale=1.0, **{name: value})


def test_passes_are_counted_as_they_run():
    levels = [1.0, 0.8, 0.6, 0.4, 0.2]
    assert settings(sigmas=levels, guidance_scale=1.0).passes == 5
    assert settings(sigmas=levels).passes == 10
    assert settings(sigmas=levels, sampler="heun").passes == 2 * 9
    assert settings(sigmas=levels, sampler="heun", guidance_interval=(0.3, 0.7)).passes == 2 * 2 + 2 * 4 + 1
    assert settings(sigmas=levels, guidance_rule="cfg_zero_star", zero_init_steps=2).passes == 6


def test_the_empty_prompt_is_encoded_once_for_a_model(pipe, calls):
    fresh = DualDiffusionPipeline(pipe.config, pipe.weights, pipe.tokenizer)
    first = latents(fresh)
    assert sorted(call[1] for call in calls if call[0] == "t5") == [1, 2]
    calls.clear()
    np.testing.assert_array_equal(latents(fresh), first)
    assert [call[1] for call in calls if call[0] == "t5"] == [2]
    latents(fresh, max_sequence_length=9)
    assert [call[1] for call in calls if call[0] == "t5"] == [2, 1, 2]  # another length has another constant


def test_the_shift_by_resolution_is_the_models_at_its_own_size():
    """alpha = 3 sqrt(m / n) (arXiv 2403.03206, equation 23): four times the pixels, twice the shift."""
    given = dict(steps=5, sigma_shift="resolution", sigmas=None)
    for size, shift in (((SIDE, SIDE), 3.0), ((2 * SIDE, 2 * SIDE), 6.0), ((SIDE, 4 * SIDE), 6.0), ((2, 2), 1.5)):
        np.testing.assert_allclose(noise_levels(SAMPLING, size, **given), sigma_grid(5, shift), rtol=1e-6)
    by_model = dataclasses.replace(SAMPLING, sigma_shift_rule="resolution")
    found = noise_levels(by_model, (2 * SIDE, 2 * SIDE), steps=5, sigma_shift=None, sigmas=None)
    np.testing.assert_array_equal(found, sigma_grid(5, 6.0))
    number = noise_levels(by_model, (2 * SIDE, 2 * SIDE), steps=5, sigma_shift=2.0, sigmas=None)
    np.testing.assert_array_equal(number, sigma_grid(5, 2.0))
    with pytest.raises(UserError, match="sigma_shift is 'size'; give a number, or 'resolution'"):
        noise_levels(SAMPLING, (SIDE, SIDE), steps=5, sigma_shift="size", sigmas=None)


@pytest.mark.parametrize("strength", [0.01, 0.3, 0.5, 0.6, 0.99, 1.0])
@pytest.mark.parametrize("steps", [1, 5, 28])
def test_strength_keeps_the_steps_that_diffusers_keeps(strength, steps):
    """``get_timesteps`` of its SD3 pipeline, taken from the file alone: to import it takes half a minute."""
    tree = ast.parse((Path(diffusers.__file__).parent / IMAGE_TO_IMAGE).read_text(encoding="utf-8"))
    (method,) = (node for node in ast.walk(tree) if getattr(node, "name", "") == "get_timesteps")
    exec(compile(ast.Module([method], []), IMAGE_TO_IMAGE, "exec"), theirs := {})
    scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0)
    scheduler.set_timesteps(steps)
    timesteps, count = theirs["get_timesteps"](types.SimpleNamespace(scheduler=scheduler), steps, strength, "cpu")
    found = truncated(sigma_grid(steps, 3.0), strength)
    assert len(found) - 1 == count == len(timesteps)
    np.testing.assert_allclose(1000 * found[:-1], timesteps.numpy(), rtol=1e-5)


@pytest.mark.parametrize("strength", [1.0, 0.4])
def test_zero_init_of_all_steps_is_refused_where_there_is_guidance(strength):
    options = dict(sigmas=[1.0, 0.7, 0.4], guidance_rule="cfg_zero_star", zero_init_steps=3)
    with pytest.raises(UserError, match="zero_init_steps is 3 of 3 steps, which leaves the noise as it is; give fewer"):
        settings(strength=strength, guidance_scale=2.0, **options)
    assert settings(strength=strength, guidance_scale=2.0, **options | {"zero_init_steps": 2}).passes > 0


def test_steps_that_strength_leaves_out_count_as_zero_init():
    options = dict(steps=10, guidance_rule="cfg_zero_star", zero_init_steps=3)
    assert [settings(strength=s, **options).still_steps for s in (1.0, 0.9, 0.8, 0.5)] == [3, 2, 1, 0]


@pytest.mark.parametrize("name", IMAGE_SAMPLERS)
@pytest.mark.parametrize("every", [1, 2])
def test_a_stream_ends_with_the_images_and_shows_the_estimates(pipe, name, every):
    options = dict(steps=5, sampler=name, seed=4)
    (whole,) = pipe.generate_images(PROMPTS, **options)
    found = list(pipe.stream_images(PROMPTS, every=every, output="latents", **options))
    assert [each.step for each in found] == [*range(every, 5, every), 5]
    assert all(each.rows == range(2) and each.steps == 5 for each in found)
    expected = [*(whole.estimates[each.step - 1] for each in found[:-1]), whole.latents]
    rounding = 1e-5 * np.abs(whole.latents).max()  # pieces are programs of their own
    for each, images in zip(found, expected, strict=True):
        np.testing.assert_allclose(each.images, images, rtol=0, atol=rounding)


def test_a_stream_goes_batch_by_batch_in_every_form_of_output(pipe):
    prompts = [PROMPTS[0]] * 5  # batches of four
    found = list(pipe.stream_images(prompts, every=2, seed=1))
    assert [(each.rows, each.step) for each in found] == [
        *((range(4), 2), (range(4), 3)),
        *((range(4, 5), 2), (range(4, 5), 3)),
    ]
    images = pipe.text_to_image(prompts, seed=1)
    streamed = [image for each in found if each.step == 3 for image in each.images]
    assert np.abs(np.stack(streamed).astype(int) - np.stack(images)).max() <= 1
    pixels = next(pipe.stream_images(prompts, output="numpy")).images
    assert pixels.shape == (4, SIDE, SIDE, 3) and np.abs(pixels).max() <= 1.0


def test_a_stream_of_equal_pieces_is_one_program(pipe, calls):
    list(pipe.stream_images(PROMPTS, every=2, steps=6, output="latents"))
    assert [call for call in calls if call[0] == "sampler"] == [("sampler", 2, True)] * 3


@pytest.mark.parametrize(("height", "width"), [(2, 12), (12, 2), (6, 10)])
def test_any_size_up_to_the_position_table_is_drawn(pipe, height, width):
    (image,) = pipe.text_to_image(PROMPTS[0], height=height, width=width, steps=1)
    assert image.size == (width, height)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sampler": "ddim"}, r"sampler is 'ddim'; give one of euler, heun, dpm\+\+2m"),
        ({"guidance_rule": "apg"}, "guidance_rule is 'apg'; give one of cfg, cfg_zero_star"),
        (
            {"zero_init_steps": 2},
            "zero_init_steps is for guidance_rule cfg_zero_star, and the rule is cfg; leave it out",
        ),
        ({"guidance_interval": (0.5, 0.2)}, r"guidance_interval is \(0.5, 0.2\); give \(low, high\)"),
        ({"sigmas": [0.5], "sigma_shift": "resolution"}, "sigmas is given beside steps or sigma_shift"),
    ],
)
def test_what_a_call_cannot_use_is_named_with_what_is_allowed(pipe, options, message):
    for call in (pipe.text_to_image, pipe.generate_images, pipe.stream_images):
        with pytest.raises(UserError, match=message):
            call(PROMPTS, **options)


@pytest.mark.parametrize("given", [{"negative_prompt": "a photo"}, {"negative_prompt": ["", "a"]}])
def test_what_guidance_leads_away_from_needs_guidance(pipe, given):
    with pytest.raises(UserError, match="negative_prompt is given, but there is no guidance to lead away from"):
        pipe.text_to_image(PROMPTS, guidance_scale=1.0, **given)
    embeddings = np.zeros((1, 6, 8), np.float32)
    with pytest.raises(UserError, match="negative_prompt_embeddings is given, but there is no guidance"):
        pipe.text_to_image(PROMPTS, guidance_scale=0.5, negative_prompt_embeddings=embeddings)
    assert len(pipe.text_to_image(PROMPTS, ["", ""], guidance_scale=1.0, steps=1)) == 2


@pytest.mark.parametrize("seed", [3, [3, 4]])
def test_an_image_is_drawn_again_by_its_seed_and_its_place_among_the_images_of_that_seed(pipe, seed):
    drawn = latents(pipe, seed=seed, images_per_prompt=2)
    of_second = (3, 2) if seed == 3 else (4, 0)
    its_seed, index = of_second
    again = pipe.text_to_image(PROMPTS[1], seed=its_seed, images_per_prompt=index + 1, output="latents")
    np.testing.assert_allclose(again[index], drawn[2], rtol=0, atol=1e-5 * np.abs(drawn).max())


def test_an_unknown_argument_is_refused_by_name(pipe):
    with pytest.raises(UserError, match=r"there is no argument 'stepps'; did you mean steps\?"):
        pipe.text_to_image(PROMPTS, stepps=3)
    with pytest.raises(UserError, match=r"there is no argument 'eta'; there are images_per_prompt, seed"):
        pipe.image_to_image(np.zeros((8, 8, 3), np.uint8), PROMPTS[0], eta=3)
    assert len(list(itertools.islice(pipe.stream_images(PROMPTS, steps=2), 1))) == 1
