"""Laws of the weights as one flat dict of named arrays."""

import concurrent.futures
import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from dualdiff_jax.config import MeshConfig
from dualdiff_jax.errors import UserError
from dualdiff_jax.models.bundle import bind, init_weights, leaf_specs, split_trainable, weight_shardings
from dualdiff_jax.models.embeddings import position_table
from dualdiff_jax.models.stack import scan_blocks
from dualdiff_jax.sharding import DEFAULT_RULES, make_mesh
from tests.unit.tiny import CONFIG, QUICK, draw_latents, draw_tokens, random_weights

SPECS = leaf_specs(CONFIG)
CONSTANTS = {"mmdit.positions"}
TIMESTEP = jnp.array([3.0, 900.0])


@pytest.fixture(scope="module")
def mesh():
    return make_mesh(MeshConfig(), jax.devices()[:1])


@pytest.fixture(scope="module")
def fresh(mesh):
    return init_weights(CONFIG, mesh, jax.random.key(0))


def test_names_are_the_paths_in_the_module_tree():
    image, width = SPECS["mmdit.blocks.image.qkv.kernel"], CONFIG.mmdit.width
    assert image.shape == (CONFIG.mmdit.depth, width, 3, CONFIG.mmdit.heads, width // CONFIG.mmdit.heads)
    assert image.axes == ("layers", "width", "projection", "heads", "head_dim")
    assert SPECS["t5.embedding"].shape == (CONFIG.t5.vocab_size, CONFIG.t5.width)
    assert SPECS["mmdit.null_image"].shape == (1, CONFIG.mmdit.null_image_tokens, width)
    assert SPECS["mmdit.text_out.kernel"].shape == (width, CONFIG.mmdit.vocab_size)
    assert {name.split(".")[0] for name in SPECS} == {"mmdit", "t5"}


def test_every_dim_of_every_leaf_has_an_axis_that_the_table_knows():
    for name, spec in SPECS.items():
        assert len(spec.axes) == len(spec.shape), name
        assert set(spec.axes) <= {axis for axis, _ in DEFAULT_RULES.rows} | {None}, name


def test_constants_are_not_trainable_and_everything_else_is():
    assert {name for name, spec in SPECS.items() if not spec.trainable} == CONSTANTS


@pytest.mark.parametrize(
    "patterns, chosen",
    [
        (("*",), lambda name: True),
        (("mmdit.*",), lambda name: name.startswith("mmdit.")),
        (("t5.embedding", "mmdit.text_out.*"), lambda name: name == "t5.embedding" or "text_out" in name),
        (("mmdit.blocks.text.*.bias",), lambda name: name.startswith("mmdit.blocks.text") and name.endswith("bias")),
    ],
)
def test_patterns_choose_what_is_trained_and_never_a_constant(patterns, chosen):
    trainable, frozen = split_trainable(CONFIG, SPECS, patterns)
    assert set(trainable) == {name for name in SPECS if chosen(name)} - CONSTANTS
    assert not trainable.keys() & frozen.keys() and trainable | frozen == SPECS


def test_the_two_parts_hold_the_very_arrays(fresh):
    trainable, frozen = split_trainable(CONFIG, fresh, ("mmdit.*",))
    for name, value in (trainable | frozen).items():
        assert value is fresh[name]


@pytest.mark.parametrize("pattern", ["mmdit.block.*", "t5", "mmdit.BLOCKS.*"])
def test_a_pattern_that_names_nothing_is_an_error(pattern):
    with pytest.raises(UserError, match=r"train\.trainable has .*, which is no parameter") as error:
        split_trainable(CONFIG, SPECS, ("mmdit.*", pattern))
    assert repr(pattern) in str(error.value)


def test_fresh_weights_have_the_declared_shapes_and_lie_on_the_mesh(fresh, mesh):
    shardings = weight_shardings(CONFIG, mesh)
    assert fresh.keys() == SPECS.keys() == shardings.keys()
    for name, value in fresh.items():
        assert (value.shape, value.dtype) == (SPECS[name].shape, SPECS[name].dtype), name
        assert value.sharding == shardings[name], name


def test_fresh_weights_are_a_function_of_the_key(fresh, mesh):
    again, other = (init_weights(CONFIG, mesh, jax.random.key(seed)) for seed in (0, 1))
    drawn = {name for name in SPECS if np.ptp(fresh[name]) > 0} - CONSTANTS
    assert {"t5.embedding", "mmdit.null_image", "mmdit.blocks.text.mlp_in.kernel", "t5.blocks.q.kernel"} <= drawn
    for name in SPECS:
        np.testing.assert_array_equal(fresh[name], again[name], err_msg=name)
        assert (name in drawn) == bool((np.asarray(fresh[name]) != np.asarray(other[name])).any()), name


def test_no_two_leaves_start_from_the_same_draws(fresh):
    """Apart from their scale, which the inputs' size decides."""
    drawn = [np.asarray(value).ravel() for name, value in fresh.items() if np.ptp(value) > 0 and name not in CONSTANTS]
    shapes_of_draws = {tuple((value[:8] / value[0]).round(3)) for value in drawn}
    assert len(shapes_of_draws) == len(drawn)


def test_positions_start_from_their_table(fresh):
    sizes = CONFIG.mmdit
    expected = position_table(sizes.position_grid, sizes.position_base, sizes.width)
    np.testing.assert_array_equal(fresh["mmdit.positions"], expected)


def test_bind_puts_every_array_in_its_place():
    weights = random_weights()
    state = nnx.to_flat_state(nnx.state(bind(CONFIG, weights)))
    found = {".".join(map(str, path)): variable.get_value() for path, variable in state}
    assert found.keys() == weights.keys()
    for name, value in found.items():
        np.testing.assert_array_equal(value, weights[name], err_msg=name)


def test_a_bound_model_runs_its_blocks_as_it_is_told():
    called = []

    def run_blocks(blocks, apply, carry):
        called.append(blocks)
        return scan_blocks(blocks, apply, carry)

    model = bind(CONFIG, random_weights(), run_blocks)
    jax.eval_shape(model, draw_latents(0, 2, 4, 8), TIMESTEP, draw_tokens(1, 2, 3))
    assert called == [model.mmdit.blocks]


def test_a_fresh_model_runs_and_predicts_nothing_yet(fresh):
    """Both heads start at zero: no velocity, and every token as likely as any other."""
    latents, tokens = draw_latents(0, 2, 4, 8), draw_tokens(1, 2, 3)
    run = jax.jit(lambda weights: bind(CONFIG, weights)(latents, TIMESTEP, tokens), compiler_options=QUICK)
    output = run(fresh)
    np.testing.assert_array_equal(output.velocity, np.zeros((2, 4, 8, 1)))
    np.testing.assert_array_equal(output.logits, np.zeros((2, 3, CONFIG.mmdit.vocab_size)))


@pytest.mark.parametrize("channels", [1, 3])
def test_the_shapes_of_a_bound_model_follow_its_inputs(channels):
    config = dataclasses.replace(CONFIG, autoencoder=dataclasses.replace(CONFIG.autoencoder, channels=channels))
    weights = {name: jax.ShapeDtypeStruct(spec.shape, spec.dtype) for name, spec in leaf_specs(config).items()}
    latents, tokens = draw_latents(0, 2, 4, 8, channels), draw_tokens(1, 2, 3)
    output = jax.eval_shape(lambda weights: bind(config, weights)(latents, TIMESTEP, tokens), weights)
    assert output.velocity.shape == latents.shape
    assert output.logits.shape == (2, 3, config.mmdit.vocab_size)


def test_the_model_is_t5_before_the_transformer():
    weights, tokens = random_weights(), draw_tokens(1, 2, 3)
    latents = draw_latents(0, 2)

    def both_ways(weights):
        model = bind(CONFIG, weights)
        return model(latents, TIMESTEP, tokens), model.denoise(latents, TIMESTEP, model.encode_text(tokens))

    together, apart = jax.jit(both_ways, compiler_options=QUICK)(weights)
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-6), together, apart)
    assert np.ptp(together.velocity) > 0 and np.ptp(together.logits) > 0


def test_a_model_can_be_bound_first_in_another_thread():
    """flax keeps its settings by thread."""
    config = dataclasses.replace(CONFIG, mmdit=dataclasses.replace(CONFIG.mmdit, null_image_tokens=5))
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        specs = pool.submit(leaf_specs, config).result()
    assert specs["mmdit.null_image"].shape[1] == 5
