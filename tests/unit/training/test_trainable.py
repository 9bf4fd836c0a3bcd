"""What is trained moves, what is not stays and costs nothing, and both together are the model."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dualdiff_jax.config.resolve import resolve
from dualdiff_jax.errors import UserError
from dualdiff_jax.models.bundle import bind, leaf_specs
from dualdiff_jax.models.leaves import EMBEDDING, kernel_dims
from dualdiff_jax.models.separated import stacked_weights
from dualdiff_jax.training import setup
from dualdiff_jax.training.optimizer import is_decayed
from dualdiff_jax.training.trainable import (
    MASK_ROW,
    PARTS,
    Trainable,
    mask_row,
    part_of,
)
from tests.small_run import first_state, small_run
from tests.unit.tiny import CONFIG as TINY
from tests.unit.tiny import random_weights
from tests.unit.training.test_training import run_steps

LORA = {"train": {"trainable": ()}, "lora": {"rank": 2, "alpha": 6.0, "targets": ("mmdit.blocks.*.kernel",)}}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return tmp_path_factory.mktemp("trainable")


@pytest.fixture
def alive(monkeypatch):
    """Starts with weights that leave no gate and no head at zero, so that what is frozen lets gradients through."""

    def initial_weights(config, mesh):
        rng = np.random.default_rng(0)
        return {
            name: jnp.asarray(0.3 * rng.standard_normal(spec.shape), spec.dtype)
            for name, spec in sorted(leaf_specs(config.model).items())
        }

    monkeypatch.setattr(setup, "initial_weights", initial_weights)


def settings(root, **sections):
    """The small run's config over the tiny model, so that shapes are cheap."""
    config, _ = small_run(root, **sections)
    return dataclasses.replace(config, model=TINY)


def one_device():
    return jax.sharding.Mesh(np.array(jax.devices()[:1]).reshape(1, 1, 1, 1), ("data", "fsdp", "tensor", "context"))


def parts(config, seed=0):
    weights = random_weights(config.model, seed)
    return weights, *Trainable(config).split(dict(weights), one_device(), jax.random.key(seed))


def optimizer_numbers(of) -> int:
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(of.opt_state))


@pytest.mark.parametrize(
    "trainable",
    [("mmdit.*",), ("mmdit.*", "t5.*"), ("mmdit.blocks.text.*", "mmdit.text_*"), (MASK_ROW,), (MASK_ROW, "mmdit.*")],
)
def test_params_and_frozen_weights_are_the_model(root, trainable):
    config = settings(root, train={"trainable": trainable})
    weights, params, frozen = parts(config)
    found = Trainable(config).assemble(params, frozen)
    assert found.keys() == weights.keys() == leaf_specs(config.model).keys()
    for name, value in weights.items():
        np.testing.assert_array_equal(found[name], value, err_msg=name)
    assert params.keys() == Trainable(config).specs.keys()
    for name, spec in Trainable(config).specs.items():
        assert (params[name].shape, params[name].dtype) == (spec.shape, spec.dtype)


@pytest.mark.parametrize("trainable, is_apart", [(("mmdit.*", MASK_ROW), True), (("mmdit.*", "t5.norm.scale"), False)])
def test_a_step_reads_a_t5_that_stays_as_it_is_layer_by_layer(root, trainable, is_apart):
    config = settings(root, train={"trainable": trainable})
    weights, params, frozen = parts(config)
    of = Trainable(config)
    frozen = of.separate(frozen)
    kernel = frozen["t5.blocks.q.kernel"]
    assert isinstance(kernel, tuple) == is_apart and not isinstance(frozen["t5.embedding"], tuple)
    tokens = jnp.arange(6).reshape(2, 3)
    run = jax.jit(lambda weights: bind(config.model, weights).encode_text(tokens))
    np.testing.assert_allclose(run(of.assemble(params, frozen)), run(weights), rtol=1e-5, atol=1e-6)
    found = stacked_weights(config.model, of.assemble(params, frozen))
    for name, value in weights.items():
        np.testing.assert_array_equal(found[name], value, err_msg=name)


def test_a_pattern_chooses_the_text_stream_alone(root):
    names = Trainable(settings(root, train={"trainable": ("mmdit.blocks.text.*", "mmdit.text_*")})).specs
    assert {part_of(name) for name in names} == {"text_stream"}
    assert {"mmdit.text_out.kernel", "mmdit.text_embedding.bias", "mmdit.blocks.text.mlp_in.kernel"} <= names.keys()


def test_every_leaf_is_of_one_part(root):
    assert {part_of(name) for name in leaf_specs(TINY)} == set(PARTS) - {"autoencoder"}


def test_the_row_is_a_leaf_of_its_own_and_nothing_else_moves(root, alive):
    """A step of the whole loop's machinery, on the mask's row only."""
    start, end, history = run_steps(root, steps=3, train={"trainable": (MASK_ROW,)}, objective={"image_weight": 0.0})
    assert set(start.params) == {MASK_ROW}
    assert not np.array_equal(start.params[MASK_ROW], end.params[MASK_ROW])
    width = start.params[MASK_ROW].size
    assert optimizer_numbers(start) == 2 * width + 2  # two moments, two counters
    assert all("image_loss" not in metrics for metrics in history)
    config, _ = small_run(root, train={"trainable": (MASK_ROW,)})
    _, frozen = first_state(config, one_device())
    before, after = (Trainable(config).assemble(state.params, frozen)[EMBEDDING] for state in (start, end))
    differs = (np.asarray(before) != np.asarray(after)).any(axis=1)
    assert np.flatnonzero(differs).tolist() == [mask_row(config.model)]


