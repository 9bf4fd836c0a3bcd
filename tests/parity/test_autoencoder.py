"""The KL autoencoder against diffusers': layer by layer, then complete, values and gradients."""

from functools import partial, reduce

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from dualdiff_jax.models.autoencoder import LOG_VARIANCE
from dualdiff_jax.models.bundle import bind
from tests.parity.comparison import GRADIENT_BOUND, OUTPUT_BOUND, assert_parity
from tests.parity.pair import KL, Pair, random_pair
from tests.parity.reference import (
    channels_first,
    channels_last,
    decode_as_sd3,
    encode_as_sd3,
    gradients,
    recorded,
)
from tests.torch_weights import from_torch

pytestmark = pytest.mark.parity

BATCH = 2
LEVELS = range(len(KL.autoencoder.level_widths))
DOWNSCALE = 2 ** (len(LEVELS) - 1)
LATENT_SIZES = [(3, 5), (7, 1), (1, 9), (5, 5)]
LAYERS = {  # module here -> diffusers' name
    "encoder.conv_in": "encoder.conv_in",
    **{f"encoder.levels.{level}": f"encoder.down_blocks.{level}" for level in LEVELS},
    "encoder.middle": "encoder.mid_block",
    "encoder.norm_out": "encoder.conv_norm_out",
    "encoder.conv_out": "encoder.conv_out",
    "encoder": "encoder",
    "decoder.conv_in": "decoder.conv_in",
    "decoder.middle": "decoder.mid_block",
    **{f"decoder.levels.{level}": f"decoder.up_blocks.{level}" for level in LEVELS},
    "decoder.norm_out": "decoder.conv_norm_out",
    "decoder.conv_out": "decoder.conv_out",
    "decoder": "decoder",
}


def draw_images(rng: np.random.Generator, size: tuple[int, int]) -> np.ndarray:
    """Images (b, h, w, 3) in [-1, 1] whose latents have ``size``."""
    return rng.uniform(-1.0, 1.0, (BATCH, *(DOWNSCALE * side for side in size), 3)).astype(np.float32)


def draw_latents(rng: np.random.Generator, size: tuple[int, int]) -> np.ndarray:
    return rng.standard_normal((BATCH, *size, KL.autoencoder.channels), np.float32)


def own_weights(pair: Pair) -> dict[str, np.ndarray]:
    return {name: weight for name, weight in pair.weights.items() if name.startswith("autoencoder.")}


@jax.jit
def our_layers(weights: dict, inputs: dict[str, jax.Array]) -> dict[str, jax.Array]:
    """The output of each layer for its own input; ``inputs`` by path of the layer."""
    autoencoder = bind(KL, weights).autoencoder

    def layer(path: str):
        return reduce(
            lambda m, part: m[int(part)] if part.isdigit() else getattr(m, part), path.split("."), autoencoder
        )

    return {path: layer(path)(x) for path, x in inputs.items()}


def test_layer_by_layer(seed):
    """Each layer gets the input of the reference's layer."""
    pair, rng = random_pair(KL, seed), np.random.default_rng(seed)
    with recorded(pair.autoencoder, LAYERS.values()) as passes:
        pair.autoencoder.encode(channels_first(draw_images(rng, (3, 5))))
        pair.autoencoder.decode(channels_first(draw_latents(rng, (5, 3))))
    found = our_layers(
        own_weights(pair), {ours: passes[theirs].first_input.transpose(0, 2, 3, 1) for ours, theirs in LAYERS.items()}
    )
    expected = {ours: passes[theirs].outputs[0].transpose(0, 2, 3, 1) for ours, theirs in LAYERS.items()}
    assert_parity(found, expected, OUTPUT_BOUND, seed=seed)


@jax.jit
def our_posterior(weights: dict, images: jax.Array) -> tuple[jax.Array, jax.Array]:
    return bind(KL, weights).autoencoder.posterior(images)


@jax.jit
def our_encode(weights: dict, images: jax.Array, rng: jax.Array | None) -> jax.Array:
    return bind(KL, weights).autoencoder.encode(images, rng)


@jax.jit
def our_decode(weights: dict, latents: jax.Array) -> jax.Array:
    return bind(KL, weights).autoencoder.decode(latents)


