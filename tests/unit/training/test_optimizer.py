"""Updates of the optimizers beside those of optax on their own."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from dualdiff_jax.config.resolve import resolve
from dualdiff_jax.config.run import OptimizerConfig
from dualdiff_jax.models.leaves import LeafSpec
from dualdiff_jax.training.optimizer import make_optimizer

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
