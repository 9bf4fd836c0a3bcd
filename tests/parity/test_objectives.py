"""The joint loss against its equations in torch, with the gradient of every weight.

JAX makes the draws (sigma, noise, dropped captions, t, masks); the torch side uses them and does the rest.
"""

from functools import partial
from typing import NamedTuple

import jax
import numpy as np
import pytest
import torch

from dualdiff_jax.config import ModelConfig, ObjectiveConfig
from dualdiff_jax.convert.state_dict import to_torch
from dualdiff_jax.models.bundle import bind
from dualdiff_jax.objectives.joint import Corrupted, ImageExamples, Objective, TextExamples
from tests.parity.comparison import GRADIENT_BOUND, OUTPUT_BOUND, assert_parity
from tests.parity.pair import CONFIG, KL, Pair, random_pair
from tests.parity.reference import channels_first, encode_as_sd3, gradients

pytestmark = pytest.mark.parity

MASK = CONFIG.mmdit.vocab_size - 2  # not the last, so that an off-by-one shows
BATCH, LENGTH, SIZE = 3, 6, (4, 6)
IMPOSSIBLE = -1e6  # the logit that the original gives to the mask token
OBJECTIVES = {  # the model and its objective
    "pretraining": (CONFIG, ObjectiveConfig()),
    "released": (CONFIG, ObjectiveConfig(image_weighting="sigma_squared", text_weight=1.0, single_forward=False)),
    "answers": (CONFIG, ObjectiveConfig(text_weight=0.7, text_normalization="answer_tokens", caption_dropout=0.5)),
    "continuous_sigma": (
        CONFIG,
        ObjectiveConfig(
            image_weighting="sigma_squared",
            sigma_distribution="logit_normal",
            text_normalization="answer_tokens",
            caption_dropout=1.0,
        ),
    ),
    "through_the_autoencoder": (KL, ObjectiveConfig(text_weight=1.0, text_normalization="answer_tokens")),
}


class Encoded(NamedTuple):
    """The latents of the same images on both sides, sampled with the same noise where there is noise."""

    ours: np.ndarray
    torchs: torch.Tensor


@partial(jax.jit, static_argnums=0)
def our_encode(model: ModelConfig, weights: dict, images: jax.Array, rng: jax.Array) -> jax.Array:
    return bind(model, weights).autoencoder.encode(images, rng)


def encode(pair: Pair, rng: np.random.Generator) -> Encoded:
    """Latents of SIZE of random images, sampled from their posteriors."""
    step, seed = pair.config.autoencoder.downscale, rng.integers(2**31)
    images = rng.uniform(-1, 1, (BATCH, *(step * side for side in SIZE), 3)).astype(np.float32)
    ours = our_encode(pair.config, pair.weights, images, jax.random.key(seed))
    if pair.autoencoder is None:
        return Encoded(np.asarray(ours), channels_first(images))
    noise = channels_first(jax.random.normal(jax.random.key(seed), ours.shape))
    with torch.no_grad():
        return Encoded(np.asarray(ours), encode_as_sd3(pair.autoencoder, channels_first(images), noise))


class Draws(NamedTuple):
    """Clean examples of both streams, and the corrupted batch that the objective gets."""

    image: ImageExamples
    text: TextExamples
    batch: Corrupted
    torch_latents: tuple[torch.Tensor, torch.Tensor]  # of image and text examples, clean


def objective_of(config: ObjectiveConfig) -> Objective:
    return Objective(config, null_token_ids=np.ones(LENGTH, np.int32), mask_token_id=MASK)


def draw_batch(pair: Pair, seed: int, config: ObjectiveConfig) -> Draws:
    """Draws a batch in which at least one token is masked."""
    rng = np.random.default_rng(seed)
    pictures, read = encode(pair, rng), encode(pair, rng)
    image = ImageExamples(pictures.ours, rng.integers(2, MASK, (BATCH, LENGTH), np.int32))
    is_answer = np.arange(LENGTH) >= rng.integers(0, LENGTH - 2, (BATCH, 1))
    text = TextExamples(read.ours, rng.integers(2, MASK, (BATCH, LENGTH), np.int32), is_answer)
    batch = objective_of(config).corrupt(jax.random.key(seed), image, text)
    noisy_token_ids = batch.text.noisy_token_ids.at[0, -1].set(MASK)
    is_masked = batch.text.is_masked.at[0, -1].set(True)
    batch = batch._replace(text=batch.text._replace(is_masked=is_masked, noisy_token_ids=noisy_token_ids))
    return Draws(image, text, batch, (pictures.torchs, read.torchs))


