"""Fifty steps of the published recipe, here and in a torch loop, from the same weights and the same draws.

JAX draws sigmas, noise and masks of each step and hands them to torch, which does the rest with its own modules:
losses, backward pass, clip by the global norm, AdamW with warm-up, running average.
"""

import dataclasses

import jax
import numpy as np
import pytest
import torch

from dualdiff_jax.config import ObjectiveConfig
from dualdiff_jax.convert.state_dict import to_torch
from dualdiff_jax.data.batch import Batch
from dualdiff_jax.models.bundle import bind
from dualdiff_jax.objectives.joint import ImageExamples, Objective, TextExamples
from dualdiff_jax.sharding import make_mesh
from dualdiff_jax.training import setup as train_setup
from dualdiff_jax.training.setup import TrainSetup
from dualdiff_jax.training.step import make_step, step_key
from tests.parity.comparison import relative_error
from tests.parity.pair import CONFIG, Pair, random_pair
from tests.parity.reference import arrays
from tests.parity.test_objectives import BATCH, LENGTH, MASK, SIZE, Draws, channels_first, reference_loss
from tests.small_run import small_run

pytestmark = pytest.mark.parity

STEPS, WARMUP, RATE, DECAY, CLIP, EMA = 50, 5, 3e-4, 1e-2, 2.0, 0.9
BOUND = 1e-4
NULL_TOKEN_IDS = np.ones(LENGTH, np.int32)
BATCHES = 5  # repeated for all steps, so that the loss falls


def draw_batches(seed: int) -> list[Batch]:
    rng = np.random.default_rng(seed)
    batches = []
    for _ in range(BATCHES):
        streams = []
        for _ in range(2):
            image = rng.uniform(-1, 1, (BATCH, *SIZE, 3)).astype(np.float32)
            token_ids = rng.integers(2, MASK, (BATCH, LENGTH)).astype(np.int32)
            streams.append({"image": image, "token_ids": token_ids, "is_answer": np.ones((BATCH, LENGTH), bool)})
        batches.append(Batch(*streams))
    return batches


def our_run(tmp_path, monkeypatch, pair: Pair, batches: list[Batch], objective: ObjectiveConfig):
    """(losses, weights at the end, averages at the end, corrupted batches of all steps)."""
    config, _ = small_run(
        tmp_path,
        train={"steps": STEPS, "global_batch_size": BATCH, "trainable": ("mmdit.*",)},
        optimizer={
            "learning_rate": RATE,
            "warmup_steps": WARMUP,
            "schedule": "constant",
            "weight_decay": DECAY,
            "clip_norm": CLIP,
            "ema_decay": EMA,
        },
    )
    config = dataclasses.replace(config, model=CONFIG, objective=objective)
    weights = {name: jax.numpy.asarray(weight) for name, weight in pair.weights.items()}
    monkeypatch.setattr(train_setup, "initial_weights", lambda *_: dict(weights))
    setup = TrainSetup(config, make_mesh(config.mesh, jax.devices()[:1]))
    params, frozen = setup.init_params()
    state = setup.init_state(params)
    losses_of = Objective(objective, null_token_ids=NULL_TOKEN_IDS, mask_token_id=MASK)
    step = make_step(setup, losses_of)
    encode = bind(CONFIG, weights).autoencoder.encode
    draws = jax.jit(lambda batch, rng: losses_of.corrupt_batch(rng, batch, encode))
    losses, corrupted = [], []
    for n in range(STEPS):
        batch = batches[n % BATCHES]
        corrupted.append(jax.device_get(draws(batch, step_key(config.seed, n))))
        state, metrics = step(state, frozen, batch)
        losses.append({name: float(metrics[name]) for name in ("loss", "image_loss", "text_loss")})
    return losses, *(jax.device_get(tree) for tree in (state.params, state.ema_params)), corrupted


def torch_run(pair: Pair, batches: list[Batch], corrupted: list, objective: ObjectiveConfig):
    """The torch loop: (losses, state dict at the end, averages at the end)."""
    named = dict(pair.mmdit.named_parameters())
    plain = [p for name, p in named.items() if p.ndim >= 2 and name != "null_image_embd"]
    groups = [
        {"params": plain, "weight_decay": DECAY},
        {"params": [p for p in named.values() if not any(p is other for other in plain)], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=RATE, betas=(0.9, 0.999))
    average = {name: p.detach().clone() for name, p in named.items()}
    losses = []
    for n in range(STEPS):
        batch = batches[n % BATCHES]
        for group in optimizer.param_groups:
            group["lr"] = RATE * min(1.0, n / WARMUP)
        image = ImageExamples(batch.image["image"], batch.image["token_ids"])
        text = TextExamples(batch.text["image"], batch.text["token_ids"], batch.text["is_answer"])
        latents = channels_first(image.latents), channels_first(text.latents)
        found = reference_loss(pair, objective, Draws(image, text, corrupted[n], latents))
        optimizer.zero_grad(set_to_none=False)
        found["loss"].backward()
        torch.nn.utils.clip_grad_norm_(list(named.values()), CLIP)
        optimizer.step()
        for name, p in named.items():
            average[name].lerp_(p.detach(), 1.0 - EMA)
        losses.append({name: loss.item() for name, loss in found.items()})
    return losses, arrays(pair.mmdit), {name: value.numpy() for name, value in average.items()}


def test_fifty_steps_are_those_of_a_torch_loop(tmp_path, monkeypatch, seed):
    objective = ObjectiveConfig(image_weighting="sigma_squared", text_weight=0.2, caption_dropout=0.1)
    pair, batches = random_pair(CONFIG, seed), draw_batches(seed)
    for parameter in pair.mmdit.parameters():  # so that torch decays parameters without gradient as well
        parameter.grad = torch.zeros_like(parameter)
    losses, params, averages, corrupted = our_run(tmp_path, monkeypatch, pair, batches, objective)
    expected, end, average = torch_run(pair, batches, corrupted, objective)
    far = [
        (n, name, ours[name], theirs[name])
        for n, (ours, theirs) in enumerate(zip(losses, expected, strict=True))
        for name in theirs
        if not abs(ours[name] - theirs[name]) <= BOUND * abs(theirs[name])
    ]
    assert not far
    assert np.mean([loss["loss"] for loss in losses[-5:]]) < 0.9 * np.mean([loss["loss"] for loss in losses[:5]])
    constants = {name: weight for name, weight in pair.weights.items() if name not in params}
    errors = {}
    for which, ours, theirs in (("end", params, end), ("average", averages, average)):
        by_key = to_torch(dict(ours) | constants, CONFIG)
        errors |= {(which, key): relative_error(by_key[key], value) for key, value in theirs.items()}
    print(f"largest relative error of a weight {max(errors.values()):.1e}")
    assert not {key: error for key, error in errors.items() if not error <= BOUND}
