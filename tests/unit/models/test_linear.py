"""Laws of the affine map."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from dualdiff_jax.models.linear import Linear, product, shifted, zeros


def linear(*args, **options) -> Linear:
    return Linear(*args, **options, rngs=nnx.Rngs(0))


def test_one_declaration_gives_shape_and_axes():
    module = linear({"heads": 2, "head_dim": 3}, {"projection": 4, "width": 5})
    assert module.kernel.shape == (2, 3, 4, 5)
    assert module.kernel.get_metadata()["out_sharding"] == ("heads", "head_dim", "projection", "width")
    assert module.bias.shape == (4, 5)
    assert module.bias.get_metadata()["out_sharding"] == ("projection", "width")


def test_contracts_all_input_dims_and_adds_the_bias():
    module = linear({"heads": 2, "head_dim": 3}, {"width": 5})
    module.bias[...] = jnp.arange(5.0)
    x = jax.random.normal(jax.random.key(1), (7, 4, 2, 3))
    expected = np.einsum("bshk,hkd->bsd", x, module.kernel[...]) + np.arange(5)
    np.testing.assert_allclose(module(x), expected, rtol=1e-4, atol=1e-5)


def test_without_bias_zero_stays_zero():
    module = linear({"width": 3}, {"mlp": 4}, bias=False)
    assert module.bias is None
    np.testing.assert_array_equal(module(jnp.zeros((2, 3))), np.zeros((2, 4)))


@pytest.mark.parametrize("init, deviation", [("fan_in_normal", 600**-0.5), (0.3, 0.3), (zeros, 0.0)])
def test_initial_scale(init, deviation):
    """Standard deviation over 60,000 entries: 5 standard errors are 1.5 %."""
    module = linear({"heads": 6, "head_dim": 100}, {"width": 100}, init=init)
    np.testing.assert_allclose(np.std(module.kernel[...]), deviation, rtol=0.015)
    assert not np.asarray(module.bias[...]).any()


def test_parameters_are_fp32_and_the_result_has_the_inputs_dtype():
    module = linear({"width": 3}, {"mlp": 4})
    assert module.kernel[...].dtype == module.bias[...].dtype == jnp.float32
    assert module(jnp.ones((2, 3), jnp.bfloat16)).dtype == jnp.bfloat16


def test_an_unknown_init_is_an_error():
    with pytest.raises(ValueError, match="init 'fan_in' is none of fan_in_normal, zeros"):
        linear({"width": 3}, {"mlp": 4}, init="fan_in")


@pytest.mark.parametrize("batch", [(257,), (1, 257)])
def test_gradients_of_fp32_parameters_are_summed_in_fp32(batch):
    """257 ones: bfloat16 has 8 bits of precision, so 257 is none of its numbers, and neither is a sum beyond 256."""
    x, dy = jnp.ones((*batch, 2), jnp.bfloat16), jnp.ones((*batch, 3), jnp.bfloat16)
    _, gradient = jax.vjp(lambda kernel, bias: shifted(product(x, kernel, 1), bias), jnp.ones((2, 3)), jnp.ones(3))
    dkernel, dbias = jax.jit(gradient)(dy)
    assert dkernel.dtype == dbias.dtype == jnp.float32
    np.testing.assert_array_equal(dkernel, np.full((2, 3), 257.0))
    np.testing.assert_array_equal(dbias, np.full(3, 257.0))


def test_gradients_of_the_input_have_its_dtype():
    x, kernel = jnp.ones((4, 2, 3), jnp.bfloat16), jax.random.normal(jax.random.key(0), (2, 3, 5))
    y, gradient = jax.vjp(lambda x: product(x, kernel, 2), x)
    [dx] = gradient(jnp.ones_like(y))
    assert y.shape == (4, 5) and dx.dtype == jnp.bfloat16
    expected = np.broadcast_to(np.asarray(kernel).sum(axis=-1), x.shape)
    np.testing.assert_allclose(np.float32(dx), expected, rtol=0.02, atol=0.02)
