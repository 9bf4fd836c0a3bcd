"""Rounding to bfloat16 may not lose more here than in torch, measured against the same truth in fp32.

Both sides get the same inputs and the same weights, rounded to bfloat16 as ``from_pretrained(dtype="bfloat16")``
rounds them. The truth is the reference in fp32 with unrounded weights.
"""

import copy
import dataclasses
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import scaled_dot_product_attention

from dualdiff_jax.models.attention import attention
from dualdiff_jax.pipeline import programs
from tests.parity.comparison import relative_error
from tests.parity.pair import random_pair, sized
from tests.parity.reference import channels_first, channels_last, decode_as_sd3, encode_as_sd3

pytestmark = pytest.mark.parity

RATIO_BOUND = 1.2
# Torch rounds a row's weights relative to the largest, which stays exact; here all weights are rounded. Where one
# weight dominates the row, that adds a second rounding as large as the output's.
ATTENTION_RATIO_BOUND = 2**0.5
BATCH = 2
CONFIG = sized(  # wide and deep enough for the ratio of two errors to be stable from draw to draw
    mmdit={"depth": 4, "width": 128, "heads": 4, "vocab_size": 211, "position_grid": 16, "position_base": 8},
    t5={"depth": 4, "width": 96, "heads": 4, "head_dim": 24, "mlp_width": 160, "vocab_size": 223},
    autoencoder={"kind": "kl", "channels": 4, "level_widths": (32, 64, 64), "level_depth": 1, "norm_groups": 8},
)
HALF = dataclasses.replace(CONFIG, compute_dtype="bfloat16")


def rounded(network: nn.Module) -> nn.Module:
    return copy.deepcopy(network).to(torch.bfloat16)


def assert_rounds_no_more(
    ours: Mapping, theirs: Mapping, truth: Mapping[str, np.ndarray], seed: int, bound: float = RATIO_BOUND
) -> None:
    for name, expected in truth.items():
        own, torchs = (relative_error(np.asarray(side[name], np.float32), expected) for side in (ours, theirs))
        print(f"{name}: ours {own:.4f}, torch's {torchs:.4f}, ratio {own / torchs:.3f}, bound {bound:.3f}")
        assert own <= bound * torchs, f"seed {seed}, {name}: error {own:.4f} here, {torchs:.4f} in torch"


@pytest.mark.parametrize("head_dim", [64, 48, 512])
def test_attention(seed, head_dim):
    """With logits as large as a trained network's, whose rounding would show; the inputs are rounded already."""
    rng = np.random.default_rng(seed)
    given = [
        jnp.asarray(rng.standard_normal((BATCH, 40, 3, head_dim), np.float32) * size, jnp.bfloat16)
        for size in (3, 3, 1)
    ]
    ours = jax.jit(attention, static_argnames="scale")(*given, scale=head_dim**-0.5)
    q, k, v = (torch.from_numpy(np.asarray(array, np.float32)).transpose(1, 2) for array in given)
    truth = scaled_dot_product_attention(q, k, v)
    theirs = scaled_dot_product_attention(q.bfloat16(), k.bfloat16(), v.bfloat16()).float()
    theirs, truth = ({"attended": side.transpose(1, 2).numpy()} for side in (theirs, truth))
    assert_rounds_no_more({"attended": ours}, theirs, truth, seed, bound=ATTENTION_RATIO_BOUND)


@pytest.fixture
def pair(seed):
    return random_pair(CONFIG, seed)


@pytest.fixture
def weights(pair) -> dict[str, jax.Array]:
    return {name: jnp.asarray(weight, jnp.bfloat16) for name, weight in pair.weights.items()}


def test_velocity_and_logits(seed, pair, weights):
    rng = np.random.default_rng(seed)
    latents = rng.standard_normal((BATCH, 24, 16, CONFIG.autoencoder.channels), np.float32)
    timestep = rng.uniform(0, 1000, BATCH).astype(np.float32)
    text = rng.standard_normal((BATCH, 24, CONFIG.t5.width), np.float32)

    def torch_pass(network: nn.Module, dtype: torch.dtype) -> dict[str, np.ndarray]:
        given = channels_first(latents).to(dtype), torch.from_numpy(timestep), torch.from_numpy(text).to(dtype)
        velocity, logits = network(*given)
        return {"velocity": channels_last(velocity), "logits": logits.float().numpy()}

    with torch.no_grad():
        truth, theirs = torch_pass(pair.mmdit, torch.float32), torch_pass(rounded(pair.mmdit), torch.bfloat16)
    assert_rounds_no_more(programs.denoise(HALF, weights, latents, timestep, text)._asdict(), theirs, truth, seed)


def test_text_embeddings(seed, pair, weights):
    token_ids = np.random.default_rng(seed).integers(0, CONFIG.t5.vocab_size, (BATCH, 48))

    def torch_pass(network: nn.Module) -> dict[str, np.ndarray]:
        return {"text": network(input_ids=torch.from_numpy(token_ids)).last_hidden_state.float().numpy()}

    with torch.no_grad():
        truth, theirs = torch_pass(pair.t5), torch_pass(rounded(pair.t5))
    assert_rounds_no_more({"text": programs.encode_text(HALF, weights, token_ids)}, theirs, truth, seed)


def test_images_and_latents(seed, pair, weights):
    rng = np.random.default_rng(seed)
    images = rng.uniform(-1, 1, (BATCH, 48, 32, 3)).astype(np.float32)
    latents = rng.standard_normal((BATCH, 12, 8, CONFIG.autoencoder.channels), np.float32)

    def torch_pass(network: nn.Module, dtype: torch.dtype) -> dict[str, np.ndarray]:
        return {
            "latents": channels_last(encode_as_sd3(network, channels_first(images).to(dtype))),
            "images": channels_last(decode_as_sd3(network, channels_first(latents).to(dtype))),
        }

    with torch.no_grad():
        truth, theirs = (
            torch_pass(pair.autoencoder, torch.float32),
            torch_pass(rounded(pair.autoencoder), torch.bfloat16),
        )
    ours = {
        "latents": programs.encode_image(HALF, weights, images, None),
        "images": programs.decode_latents(HALF, weights, latents),
    }
    assert_rounds_no_more(ours, theirs, truth, seed)
