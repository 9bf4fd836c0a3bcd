"""A step moves what it should, in the way the config says."""

import dataclasses

import jax
import numpy as np
import optax
import pytest

from dualdiff_jax.config.resolve import resolve
from dualdiff_jax.data.mixture import Mixture
from dualdiff_jax.models.bundle import leaf_specs
from dualdiff_jax.sharding import make_mesh
from dualdiff_jax.training import setup
from dualdiff_jax.training import step as step_module
from dualdiff_jax.training.optimizer import ema_decay, is_decayed, learning_rate, make_optimizer
from dualdiff_jax.training.setup import TrainSetup
from dualdiff_jax.training.step import step_key
from tests.small_run import first_state, small_run, step_of
from tests.unit.tiny import QUICK

STARTS = {}  # (config but for its data, how weights are made) -> state before the first step, frozen weights
COMPILED = {}  # (config but for its data, structure of the arguments) -> its compiled step


def run_steps(root, steps=2, spoil=lambda step, batch: batch, is_kept=True, **sections):
    """(start, end, metrics of each step) of a few steps of the small run.

    ``spoil`` changes the batch of a step. The program is compiled once for all tests, unless ``is_kept`` is false, and
    they share the state before the first step.
    """
    config, tokenizer = small_run(root, **({"model": {"mmdit": {"depth": 1}}} | sections))
    data = Mixture(config.data, tokenizer, seed=0, global_batch_size=config.train.global_batch_size)
    mesh = make_mesh(config.mesh, jax.devices()[:1])
    named = repr((config.model, config.objective, config.optimizer, config.train, config.lora))
    begun = named, setup.initial_weights
    if begun not in STARTS:
        first, frozen = first_state(config, mesh)
        STARTS[begun] = jax.tree.map(np.array, first), frozen
    start, frozen = STARTS[begun]
    state = jax.device_put(jax.tree.map(np.copy, start), TrainSetup(config, mesh).shardings)  # donated by a step
    arguments = state, frozen, spoil(0, data.batch(0))
    program = named, jax.tree.structure(arguments)
    step = COMPILED.get(program) if is_kept else None
    step = step or step_of(config, tokenizer, mesh).lower(*arguments).compile(compiler_options=QUICK)
    if is_kept:
        COMPILED[program] = step
    history = []
    for n in range(steps):
        given = state
        state, metrics = step(given, frozen, spoil(n, data.batch(n)))
        assert all(leaf.is_deleted() for leaf in jax.tree.leaves(given))  # the new state took its memory
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


def test_a_step_that_is_not_finite_moves_nothing_but_the_count(tmp_path):
    """Step 1 of 0, 1, 2 has a NaN in an image: the state after it is the one before, and the rate waits too."""

    def spoil(step, batch):
        image = batch.image["image"].copy()
        image[0, 0, 0, 0] = np.nan
        return batch._replace(image=batch.image | {"image": image}) if step == 1 else batch

    _, one, _ = run_steps(tmp_path, steps=1)
    _, two, _ = run_steps(tmp_path, steps=2, spoil=spoil)
    _, three, history = run_steps(tmp_path, steps=3, spoil=spoil)
    for name in ("params", "ema_params", "opt_state"):
        jax.tree.map(np.testing.assert_array_equal, getattr(two, name), getattr(one, name))
    assert (int(two.step), int(two.skipped), int(two.skipped_in_row)) == (2, 1, 1)
    assert (int(three.step), int(three.skipped), int(three.skipped_in_row)) == (3, 1, 0)
    assert [int(metrics["skipped_in_row"]) for metrics in history] == [0, 1, 0]
    assert np.isnan(history[1]["loss"]) and np.isfinite(history[2]["loss"])
    rates = [float(metrics["learning_rate"]) for metrics in history]
    assert rates[2] == rates[1] > rates[0]
    assert not all(np.array_equal(three.params[name], two.params[name]) for name in two.params)


def test_a_gradient_alone_that_is_not_finite_is_enough(tmp_path, monkeypatch):
    """The loss is a number, and one entry of one gradient is infinite."""
    gradients = step_module._gradients

    def spoilt(*arguments):
        found, metrics = gradients(*arguments)
        return found | {"mmdit.text_out.bias": found["mmdit.text_out.bias"].at[0].set(np.inf)}, metrics

    monkeypatch.setattr(step_module, "_gradients", spoilt)
    start, end, history = run_steps(tmp_path, steps=1, is_kept=False, optimizer={"warmup_steps": 0})
    jax.tree.map(np.testing.assert_array_equal, (end.params, end.opt_state), (start.params, start.opt_state))
    assert np.isfinite(history[0]["loss"]) and int(end.skipped) == 1


