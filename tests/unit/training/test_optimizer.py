"""Updates of the optimizers beside those of optax on their own."""

from types import SimpleNamespace
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from dualdiff_jax.config.resolve import resolve
from dualdiff_jax.config.run import LARGEST_BETA, OptimizerConfig
from dualdiff_jax.models.leaves import LeafSpec
from dualdiff_jax.training.optimizer import OPTIMIZERS, learning_rate, make_optimizer

RATE, DECAY = 0.01, 0.3
SPECS = {
    "mmdit.a.kernel": LeafSpec((6, 4), jnp.dtype("float32"), ("width", "mlp"), False),
    "mmdit.a.bias": LeafSpec((4,), jnp.dtype("float32"), ("mlp",), False),
}


@pytest.mark.parametrize("decayed", ["kernels", "all"])
def test_adafactor_is_optaxs_with_a_decay_that_the_rate_scales(decayed):
    given = dict(name="adafactor", learning_rate=RATE, weight_decay=DECAY, warmup_steps=0, schedule="constant")
    config = resolve(given | {"clip_norm": 0.0, "decayed": decayed}, OptimizerConfig)
    ours = make_optimizer(config, 10, SPECS)
    theirs = optax.adafactor(RATE, multiply_by_parameter_scale=False)
    keys = jax.random.split(jax.random.key(0), 4)
    params = {name: jax.random.normal(key, SPECS[name].shape) for name, key in zip(SPECS, keys, strict=False)}
    state, other = ours.init(params), theirs.init(params)
    for key in keys[2:]:
        gradient = {name: jax.random.normal(key, spec.shape) for name, spec in SPECS.items()}
        update, state = ours.update(gradient, state, params)
        expected, other = theirs.update(gradient, other, params)
        for name in SPECS:
            decay = RATE * DECAY * params[name] if decayed == "all" or name.endswith("kernel") else 0.0
            np.testing.assert_allclose(update[name], expected[name] - decay, rtol=1e-6, atol=1e-8)
        params = optax.apply_updates(params, update)


@pytest.mark.parametrize("layers", [(), (2,)])
def test_muon_is_optaxs_with_layers_and_q_k_and_v_as_matrices_of_their_own(layers):
    """Momentum is ``beta1``. Each part of a joint kernel, in each layer, is updated as if it were a kernel alone."""
    given = dict(name="muon", learning_rate=RATE, weight_decay=0.0, warmup_steps=0, schedule="constant")
    config = resolve(given | {"clip_norm": 0.0, "beta1": 0.6}, OptimizerConfig)
    shape = (*layers, 6, 3, 2, 2)
    axes = (*["layers"] * len(layers), "width", "projection", "heads", "head_dim")
    ours = make_optimizer(config, 10, {"mmdit.qkv.kernel": LeafSpec(shape, jnp.dtype("float32"), axes, False)})
    theirs = optax.contrib.muon(RATE, beta=0.6)
    gradients = jax.random.normal(jax.random.key(0), (3, *shape))
    params = jnp.zeros(shape)
    state = ours.init({"mmdit.qkv.kernel": params})

    def matrices(kernel: jax.Array) -> list[jax.Array]:
        return [matrix for layer in kernel.reshape(-1, 6, 3, 4) for matrix in layer.swapaxes(0, 1)]

    others = [theirs.init(matrix) for matrix in matrices(params)]
    for gradient in gradients:
        update, state = ours.update({"mmdit.qkv.kernel": gradient}, state, {"mmdit.qkv.kernel": params})
        found, given = matrices(update["mmdit.qkv.kernel"]), zip(matrices(gradient), matrices(params), strict=True)
        for number, (matrix, old) in enumerate(given):
            expected, others[number] = theirs.update(matrix, others[number], old)
            np.testing.assert_allclose(found[number], expected, rtol=1e-4, atol=1e-6)


def test_an_optimizer_or_a_schedule_that_is_unknown_is_an_error():
    with pytest.raises(ValueError, match=r"optimizer is 'sgd'; give one of \['adamw', 'adafactor', 'lion', 'muon'\]"):
        make_optimizer(cast(Any, SimpleNamespace(name="sgd")), 10, SPECS)
    with pytest.raises(ValueError, match=r"schedule is 'linear'; give one of \['constant', 'cosine'\]"):
        learning_rate(cast(Any, SimpleNamespace(schedule="linear")), 10)


EXTREMES = {  # the ends of what a config may say
    "rates": {"learning_rate": 1e3, "weight_decay": 1e3},
    "no memory": {"beta1": 0.0, "beta2": 0.0},
    "long memory": {"beta1": LARGEST_BETA, "beta2": LARGEST_BETA},
    "unequal memory": {"beta1": 0.0, "beta2": LARGEST_BETA},
}


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("settings", EXTREMES.values(), ids=EXTREMES)
@pytest.mark.parametrize("clip_norm", [0.0, 2.0])
def test_a_finite_gradient_gives_a_finite_update(name, settings, clip_norm):
    """The gradients are zero, the smallest numbers, one entry alone, and norms near fp32's end, one after another."""
    config = resolve({"name": name, "warmup_steps": 0, "clip_norm": clip_norm} | settings, OptimizerConfig)
    optimizer = make_optimizer(config, 10, SPECS)
    draws = {
        leaf: np.random.default_rng(number).standard_normal(spec.shape).astype(np.float32)
        for number, (leaf, spec) in enumerate(SPECS.items())
    }
    params = jax.tree.map(lambda draw: 10 * draw, draws)
    alone = jax.tree.map(lambda draw: np.where(np.arange(draw.size).reshape(draw.shape) == 3, 1e18, 0.0), draws)
    state = optimizer.init(params)
    for scale in (0.0, 1e-45, 1e-38, 1e18, 1e-30, alone, 1e18, 0.0, 1.0):
        gradient = scale if isinstance(scale, dict) else jax.tree.map(lambda draw, scale=scale: scale * draw, draws)
        gradient = jax.tree.map(jnp.float32, gradient)
        assert np.isfinite(optax.tree.norm(gradient))
        updates, state = optimizer.update(gradient, state, params)
        for leaf in jax.tree.leaves((updates, optax.apply_updates(params, updates), state)):
            assert np.isfinite(leaf).all(), scale
