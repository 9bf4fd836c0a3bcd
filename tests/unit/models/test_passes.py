"""Laws of the passes of inference: the same values as the whole network, without what they do not need."""

import dataclasses
import functools

import jax
import jax.extend
import jax.numpy as jnp
import numpy as np
import pytest

from dualdiff_jax.models import linear, passes
from dualdiff_jax.models.bundle import bind
from dualdiff_jax.models.separated import separated_weights
from dualdiff_jax.models.stack import SHALLOW
from tests.unit.tiny import CONFIG, random_weights

DEPTHS = (1, 2, pytest.param(SHALLOW + 2, marks=pytest.mark.slow))
TIMESTEPS = jnp.array([900.0, 250.0, 0.0])
BATCH, LENGTH = 2, 5


def of_depth(depth: int):
    config = dataclasses.replace(CONFIG, mmdit=dataclasses.replace(CONFIG.mmdit, depth=depth))
    return config, random_weights(config)


def inputs(config):
    latents, text = (
        jax.random.normal(jax.random.key(seed), shape)
        for seed, shape in ((1, (BATCH, 4, 4, config.autoencoder.channels)), (2, (BATCH, LENGTH, config.t5.width)))
    )
    return latents, text


@pytest.mark.parametrize("is_separated", [False, True])
@pytest.mark.parametrize("depth", DEPTHS)
def test_the_passes_are_the_network(depth, is_separated):
    config, weights = of_depth(depth)
    latents, text = inputs(config)
    whole = functools.partial(bind(config, weights).mmdit, in_pairs=False)
    mmdit = bind(config, separated_weights(config, dict(weights)) if is_separated else weights).mmdit

    @jax.jit
    def run(latents, text):
        modulation, stream = passes.modulation_at(mmdit, TIMESTEPS), mmdit.embed_text(text)
        window = mmdit.position_window(*latents.shape[1:3])
        velocities = [passes.velocity(mmdit, latents, stream, modulation.at(k), window) for k in range(len(TIMESTEPS))]
        clean = passes.clean_modulation(mmdit)
        sides = [passes.image_side(mmdit, image, BATCH, clean) for image in (latents, None)]
        return velocities, [passes.logits(mmdit, side, text) for side in sides]

    velocities, logits = run(latents, text)
    for timestep, velocity in zip(TIMESTEPS, velocities, strict=True):
        np.testing.assert_allclose(velocity, whole(latents, timestep[None], text).velocity, rtol=1e-4, atol=1e-5)
    for image, found in zip((latents, None), logits, strict=True):
        np.testing.assert_allclose(found, whole(image, jnp.zeros(1), text).logits, rtol=1e-4, atol=1e-5)


def dots(function, *args) -> int:
    return jax.jit(function).lower(*args).compile().as_text().count(" dot(")


@pytest.mark.parametrize("are_many_rows", [False, True])
def test_what_a_pass_does_not_need_is_not_computed(monkeypatch, are_many_rows):
    """Many rows have a product for queries alone; few have one for queries, keys and values."""
    monkeypatch.setattr(linear, "MANY_ROWS", 1 if are_many_rows else 1 << 20)
    config, weights = of_depth(2)
    latents, text = inputs(config)
    weights = separated_weights(config, weights)

    def whole(weights, latents, text):
        return bind(config, weights).mmdit(latents, jnp.zeros(1), text, in_pairs=False)

    def velocity(weights, latents, stream, modulation):
        mmdit = bind(config, weights).mmdit
        return passes.velocity(mmdit, latents, stream, modulation, mmdit.position_window(*latents.shape[1:3]))

    def logits(weights, side, text):
        return passes.logits(bind(config, weights).mmdit, side, text)

    mmdit = bind(config, weights).mmdit
    modulation = passes.clean_modulation(mmdit)
    side = passes.image_side(mmdit, latents, BATCH, modulation)
    conditioning = 2 + 2 * 2 + 1  # the timestep's MLP, the modulation of two streams in two blocks and of the head
    queries, first_qkv = (1, 3) if are_many_rows else (0, 1)
    last_block = queries + 2 + 3  # of one stream, with scores and sums over values, and what follows attention
    embedding = head = 1
    all_dots = dots(whole, weights, latents, text)
    assert all_dots - dots(velocity, weights, latents, mmdit.embed_text(text), modulation) == (
        conditioning + embedding + head + last_block
    )
    assert all_dots - dots(logits, weights, side, text) == conditioning + embedding + first_qkv + head + last_block


def score_shapes(jaxpr) -> set[tuple[int, ...]]:
    """(queries, keys) of every product over heads, including those in programs inside the program."""
    found = set()
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general" and equation.outvars[0].aval.ndim == 4:
            found.add(equation.outvars[0].aval.shape[-2:])
        for inner in jax.extend.core.jaxprs_in_params(equation.params):
            found |= score_shapes(inner)
    return found


def test_in_the_last_block_only_the_wanted_stream_asks():
    config, weights = of_depth(1)
    latents, text = inputs(config)
    mmdit = bind(config, weights).mmdit
    clean = passes.clean_modulation(mmdit)
    window = mmdit.position_window(*latents.shape[1:3])
    side = passes.image_side(mmdit, latents, BATCH, clean)
    stream = mmdit.embed_text(text)
    image = (latents.shape[1] // config.mmdit.patch_size) ** 2
    drawing = jax.make_jaxpr(lambda latents: passes.velocity(mmdit, latents, stream, clean, window))(latents)
    reading = jax.make_jaxpr(lambda text: passes.logits(mmdit, side, text))(text)
    found = [{(q, k) for q, k in score_shapes(made.jaxpr) if k == image + LENGTH} for made in (drawing, reading)]
    assert found == [{(image, image + LENGTH)}, {(LENGTH, image + LENGTH)}]


def test_separated_weights_hold_every_layer_and_every_projection_once_and_leave_no_second_copy():
    config, weights = of_depth(3)
    expected = dict(weights)
    found = separated_weights(config, weights)
    assert not weights and found.keys() == expected.keys()
    for name, leaf in found.items():
        if ".blocks." not in name:
            assert leaf is expected[name]
        elif ".qkv." in name:
            for layer, whole in zip(leaf, expected[name], strict=True):
                parts = whole.ndim - 3  # the dim that counts them
                for index, part in enumerate(layer):
                    one = np.take(np.asarray(whole), index, parts)
                    np.testing.assert_array_equal(part, one.reshape(part.shape))
                assert len(layer) == whole.shape[parts] and part.ndim == parts + 1
        else:
            for layer, whole in zip(leaf, expected[name], strict=True):
                np.testing.assert_array_equal(layer, whole)