def test_text_without_images_trains_the_null_image(tmp_path):
    """Such a batch has no ``image`` in its text stream; the image half is as it was."""

    def spoil(step, batch):
        return batch._replace(text={name: batch.text[name] for name in ("token_ids", "is_answer")})

    sections = {"optimizer": {"warmup_steps": 0}, "train": {"microbatches": 2}}
    _, _, usual = run_steps(tmp_path, steps=1, **sections)
    start, end, history = run_steps(tmp_path, steps=4, spoil=spoil, **sections)  # until no head and no gate is zero
    np.testing.assert_allclose(history[0]["image_loss"], usual[0]["image_loss"], rtol=1e-5)
    assert history[1]["text_loss"] > 0
    assert not np.array_equal(end.params["mmdit.null_image"], start.params["mmdit.null_image"])


def test_norms_of_the_parts_are_those_of_the_whole(tmp_path):
    _, _, history = run_steps(tmp_path, steps=2)
    for name in ("gradient_norm", "update_norm"):
        parts = [value for key, value in history[1].items() if key.startswith(f"{name}/")]
        assert len(parts) == 4
        np.testing.assert_allclose(np.sqrt(sum(np.square(parts))), history[1][name], rtol=1e-5)


def test_losses_by_the_clock_add_up_to_the_losses(tmp_path):
    _, _, history = run_steps(tmp_path, steps=2)
    for metrics in history:
        for loss, bins in (("image_loss", "image_loss_by_sigma"), ("text_loss", "text_loss_by_t")):
            sums, counts = metrics[bins]
            np.testing.assert_allclose(sums.sum(), metrics[loss], rtol=1e-6)
            assert counts.sum() == 4


@pytest.mark.parametrize("left_out", ["image", "text"])
def test_a_half_without_weight_is_left_out_and_the_other_stays_as_it_was(tmp_path, left_out):
    _, _, both = run_steps(tmp_path, steps=1, objective={"text_weight": 1.0, "single_forward": False})
    weights = {"text_weight": 1.0} | {f"{left_out}_weight": 0.0}
    start, end, alone = run_steps(tmp_path, steps=3, objective=weights)
    kept = "text" if left_out == "image" else "image"
    assert f"{left_out}_loss" not in alone[0]
    np.testing.assert_allclose(alone[0][f"{kept}_loss"], both[0][f"{kept}_loss"], rtol=1e-6)
    head = f"mmdit.{left_out}_out.kernel"
    np.testing.assert_array_equal(end.params[head], start.params[head])
    assert not np.array_equal(end.params[f"mmdit.{kept}_out.kernel"], start.params[f"mmdit.{kept}_out.kernel"])


NAMES = ("adamw", "adafactor", "lion", "muon")
SOME = ("mmdit.text_out.kernel", "mmdit.text_out.bias", "mmdit.blocks.image.qkv.kernel", "mmdit.null_image")


def leaves_and_optimizer(root, name, **fields):
    """(specs of ``SOME``, the optimizer of that name for them)."""
    config, _ = small_run(root)
    specs = {leaf: leaf_specs(config.model)[leaf] for leaf in SOME}
    settings = dataclasses.replace(config.optimizer, name=name, warmup_steps=0, schedule="constant", **fields)
    return specs, make_optimizer(settings, 10, specs)


@pytest.mark.parametrize("name", NAMES)
def test_every_optimizer_goes_downhill(tmp_path, name):
    specs, optimizer = leaves_and_optimizer(tmp_path, name, learning_rate=0.03, weight_decay=0.0, clip_norm=0.0)
    rng = np.random.default_rng(0)
    target = {leaf: rng.standard_normal(spec.shape).astype(np.float32) for leaf, spec in specs.items()}

    @jax.jit
    def descend(params):
        def one(carry, _):
            params, state = carry
            gradients = jax.tree.map(lambda p, t: p - t, params, target)
            updates, state = optimizer.update(gradients, state, params)
            return (optax.apply_updates(params, updates), state), optax.tree.norm(gradients)

        return jax.lax.scan(one, (params, optimizer.init(params)), length=20)

    (params, _), distances = descend(jax.tree.map(np.zeros_like, target))
    assert distances[-1] < 0.9 * distances[0] and np.isfinite(distances).all()
    assert all(np.abs(params[leaf]).max() > 0 for leaf in SOME)


@pytest.mark.parametrize("name", NAMES)
def test_the_state_of_every_optimizer_can_be_placed(tmp_path, name):
    """Moments lie where their parameters do; what is factored or counted lies everywhere."""
    config, _ = small_run(tmp_path, optimizer={"name": name}, model={"mmdit": {"width": 128}})
    mesh = make_mesh(config.mesh, jax.devices()[:1])
    state = TrainSetup(config, mesh).abstract_state
    shapes = {leaf: value.shape for leaf, value in state.params.items()}
    like_params = 0
    for path, leaf in jax.tree.leaves_with_path(state.opt_state):
        names = [key.key for key in path if isinstance(key, jax.tree_util.DictKey)]
        if names and shapes.get(names[-1]) == leaf.shape:
            assert leaf.sharding == state.params[names[-1]].sharding
            like_params += 1
        else:
            assert leaf.sharding.is_fully_replicated
    assert like_params >= len(shapes) * (0.3 if name == "adafactor" else 1)


