"""The pipeline's calls against loops over the reference networks, with diffusers' scheduler and SUBS by its equation.

The pipelines hold the reference's weights. Prompts are the demo's, whose tokenizer makes each word a token.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler

from demo.data import write_tokenizer
from demo.digits import QUESTION, pair_caption
from dualdiff_jax.config import ModelConfig
from dualdiff_jax.config.resolve import to_dict
from dualdiff_jax.data.tokenizer import Tokenizer
from dualdiff_jax.pipeline.pipeline import DualDiffusionPipeline
from tests.parity.comparison import OUTPUT_BOUND, assert_parity
from tests.parity.pair import KL, Pair, random_pair, sized
from tests.parity.reference import channels_first, channels_last, decode_as_sd3, encode_as_sd3

pytestmark = pytest.mark.parity

LOOP_BOUND = 1e-4  # for results of many passes, each of which starts from the one before
TEXT_LENGTH = 11
DOWNSCALE = 2 ** (len(KL.autoencoder.level_widths) - 1)
STEPS, GUIDANCE_SCALE, SIGMA_SHIFT = 28, 7.0, 3.0  # SD3's, the defaults of a call


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory) -> Tokenizer:
    folder = tmp_path_factory.mktemp("tokenizer")
    write_tokenizer(folder)
    return Tokenizer(folder)


def model_config(tokenizer: Tokenizer, **sections: dict) -> ModelConfig:
    size = tokenizer.vocab_size
    sampling = {"height": 24, "width": 40, "text_length": TEXT_LENGTH}
    return sized(mmdit={"vocab_size": size}, t5={"vocab_size": size + 2}, sampling=sampling, **sections)


@pytest.fixture
def pair(tokenizer, seed) -> Pair:
    """A pair with the KL autoencoder."""
    return random_pair(model_config(tokenizer, autoencoder=to_dict(KL.autoencoder)), seed)


@pytest.fixture
def grey_pair(tokenizer, seed) -> Pair:
    """A pair whose latents are grey pixels, without noise."""
    return random_pair(model_config(tokenizer, autoencoder={"channels": 1}), seed)


def pipeline(pair: Pair, tokenizer: Tokenizer) -> DualDiffusionPipeline:
    return DualDiffusionPipeline(pair.config, {n: jnp.asarray(w) for n, w in pair.weights.items()}, tokenizer)


def draw_prompts(rng: np.random.Generator, count: int) -> list[str]:
    return [pair_caption(rng.integers(0, 10, 2)) for _ in range(count)]


def draw_latents(rng: np.random.Generator, *shape: int) -> np.ndarray:
    return rng.standard_normal(shape, np.float32)


def torch_text(pair: Pair, token_ids: np.ndarray) -> torch.Tensor:
    return pair.t5(input_ids=torch.from_numpy(np.asarray(token_ids)).long()).last_hidden_state


@torch.no_grad()
def torch_text_to_image(
    pair: Pair, noise: np.ndarray, token_ids: np.ndarray, null: np.ndarray, steps: int, guidance: float, shift: float
) -> np.ndarray:
    """SD3's loop: both prompts at every step, guidance, the scheduler's Euler step."""
    scheduler = FlowMatchEulerDiscreteScheduler(num_train_timesteps=1000, shift=shift)
    scheduler.set_timesteps(steps)
    latents, text, null = channels_first(noise), torch_text(pair, token_ids), torch_text(pair, null)
    for timestep in scheduler.timesteps:
        conditional, _ = pair.mmdit(latents, timestep.expand(len(latents)), text)
        unconditional, _ = pair.mmdit(latents, timestep.expand(len(latents)), null.expand_as(text))
        velocity = unconditional + guidance * (conditional - unconditional)
        latents = scheduler.step(velocity, timestep, latents).prev_sample
    return channels_last(latents)


CALLS = {  # (rows, columns) of latents, negative prompt, options
    "as_the_paper": ((6, 10), "", {}),
    "negative_prompt": ((6, 10), "a handwritten seven", {}),
    "tall": ((14, 2), "", {}),
    "plain_grid": ((6, 10), "", {"steps": 9, "guidance_scale": 2.5, "sigma_shift": 1.0}),
    "unguided": ((2, 6), "", {"steps": 5, "guidance_scale": 1.0}),
}


@pytest.mark.parametrize("call", CALLS)
def test_text_to_image(seed, pair, tokenizer, call):
    """The final latents from given noise."""
    (rows, columns), negative, options = CALLS[call]
    rng = np.random.default_rng(seed)
    prompts, noise = draw_prompts(rng, 2), draw_latents(rng, 2, rows, columns, pair.config.autoencoder.channels)
    found = pipeline(pair, tokenizer).text_to_image(
        prompts,
        negative,
        latents=noise,
        height=DOWNSCALE * rows,
        width=DOWNSCALE * columns,
        output="latents",
        **options,
    )
    expected = torch_text_to_image(
        pair,
        noise,
        np.stack([tokenizer.caption_ids(prompt, TEXT_LENGTH) for prompt in prompts]),
        tokenizer.caption_ids(negative, TEXT_LENGTH)[None],
        options.get("steps", STEPS),
        options.get("guidance_scale", GUIDANCE_SCALE),
        options.get("sigma_shift", SIGMA_SHIFT),
    )
    assert_parity({"latents": found}, {"latents": expected}, LOOP_BOUND, seed=seed)


@torch.no_grad()
def torch_log_probs(pair: Pair, latents: torch.Tensor | None, token_ids: np.ndarray, mask: int) -> np.ndarray:
    """log p of the clean token at every position as if all were masked: SUBS without its rule for visible tokens."""
    _, logits = pair.mmdit(latents, torch.zeros(len(token_ids)), torch_text(pair, token_ids))
    logits[..., mask] = -torch.inf
    return torch.log_softmax(logits, dim=-1).numpy()


@pytest.mark.parametrize("image", ["image", "null_image"])
def test_subs_at_every_step_of_generating_text(seed, pair, tokenizer, image):
    """T5 encodes the partly masked ids at each step; each example has its own order of revealing positions."""
    rng, pipe, mask = np.random.default_rng(seed), pipeline(pair, tokenizer), tokenizer.mask_token_id
    pixels = rng.uniform(-1, 1, (2, 24, 40, 3)).astype(np.float32)
    latents = None if image == "null_image" else pipe.encode_image(pixels)
    with torch.no_grad():
        torch_latents = None if latents is None else encode_as_sd3(pair.autoencoder, channels_first(pixels))
    clean = rng.integers(1, mask, (2, TEXT_LENGTH))
    revealed_in = rng.permuted(np.tile(np.arange(TEXT_LENGTH), (2, 1)), axis=1)
    found, expected = {}, {}
    for step in range(TEXT_LENGTH):
        token_ids = np.where(revealed_in < step, clean, mask)
        is_masked = token_ids == mask
        ours = np.asarray(pipe.subs_log_probs(latents, token_ids))
        theirs = torch_log_probs(pair, torch_latents, token_ids, mask)
        found[f"step {step}"], expected[f"step {step}"] = (np.delete(p[is_masked], mask, -1) for p in (ours, theirs))
        assert not np.exp(ours[is_masked][:, mask]).any(), "a mask can be drawn"
        np.testing.assert_array_equal(np.exp(ours[~is_masked]), np.eye(len(ours[0, 0]))[token_ids[~is_masked]])
    assert_parity(found, expected, LOOP_BOUND, seed=seed)


@pytest.mark.parametrize("steps", [4, TEXT_LENGTH])
def test_the_likeliest_tokens_are_revealed_first(seed, grey_pair, tokenizer, steps):
    """The reference scores each step, in the order in which the pipeline revealed its tokens."""
    rng, mask, pipe = np.random.default_rng(seed), tokenizer.mask_token_id, pipeline(grey_pair, tokenizer)
    images = rng.integers(0, 256, (3, 8, 12, 3), np.uint8)
    prompt = tokenizer.question_ids(QUESTION, 20)
    sample = pipe.generate_text(
        list(images),
        [prompt] * 3,
        length=len(prompt) + TEXT_LENGTH,
        steps=steps,
        height=8,
        width=12,
        order="confidence",
    )
    latents = channels_first((images / 127.5 - 1.0).mean(axis=-1, keepdims=True).astype(np.float32))
    np.testing.assert_array_equal(sample.token_ids[:, : len(prompt)], np.tile(prompt, (3, 1)))
    assert sample.revealed_in.max() == steps - 1
    for step in range(steps):
        log_p = torch_log_probs(grey_pair, latents, np.where(sample.revealed_in < step, sample.token_ids, mask), mask)
        best, is_chosen = log_p.max(axis=-1), sample.revealed_in == step
        taken = np.take_along_axis(log_p, sample.token_ids[..., None], axis=-1)[..., 0]
        assert (taken >= best - LOOP_BOUND)[is_chosen].all(), f"step {step}: a token is not the likeliest"
        for row in range(3):
            later = best[row][sample.revealed_in[row] > step]
            worst = best[row][is_chosen[row]].min()
            assert not len(later) or worst >= later.max() - 1.1e-3, f"step {step}: a position is not the surest"


@pytest.mark.parametrize("size", [(6, 10), (2, 14)])
def test_every_network_through_the_pipeline(seed, pair, tokenizer, size):
    rng, pipe, config = np.random.default_rng(seed), pipeline(pair, tokenizer), pair.config
    images = rng.uniform(-1, 1, (2, *(DOWNSCALE * side for side in size), 3)).astype(np.float32)
    latents = draw_latents(rng, 2, *size, config.autoencoder.channels)
    token_ids = rng.integers(0, tokenizer.vocab_size, (2, 7))
    timestep = np.asarray([0.0, rng.uniform(0, 1000)], np.float32)
    key = jax.random.key(seed)
    noise = channels_first(jax.random.normal(key, latents.shape))

    text = pipe.encode_text(token_ids)
    found = {
        "text": text,
        "latents": pipe.encode_image(images),
        "sampled_latents": pipe.encode_image(images, key),
        "images": pipe.decode_latents(latents),
        "logits_without_image": pipe.denoise(None, timestep, text).logits,
        **pipe.denoise(latents, timestep, text)._asdict(),
    }
    with torch.no_grad():
        text = torch_text(pair, token_ids)
        velocity, logits = pair.mmdit(channels_first(latents), torch.from_numpy(timestep), text)
        _, without_image = pair.mmdit(None, torch.from_numpy(timestep), text)
        expected = {
            "text": text.numpy(),
            "latents": channels_last(encode_as_sd3(pair.autoencoder, channels_first(images))),
            "sampled_latents": channels_last(encode_as_sd3(pair.autoencoder, channels_first(images), noise)),
            "images": channels_last(decode_as_sd3(pair.autoencoder, channels_first(latents))),
            "logits_without_image": without_image.numpy(),
            "velocity": channels_last(velocity),
            "logits": logits.numpy(),
        }
    assert_parity(found, expected, OUTPUT_BOUND, seed=seed)