@partial(jax.jit, static_argnums=(0, 1))
def our_loss(model: ModelConfig, config: ObjectiveConfig, trained: dict, constants: dict, batch: Corrupted):
    """(losses by name, gradients by leaf)."""

    def loss(trained):
        return objective_of(config).loss(bind(model, trained | constants), batch)

    (_, losses), gradients = jax.value_and_grad(loss, has_aux=True)(trained)
    return losses, gradients


def reference_loss(pair: Pair, config: ObjectiveConfig, draws: Draws) -> dict[str, torch.Tensor]:
    """The flow loss and the masked loss, each from its own pass, and their weighted sum."""
    image, text, batch, (x, latents) = draws
    e = channels_first(np.asarray(batch.image.velocity) + image.latents)  # the noise
    sigma, t = torch.tensor(np.asarray(batch.image.sigma)), torch.tensor(np.asarray(batch.text.t))
    captions = torch.tensor(np.asarray(batch.image.token_ids)).long()

    level = sigma.reshape(-1, 1, 1, 1)
    noisy = x * (1 - level) + e * level
    velocity, _ = pair.mmdit(noisy, sigma * 1000, pair.t5(input_ids=captions).last_hidden_state)
    if config.image_weighting == "sigma_squared":  # regression of the clean latents, as the original has it
        image_loss = torch.mean((noisy - level * velocity - x) ** 2)
    else:
        image_loss = torch.nn.functional.mse_loss(velocity, e - x)

    clean, is_masked = torch.tensor(text.token_ids).long(), torch.tensor(np.asarray(batch.text.is_masked))
    embeddings = pair.t5(input_ids=clean.masked_fill(is_masked, MASK)).last_hidden_state
    _, logits = pair.mmdit(latents, torch.zeros(BATCH), embeddings)
    logits[..., MASK] += IMPOSSIBLE
    log_p = torch.log_softmax(logits, dim=-1).gather(-1, clean[..., None])[..., 0]
    per_token = torch.where(is_masked, -log_p, 0.0) / t[:, None]
    count = BATCH * LENGTH if config.text_normalization == "all_positions" else int(text.is_answer.sum())
    text_loss = per_token.sum() / count
    return {"loss": image_loss + config.text_weight * text_loss, "image_loss": image_loss, "text_loss": text_loss}


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_losses_and_every_gradient(seed, objective):
    """With respect to the transformer and the text encoder; the autoencoder is never trained."""
    model, config = OBJECTIVES[objective]
    pair = random_pair(model, seed)
    draws = draw_batch(pair, seed, config)
    is_trained = {n: n.startswith(("mmdit.", "t5.")) and n != "mmdit.positions" for n in pair.weights}
    trained, constants = ({n: w for n, w in pair.weights.items() if is_trained[n] == kind} for kind in (True, False))
    losses, by_leaf = our_loss(model, config, trained, constants, draws.batch)

    expected = reference_loss(pair, config, draws)
    expected["loss"].backward()
    found = {name: losses[name] for name in expected}
    assert_parity(found, {n: loss.detach().numpy() for n, loss in expected.items()}, OUTPUT_BOUND, seed=seed)

    positions = {"mmdit.positions": constants["mmdit.positions"]}
    by_key = to_torch(by_leaf | positions, model, ["mmdit", "t5"])
    del by_key["pos_embed.pos_embed"]  # a constant on both sides
    assert_parity(by_key, gradients(pair.mmdit) | gradients(pair.t5), GRADIENT_BOUND, seed=seed)


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_corruption_changes_only_captions_and_answers(seed, objective):
    """The draws of both sides are within the equations' ranges."""
    model, config = OBJECTIVES[objective]
    image, text, batch, _ = draw_batch(random_pair(model, seed), seed, config)
    dropped = (np.asarray(batch.image.token_ids) == 1).all(axis=1)
    np.testing.assert_array_equal(np.asarray(batch.image.token_ids)[~dropped], image.token_ids[~dropped])
    assert not (np.asarray(batch.text.is_masked) & ~text.is_answer).any()
    np.testing.assert_array_equal(batch.text.noisy_token_ids, np.where(batch.text.is_masked, MASK, text.token_ids))
    for clock in (np.asarray(batch.image.sigma), np.asarray(batch.text.t)):
        assert (clock > 0).all() and (clock <= 1).all()