def test_the_row_has_the_gradient_that_it_has_inside_the_whole_embedding(root, alive):
    """Trained beside everything else frozen, and trained with all of T5: the first moments agree."""
    sections = {"objective": {"image_weight": 0.0}, "optimizer": {"clip_norm": 0.0}}
    _, alone, _ = run_steps(root, steps=1, train={"trainable": (MASK_ROW,)}, **sections)
    _, whole, _ = run_steps(root, steps=1, train={"trainable": (EMBEDDING,)}, **sections)
    config, _ = small_run(root)
    mu = {name: moment for of in (alone, whole) for name, moment in of.opt_state[1][0].mu.items()}
    np.testing.assert_allclose(mu[MASK_ROW], mu[EMBEDDING][mask_row(config.model)], rtol=1e-5, atol=1e-9)
    assert np.abs(mu[MASK_ROW]).max() > 0


def test_params_have_the_dtype_of_their_specs_whatever_the_folder_holds(root):
    config = settings(root, train={"trainable": (MASK_ROW, "mmdit.blocks.text.*")})
    weights = {name: value.astype(jnp.bfloat16) for name, value in random_weights(config.model).items()}
    trainable = Trainable(config)
    params, _ = trainable.split(weights, one_device(), jax.random.key(0))
    assert not weights  # no leaf stays in both dtypes
    assert {name: value.dtype for name, value in params.items()} == {
        name: spec.dtype for name, spec in trainable.specs.items()
    }


def test_frozen_leaves_have_the_dtype_of_the_computation(root):
    config = settings(root, train={"trainable": (MASK_ROW, "mmdit.blocks.text.*")})
    config = dataclasses.replace(config, model=dataclasses.replace(config.model, compute_dtype="bfloat16"))
    _, params, frozen = parts(config)
    assert {value.dtype for value in params.values()} == {jnp.dtype("float32")}
    assert {name for name, value in frozen.items() if value.dtype != jnp.bfloat16} == {"mmdit.positions"}
    assert Trainable(config).assemble(params, frozen)[EMBEDDING].dtype == jnp.bfloat16


def test_factors_start_as_the_model_and_merge_by_their_formula(root):
    config = settings(root, **LORA)
    weights, params, frozen = parts(config)
    for name, value in weights.items():
        np.testing.assert_array_equal(Trainable(config).assemble(params, frozen)[name], value)
    rng = np.random.default_rng(0)
    params = {name: jnp.asarray(rng.standard_normal(value.shape), value.dtype) for name, value in params.items()}
    found = Trainable(config).assemble(params, frozen)
    for stream in ("image", "text"):
        qkv, out = f"mmdit.blocks.{stream}.qkv.kernel", f"mmdit.blocks.{stream}.attention_out.kernel"
        change = 3.0 * np.einsum("ldr,lrphk->ldphk", params[f"{qkv}.lora_in"], params[f"{qkv}.lora_out"])
        np.testing.assert_allclose(found[qkv], weights[qkv] + change, rtol=1e-5, atol=1e-5)
        change = 3.0 * np.einsum("lhkr,lrd->lhkd", params[f"{out}.lora_in"], params[f"{out}.lora_out"])
        np.testing.assert_allclose(found[out], weights[out] + change, rtol=1e-5, atol=1e-5)
    changed = Trainable(config).changed_leaves
    untouched = set(weights) - set(changed)
    assert all(np.array_equal(found[name], weights[name]) for name in untouched)
    assert all(
        name.startswith("mmdit.blocks.") and name.endswith("kernel") for name in Trainable(config).changed_leaves
    )


def test_factors_train_and_hold_all_the_optimizer_has(root, alive):
    start, end, _ = run_steps(root, steps=3, **LORA)
    assert {name.rsplit(".", 1)[1] for name in start.params} == {"lora_in", "lora_out"}
    assert optimizer_numbers(start) == 2 * sum(value.size for value in start.params.values()) + 2
    moved = [name for name in start.params if not np.array_equal(start.params[name], end.params[name])]
    assert sorted(moved) == sorted(start.params)
    assert all(is_decayed(name) for name in start.params)


@pytest.mark.parametrize(
    ("sections", "told"),
    [
        ({"train": {"trainable": ("unet.*",)}}, "'unet.*', which is no parameter"),
        ({"train": {"trainable": ()}}, "nothing would be trained"),
        ({"train": {"trainable": (MASK_ROW, "t5.*")}}, "names t5.embedding whole"),
        (
            {"train": {"trainable": (MASK_ROW, "mmdit.*")}, "objective": {"text_weight": 0.0}},
            "but objective.text_weight is 0, and no image's text has a mask",
        ),
        ({"lora": {"rank": 2}}, "names mmdit.blocks.image.attention_out.kernel whole"),
        ({"train": {"trainable": ()}, "lora": {"rank": 2, "targets": ("t5.*",)}}, "which is no kernel of the MMDiT"),
    ],
)
def test_patterns_that_contradict_are_refused(root, sections, told):
    with pytest.raises(UserError, match=told.replace("*", r"\*")):
        Trainable(settings(root, **sections))


def test_the_dims_of_every_kernel_are_told_apart():
    specs = leaf_specs(TINY)
    for name, spec in specs.items():
        if name.endswith(".kernel"):
            stack, inputs, outputs = kernel_dims(spec)
            assert (*stack, *inputs, *outputs) == tuple(range(len(spec.shape)))
            bias = specs.get(name.replace("kernel", "bias"))
            assert bias is None or bias.shape == tuple(spec.shape[dim] for dim in (*stack, *outputs)), name


def test_a_config_with_both_survives_json(root):
    config, _ = small_run(root, **LORA)
    assert resolve(dataclasses.asdict(config)) == config