@pytest.mark.parametrize("decayed", ["kernels", "all"])
@pytest.mark.parametrize("name", NAMES)
def test_decay_moves_matrices_and_nothing_else_unless_it_acts_on_all(tmp_path, name, decayed):
    """Without a gradient."""
    specs, optimizer = leaves_and_optimizer(tmp_path, name, learning_rate=0.1, weight_decay=0.5, decayed=decayed)
    params = {leaf: np.ones(spec.shape, np.float32) for leaf, spec in specs.items()}
    zero = jax.tree.map(np.zeros_like, params)
    updates, _ = jax.jit(optimizer.update)(zero, optimizer.init(params), params)
    for leaf, update in updates.items():
        expected = -0.05 if is_decayed(leaf) or decayed == "all" else 0.0
        np.testing.assert_allclose(update, expected, atol=1e-6, err_msg=leaf)
    assert [is_decayed(leaf) for leaf in SOME] == [True, False, True, False]


def test_the_average_starts_late(tmp_path):
    config, _ = small_run(tmp_path)
    for is_warm in (False, True):
        late = dataclasses.replace(config.optimizer, ema_start=3, ema_decay=0.25, ema_warmup=is_warm)
        assert [float(ema_decay(late, jax.numpy.int32(n))) for n in range(4)] == [0.0, 0.0, 0.25, 0.25]


def test_the_average_warms_up(tmp_path):
    config, _ = small_run(tmp_path)
    warm = dataclasses.replace(config.optimizer, ema_warmup=True, ema_decay=0.9)
    found = [float(ema_decay(warm, jax.numpy.int32(n))) for n in (0, 9, 100)]
    np.testing.assert_allclose(found, [0.1, 10 / 19, 0.9])
    assert ema_decay(config.optimizer, jax.numpy.int32(0)) == config.optimizer.ema_decay
    start, one, _ = run_steps(tmp_path, steps=2, optimizer={"ema_warmup": True, "ema_decay": 0.9})
    name = "mmdit.text_out.kernel"  # no rate in the first step; the second has decay 2/11
    expected = 2 / 11 * start.params[name] + 9 / 11 * one.params[name]
    np.testing.assert_allclose(one.ema_params[name], expected, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("normalization", [pytest.param("all_positions", marks=pytest.mark.slow), "answer_tokens"])
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
    config, _ = small_run(tmp_path, train={"trainable": ("mmdit.*",)})
    start, _ = first_state(config, make_mesh(config.mesh, jax.devices()[:1]))
    assert not any(name.startswith("t5.") for name in start.params)
    assert set(optax.tree_utils.tree_get(start.opt_state, "mu")) == set(start.params) == set(start.ema_params)


def test_the_abstract_state_is_the_real_one(tmp_path):
    config, _ = small_run(tmp_path)
    mesh = make_mesh(config.mesh, jax.devices()[:1])
    state, _ = first_state(config, mesh)
    expected = TrainSetup(config, mesh).abstract_state
    assert jax.tree.structure(state) == jax.tree.structure(expected)
    for leaf, spec in zip(jax.tree.leaves(state), jax.tree.leaves(expected), strict=True):
        assert (leaf.shape, leaf.dtype) == (spec.shape, spec.dtype)
        assert leaf.sharding.is_equivalent_to(spec.sharding, leaf.ndim)


def test_the_clip_bounds_the_scaled_gradient_that_adam_sees(tmp_path):
    _, end, history = run_steps(tmp_path, steps=1, optimizer={"clip_norm": 1e-3})
    norm = optax.tree.norm(optax.tree_utils.tree_get(end.opt_state, "mu")) / (1 - 0.9)
    assert history[0]["gradient_norm"] > 1e-3
    np.testing.assert_allclose(norm, 1e-3, rtol=1e-4)
    scaled = {"clip_norm": 1e-3, "gradient_scale": 4.0, "ema_start": 3}
    _, other, again = run_steps(tmp_path, steps=1, optimizer=scaled)
    np.testing.assert_allclose(again[0]["gradient_norm"], 4.0 * history[0]["gradient_norm"], rtol=1e-5)
    np.testing.assert_allclose(again[0]["loss"], history[0]["loss"], rtol=1e-6)
    other_norm = optax.tree.norm(optax.tree_utils.tree_get(other.opt_state, "mu")) / (1 - 0.9)
    np.testing.assert_allclose(other_norm, 1e-3, rtol=1e-4)
    jax.tree.map(np.testing.assert_array_equal, other.ema_params, other.params)


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
        TrainSetup(resolve(dataclasses.asdict(config)), make_mesh(config.mesh, jax.devices()[:1]))