@pytest.mark.parametrize("size", LATENT_SIZES)
def test_encode(seed, size):
    """Mean and log-variance of the posterior, and the latents at its mode."""
    pair, images = random_pair(KL, seed), draw_images(np.random.default_rng(seed), size)
    posterior = pair.autoencoder.encode(channels_first(images)).latent_dist
    latents = encode_as_sd3(pair.autoencoder, channels_first(images))
    expected = {"mean": posterior.mean, "log_variance": posterior.logvar, "latents": latents}
    mean, log_variance = our_posterior(own_weights(pair), images)
    found = {"mean": mean, "log_variance": log_variance, "latents": our_encode(own_weights(pair), images, None)}
    assert_parity(found, {name: channels_last(t) for name, t in expected.items()}, OUTPUT_BOUND, seed=seed)


def test_an_extreme_log_variance_is_clipped(seed):
    pair, images = random_pair(KL, seed), draw_images(np.random.default_rng(seed), LATENT_SIZES[0])
    with torch.no_grad():
        pair.autoencoder.encoder.conv_out.weight.mul_(100.0)
        pair.autoencoder.encoder.conv_out.bias.mul_(100.0)
    weights = own_weights(pair)
    for name in ("kernel", "bias"):
        weights[f"autoencoder.encoder.conv_out.{name}"] = 100.0 * weights[f"autoencoder.encoder.conv_out.{name}"]
    expected = channels_last(pair.autoencoder.encode(channels_first(images)).latent_dist.logvar)
    assert {expected.min(), expected.max()} == set(LOG_VARIANCE), "nothing was clipped"
    _, found = our_posterior(weights, images)
    assert_parity({"log_variance": found}, {"log_variance": expected}, OUTPUT_BOUND, seed=seed)


@pytest.mark.parametrize("keys", ["one_key", "a_key_an_example"])
def test_sample(seed, keys):
    """JAX draws the noise; the reference samples with it."""
    pair, images = random_pair(KL, seed), draw_images(np.random.default_rng(seed), (3, 5))
    b, h, w, c = BATCH, 3, 5, KL.autoencoder.channels
    if keys == "one_key":
        rng = jax.random.key(seed)
        noise = jax.random.normal(rng, (b, h, w, c))
    else:
        rng = jax.random.split(jax.random.key(seed), b)
        noise = jnp.stack([jax.random.normal(key, (h, w, c)) for key in rng])
    expected = channels_last(encode_as_sd3(pair.autoencoder, channels_first(images), channels_first(noise)))
    found = our_encode(own_weights(pair), images, rng)
    assert_parity({"latents": found}, {"latents": expected}, OUTPUT_BOUND, seed=seed)


@pytest.mark.parametrize("size", LATENT_SIZES)
def test_decode(seed, size):
    pair, latents = random_pair(KL, seed), draw_latents(np.random.default_rng(seed), size)
    expected = channels_last(decode_as_sd3(pair.autoencoder, channels_first(latents)))
    found = our_decode(own_weights(pair), latents)
    assert_parity({"images": found}, {"images": expected}, OUTPUT_BOUND, seed=seed)


@partial(jax.jit, static_argnums=0)
@partial(jax.grad, argnums=(1, 2))
def our_gradients(method: str, weights: dict, given: jax.Array, direction: jax.Array) -> jax.Array:
    """Gradients of the output's product with a direction, by leaf and by the input ``given``."""
    return (getattr(bind(KL, weights).autoencoder, method)(given) * direction).sum()


@pytest.mark.parametrize("method", ["encode", "decode"])
def test_gradients(seed, method):
    """With respect to the input and to every weight.

    A key's bias does not change a softmax over all pixels: its gradient is rounding on both sides, and it is
    negligible in the leaf, which also holds the query's and the value's.
    """
    pair, rng = random_pair(KL, seed), np.random.default_rng(seed)
    images, latents = draw_images(rng, (3, 5)), draw_latents(rng, (3, 5))
    given, direction = (images, latents) if method == "encode" else (latents, images)
    by_leaf, by_given = our_gradients(method, own_weights(pair), given, direction)

    torch_given = channels_first(given).requires_grad_()
    output = (encode_as_sd3 if method == "encode" else decode_as_sd3)(pair.autoencoder, torch_given)
    (output * channels_first(direction)).sum().backward()
    expected = from_torch(gradients(pair.autoencoder), KL, ["autoencoder"])
    assert_parity(
        {**by_leaf, "given": by_given},
        {**expected, "given": channels_last(torch_given.grad)},
        GRADIENT_BOUND,
        seed=seed,
    )
