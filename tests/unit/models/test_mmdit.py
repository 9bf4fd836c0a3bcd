"""Laws of the transformer: which input each output depends on, and in which precision it is computed."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dualdiff_jax.models.bundle import bind, leaf_specs
from tests.unit.tiny import CONFIG, QUICK, draw_latents, random_weights, with_dtype

BATCH, LENGTH = 2, 3
LATENTS = draw_latents(0, BATCH, 4, 6)
TEXT = draw_latents(1, BATCH, LENGTH, CONFIG.t5.width)[..., 0]
TIMESTEP = jnp.array([300.0, 800.0])


@functools.partial(jax.jit, static_argnums=0, compiler_options=QUICK)
def run(config, latents, timestep, text, weights):
    return bind(config, weights).denoise(latents, timestep, text)


def denoise(latents=LATENTS, timestep=TIMESTEP, text=TEXT, config=CONFIG, weights=None):
    return run(config, latents, timestep, text, random_weights(config) if weights is None else weights)


@functools.cache
def gradients() -> dict:
    """Gradients of the sum of squares of each head, by input and by leaf."""

    def heads(latents, text, timestep, weights):
        output = bind(CONFIG, weights).denoise(latents, timestep, text)
        return {"velocity": jnp.square(output.velocity).sum(), "logits": jnp.square(output.logits).sum()}

    found = jax.jit(jax.jacrev(heads, argnums=(0, 1, 2, 3)), compiler_options=QUICK)
    names = ("latents", "text", "timestep", "weights")
    rows = found(LATENTS, TEXT, TIMESTEP, random_weights())
    return {head: dict(zip(names, row, strict=True)) for head, row in rows.items()}


def test_shapes_and_dtypes():
    output = denoise()
    assert output.velocity.shape == LATENTS.shape and output.velocity.dtype == jnp.float32
    assert output.logits.shape == (BATCH, LENGTH, CONFIG.mmdit.vocab_size)


@pytest.mark.parametrize("head", ["velocity", "logits"])
def test_each_stream_reads_every_token_of_both(head):
    """Every latent, every text vector and the timestep move both heads, so attention is full and joint."""
    for name in ("latents", "text", "timestep"):
        assert (np.asarray(gradients()[head][name]) != 0).all(), name


def test_which_parameters_each_head_uses():
    unused = {
        head: {name for name, gradient in gradients()[head]["weights"].items() if not np.asarray(gradient).any()}
        for head in ("velocity", "logits")
    }
    t5 = {name for name in leaf_specs(CONFIG) if name.startswith("t5.")}
    image_head = {f"mmdit.{part}.{leaf}" for part in ("image_modulation", "image_out") for leaf in ("kernel", "bias")}
    assert unused["velocity"] == t5 | {"mmdit.null_image", "mmdit.text_out.kernel", "mmdit.text_out.bias"}
    assert unused["logits"] == t5 | {"mmdit.null_image"} | image_head


def test_a_change_of_text_alone_moves_the_velocity_and_of_latents_alone_the_logits():
    before = denoise()
    moved = denoise(text=TEXT.at[:, 0, 0].add(1.0))
    assert np.abs(moved.velocity - before.velocity).max() > 1e-4
    moved = denoise(latents=LATENTS.at[:, 0, 0, 0].add(1.0))
    assert np.abs(moved.logits - before.logits).max() > 1e-4


def test_the_timestep_modulates_each_example_by_itself():
    before, after = denoise(), denoise(timestep=TIMESTEP.at[1].set(10.0))
    for a, b in zip(before, after, strict=True):
        np.testing.assert_allclose(a[0], b[0], atol=1e-5)
        assert np.abs(a[1] - b[1]).max() > 1e-3


def test_one_timestep_serves_all_examples():
    """Samplers hand it on as (1,)."""
    for a, b in zip(denoise(timestep=jnp.array([500.0])), denoise(timestep=jnp.full(2, 500.0)), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


def test_examples_do_not_see_each_other():
    before, after = denoise(), denoise(LATENTS.at[1].add(1.0), TIMESTEP, TEXT.at[1].add(1.0))
    for a, b in zip(before, after, strict=True):
        np.testing.assert_allclose(a[0], b[0], atol=1e-5)


def test_in_pairs_each_head_runs_on_its_own_rows_alone():
    """Even rows have a velocity and odd rows logits: those of a pass of all heads on all rows."""
    latents, text = draw_latents(2, 6, 4, 6), draw_latents(3, 6, LENGTH, CONFIG.t5.width)[..., 0]
    timestep, weights = 150.0 * jnp.arange(6), random_weights()

    def denoise(in_pairs):
        return lambda *inputs: bind(CONFIG, weights).denoise(*inputs, in_pairs=in_pairs)

    found, everything = (jax.jit(denoise(pairs))(latents, timestep, text) for pairs in (True, False))
    np.testing.assert_allclose(found.velocity, everything.velocity[::2], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(found.logits, everything.logits[1::2], rtol=1e-5, atol=1e-6)
    all_logits = f"[6,{LENGTH},{CONFIG.mmdit.vocab_size}]"
    read, whole = (str(jax.make_jaxpr(denoise(pairs))(latents, timestep, text)) for pairs in (True, False))
    assert all_logits in whole and all_logits not in read


def test_a_text_only_pass_has_no_velocity_and_reads_the_null_image():
    timestep, weights = jnp.zeros(1), random_weights()
    output = denoise(None, timestep)
    assert output.velocity is None and output.logits.shape == (BATCH, LENGTH, CONFIG.mmdit.vocab_size)
    other = weights | {"mmdit.null_image": -weights["mmdit.null_image"]}
    assert np.abs(denoise(None, timestep, weights=other).logits - output.logits).max() > 1e-4


@pytest.mark.parametrize("height, width", [(4, 5), (3, 4)])
def test_latents_that_are_not_made_of_patches_are_an_error(height, width):
    with pytest.raises(ValueError, match=f"latents of {height} x {width} do not divide into patches of 2 x 2"):
        denoise(draw_latents(0, BATCH, height, width))


def test_latents_beyond_the_position_table_are_an_error():
    with pytest.raises(ValueError, match="7 x 2 tokens do not fit the 6 x 6 position table"):
        denoise(draw_latents(0, BATCH, 14, 4))


def test_place_matters():
    """Equal patches at other places get other velocities: the table is added, and cropped from its centre."""
    velocity = denoise(jnp.ones_like(LATENTS)).velocity
    assert np.abs(velocity[:, :2, :2] - velocity[:, 2:, 2:4]).max() > 1e-4
    weights = random_weights()
    flat = weights | {"mmdit.positions": jnp.zeros_like(weights["mmdit.positions"])}
    velocity = denoise(jnp.ones_like(LATENTS), weights=flat).velocity
    np.testing.assert_allclose(velocity[:, :2, :2], velocity[:, 2:, 2:4], atol=1e-5)


def test_bf16_computes_in_bf16_and_keeps_fp32_parameters_and_velocity():
    config = with_dtype("bfloat16")
    assert {spec.dtype for spec in leaf_specs(config).values()} == {jnp.dtype("float32")}
    rounded, exact = denoise(config=config), denoise()
    assert rounded.velocity.dtype == jnp.float32 and rounded.logits.dtype == jnp.bfloat16
    assert exact.logits.dtype == jnp.float32
    for a, b in zip(rounded, exact, strict=True):
        error = np.linalg.norm(np.float32(a) - b) / np.linalg.norm(b)
        assert 1e-4 < error < 0.05
