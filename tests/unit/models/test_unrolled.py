"""Laws of blocks that run without a loop: values and gradients of the loop, and what the program has in it."""

import re
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from dualdiff_jax.models.linear import Linear
from dualdiff_jax.models.remat import rematerialised
from dualdiff_jax.models.stack import SHALLOW, scan_blocks, stacked
from dualdiff_jax.models.unrolled import unroll_pays, unrolled_blocks

WIDTH, DEPTH = 3, SHALLOW + 2
X = jnp.asarray(np.random.default_rng(0).standard_normal((2, WIDTH)), jnp.float32)
GRAPH, WEIGHTS = nnx.split(
    stacked(lambda rngs: Linear({"width": WIDTH}, {"width": WIDTH}, rngs=rngs), DEPTH, nnx.Rngs(0))
)
RUNS = (unrolled_blocks, scan_blocks)


def total(run, weights, x=X):
    """A number that every layer's parameters and their order change."""
    return jnp.sin(run(nnx.merge(GRAPH, weights), lambda block, x: x + jnp.tanh(block(x)), x)).sum()


@pytest.mark.parametrize("depth", [1, 2, DEPTH])
def test_it_is_the_loop_first_to_last_in_value_and_gradients(depth):
    def found(run):
        weights = jax.tree.map(lambda leaf: leaf[:depth], WEIGHTS)
        return jax.jit(jax.value_and_grad(lambda weights, x: total(run, weights, x), argnums=(0, 1)))(weights, X)

    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), *map(found, RUNS))


@pytest.mark.parametrize("policy", ["none", "full"])
def test_gradients_through_a_function_of_the_weights_are_those_of_the_loop(policy):
    """As low-rank factors have them: the stack is computed, and more than one run reads it."""

    def found(run):
        return jax.grad(
            lambda factor: sum(total(run, jax.tree.map(lambda w: factor * w, WEIGHTS), x) for x in (X, 2 * X))
        )

    run = rematerialised(policy, unrolled=True)
    np.testing.assert_allclose(found(run)(0.7), found(scan_blocks)(0.7), rtol=1e-5)


def test_no_loop_is_left_and_no_gradient_is_as_large_as_the_stack_until_all_are_put_together():
    gradient = jax.grad(lambda weights: total(rematerialised("full", unrolled=True), weights))
    text = jax.jit(gradient).lower(WEIGHTS).as_text()
    assert "stablehlo.while" not in text
    stack_sums = re.findall(rf"stablehlo\.add.*tensor<{DEPTH}x{WIDTH}x{WIDTH}xf32>", text)
    assert not stack_sums and len(re.findall(rf"concatenate.*-> tensor<{DEPTH}x{WIDTH}x{WIDTH}xf32>", text)) == 1


@pytest.mark.parametrize(
    "platform, kind, pays",
    [
        ("gpu", "NVIDIA H100 80GB HBM3", True),
        ("cuda", "a new card", True),
        ("tpu", "TPU v5p", True),
        ("tpu", "TPU v5 lite", False),
        ("tpu", "TPU v9", False),
        ("cpu", "cpu", False),
    ],
)
def test_auto_goes_by_what_plans_read(platform, kind, pays):
    assert unroll_pays(types.SimpleNamespace(platform=platform, device_kind=kind)) == pays
