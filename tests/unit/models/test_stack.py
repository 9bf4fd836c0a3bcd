"""Laws of stacked blocks: a scan is the loop over its layers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from dualdiff_jax.models import stack
from dualdiff_jax.models.linear import Linear
from dualdiff_jax.models.stack import SHALLOW, scan_blocks, stacked

WIDTH = 3
X = jnp.asarray(np.random.default_rng(0).standard_normal((2, WIDTH)), jnp.float32)


def build(depth: int) -> Linear:
    return stacked(lambda rngs: Linear({"width": WIDTH}, {"width": WIDTH}, rngs=rngs), depth, nnx.Rngs(0))


def run(blocks: Linear, x: jax.Array = X) -> jax.Array:
    return scan_blocks(blocks, lambda block, x: x + jnp.tanh(block(x)), x)


@pytest.mark.parametrize("depth", [1, SHALLOW, SHALLOW + 1])
def test_scan_is_the_loop_over_the_layers_first_to_last(depth):
    blocks, x = build(depth), X
    for kernel, bias in zip(blocks.kernel[...], blocks.bias[...], strict=True):
        x = x + np.tanh(x @ kernel + bias)
    np.testing.assert_allclose(run(blocks), x, rtol=1e-5)


def test_rolled_and_unrolled_have_the_same_values_and_gradients(monkeypatch):
    graph, weights = nnx.split(build(3))

    def total(weights):
        return jnp.sin(run(nnx.merge(graph, weights))).sum()

    found = {}
    for shallow in (0, 3):
        monkeypatch.setattr(stack, "SHALLOW", shallow)
        found[shallow] = jax.value_and_grad(total)(weights)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), found[0], found[3])


@pytest.mark.parametrize("depth, is_loop", [(4, False), (5, True)])
def test_deep_stacks_compile_one_body_and_shallow_ones_no_loop(depth, is_loop):
    graph, weights = nnx.split(build(depth))
    text = jax.jit(lambda weights: run(nnx.merge(graph, weights))).lower(weights).as_text()
    assert ("stablehlo.while" in text) == is_loop


def test_every_parameter_has_a_first_dim_named_layers():
    blocks = build(3)
    assert blocks.kernel.shape == (3, WIDTH, WIDTH) and blocks.bias.shape == (3, WIDTH)
    assert blocks.kernel.get_metadata()["out_sharding"] == ("layers", "width", "width")
    assert blocks.bias.get_metadata()["out_sharding"] == ("layers", "width")


def test_layers_start_from_different_weights():
    first, second, third = np.asarray(build(3).kernel[...])
    assert (first != second).all() and (second != third).all()


def test_the_carry_may_be_two_streams():
    blocks = build(2)

    def both(block, streams):
        return streams[0] + block(streams[1]), streams[1]

    image, text = scan_blocks(blocks, both, (X, 2 * X))
    np.testing.assert_array_equal(text, 2 * X)
    expected = X + sum(2 * X @ kernel + bias for kernel, bias in zip(blocks.kernel[...], blocks.bias[...], strict=True))
    np.testing.assert_allclose(image, expected, rtol=1e-5)
