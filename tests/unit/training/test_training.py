"""A step moves what it should, in the way the config says."""

import dataclasses

import jax
import numpy as np
import optax
import pytest

from dualdiff_jax.data.mixture import Mixture
from dualdiff_jax.models.bundle import leaf_specs
from dualdiff_jax.resolution import resolve
from dualdiff_jax.sharding import make_mesh
from dualdiff_jax.training.optimizer import is_decayed, learning_rate
from dualdiff_jax.training.state import abstract_state, init_state
from dualdiff_jax.training.step import make_step, step_key
from tests.small_run import small_run


def run_steps(root, steps=2, **sections):
    """(start, end, metrics of each step) of a few steps of the small run."""
    config, tokenizer = small_run(root, **sections)
    data = Mixture(config.data, tokenizer, seed=0, global_batch_size=config.train.global_batch_size)
    mesh = make_mesh(config.mesh, jax.devices()[:1])
    state, frozen = init_state(config, mesh)
    start = jax.tree.map(np.array, state)
    length = config.data.text_length
    step = make_step(config, mesh, null_token_ids=tokenizer.null_ids(length), mask_token_id=tokenizer.mask_token_id)
    history = []
    for n in range(steps):
        state, metrics = step(state, frozen, data.batch(n))
        history.append(jax.device_get(metrics))
    return start, jax.tree.map(np.array, state), history


def test_the_parts_add_up_and_every_parameter_moves(tmp_path):
    start, end, history = run_steps(tmp_path, steps=4, objective={"text_weight": 0.5})
    assert end.step == 4
    for metrics in history:
        np.testing.assert_allclose(metrics["loss"], metrics["image_loss"] + 0.5 * metrics["text_loss"], rtol=1e-6)
    still = [name for name in start.params if np.array_equal(start.params[name], end.params[name])]
    assert still == ["mmdit.null_image"]  # only a text-only pass uses it


def test_ema_is_the_running_average_of_the_parameters(tmp_path):
    sections = {"optimizer": {"ema_decay": 0.9}}
    start, one, _ = run_steps(tmp_path, steps=1, **sections)
    _, two, _ = run_steps(tmp_path, steps=2, **sections)
    for name, value in two.ema_params.items():
        first = 0.9 * start.params[name] + 0.1 * one.params[name]
        np.testing.assert_allclose(value, 0.9 * first + 0.1 * two.params[name], rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("normalization", ["all_positions", "answer_tokens"])
def test_microbatches_change_nothing(tmp_path, normalization):
    sections = {"objective": {"text_normalization": normalization}}
    _, whole, losses = run_steps(tmp_path, train={"microbatches": 1}, **sections)
    _, parts, again = run_steps(tmp_path, train={"microbatches": 2}, **sections)
    for one, other in zip(losses, again, strict=True):
        for name in one:
            np.testing.assert_allclose(one[name], other[name], rtol=2e-5)
    for name, moment in optax.tree_utils.tree_get(whole.opt_state, "mu").items():
        other = optax.tree_utils.tree_get(parts.opt_state, "mu")[name]
        assert np.linalg.norm(moment - other) <= 1e-5 * np.linalg.norm(moment)


def test_frozen_parts_keep_no_optimizer_state(tmp_path):
    start, _, _ = run_steps(tmp_path, steps=1, train={"trainable": ("mmdit.*",)})
    assert not any(name.startswith("t5.") for name in start.params)
    assert set(optax.tree_utils.tree_get(start.opt_state, "mu")) == set(start.params) == set(start.ema_params)


def test_the_abstract_state_is_the_real_one(tmp_path):
    config, _ = small_run(tmp_path)
    mesh = make_mesh(config.mesh, jax.devices()[:1])
    state, _ = init_state(config, mesh)
    expected = abstract_state(config, mesh)
    assert jax.tree.structure(state) == jax.tree.structure(expected)
    for leaf, spec in zip(jax.tree.leaves(state), jax.tree.leaves(expected), strict=True):
        assert (leaf.shape, leaf.dtype) == (spec.shape, spec.dtype)
        assert leaf.sharding.is_equivalent_to(spec.sharding, leaf.ndim)


def test_the_clip_bounds_the_gradient_that_adam_sees(tmp_path):
    _, end, history = run_steps(tmp_path, steps=1, optimizer={"clip_norm": 1e-3})
    norm = optax.tree.norm(optax.tree_utils.tree_get(end.opt_state, "mu")) / (1 - 0.9)
    assert history[0]["gradient_norm"] > 1e-3
    np.testing.assert_allclose(norm, 1e-3, rtol=1e-4)


def test_warm_up_is_linear_then_constant_or_cosine(tmp_path):
    config, _ = small_run(tmp_path)
    optimizer = dataclasses.replace(config.optimizer, learning_rate=1.0, warmup_steps=10, schedule="constant")
    rate = learning_rate(optimizer, steps=110)
    np.testing.assert_allclose([rate(0), rate(5), rate(10), rate(100)], [0.0, 0.5, 1.0, 1.0], atol=1e-6)
    cosine = learning_rate(dataclasses.replace(optimizer, schedule="cosine"), steps=110)
    np.testing.assert_allclose([cosine(10), cosine(60), cosine(110)], [1.0, 0.5, 0.0], atol=1e-6)
    no_warm_up = learning_rate(dataclasses.replace(optimizer, warmup_steps=0), steps=110)
    assert no_warm_up(0) == 1.0


def test_only_matrices_are_decayed(tmp_path):
    config, _ = small_run(tmp_path)
    undecayed = {name for name in leaf_specs(config.model) if not is_decayed(name)}
    assert {"t5.embedding", "t5.relative_bias", "t5.norm.scale", "mmdit.null_image", "mmdit.text_out.bias"} <= undecayed
    assert all(not name.endswith("kernel") for name in undecayed)


def test_the_randomness_of_a_step_depends_on_seed_and_step_alone():
    keys = {
        (seed, step): tuple(jax.random.key_data(step_key(seed, step)).tolist()) for seed in (0, 1) for step in (0, 1)
    }
    assert len(set(keys.values())) == 4
    assert keys[1, 1] == tuple(jax.random.key_data(jax.jit(step_key, static_argnums=0)(1, 1)).tolist())


def test_a_pattern_that_names_nothing_is_refused(tmp_path):
    from dualdiff_jax.errors import UserError

    config, _ = small_run(tmp_path, train={"trainable": ("unet.*",)})
    with pytest.raises(UserError, match="'unet.*', which is no parameter"):
        init_state(resolve(dataclasses.asdict(config)), make_mesh(config.mesh, jax.devices()[:1]))
