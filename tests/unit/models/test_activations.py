"""The pointwise functions and their gradients, beside float64."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dualdiff_jax.models.activations import gelu, silu

X = np.linspace(-12, 12, 4001)
C = np.sqrt(2 / np.pi)


def gelu_and_slope(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Value and derivative of x (1 + tanh u) / 2, with u = C (x + 0.044715 x^3), in float64."""
    tanh = np.tanh(C * (x + 0.044715 * x**3))
    slope = (1 + tanh) / 2 + x * (1 - tanh**2) / 2 * C * (1 + 3 * 0.044715 * x**2)
    return x * (1 + tanh) / 2, slope


@pytest.mark.parametrize("dtype, tolerance", [("float32", 2e-6), ("bfloat16", 2**-8)])
def test_gelu_and_its_gradient_are_those_of_float64_to_the_rounding_of_the_dtype(dtype, tolerance):
    x = jnp.asarray(X, dtype)
    value, slope = gelu_and_slope(np.float64(x))
    np.testing.assert_allclose(np.float64(gelu(x)), value, rtol=tolerance, atol=1e-6)
    gradient = jax.vmap(jax.grad(gelu))(x)
    np.testing.assert_allclose(np.float64(gradient), slope, rtol=tolerance, atol=1e-6)
    assert gradient.dtype == x.dtype


def test_the_gradient_of_gelu_keeps_no_array_but_its_argument():
    x = jnp.asarray(X, jnp.bfloat16)
    kept = jax.tree.leaves(jax.vjp(gelu, x)[1])
    assert [leaf.dtype for leaf in kept if leaf.size == x.size] == [x.dtype]


@pytest.mark.parametrize("function", [gelu, silu])
def test_bfloat16_is_computed_in_fp32(function):
    """On a CPU XLA computes both in fp32 anyhow, so the program tells."""
    program = str(jax.make_jaxpr(function)(jnp.zeros(7, jnp.bfloat16)))
    computed = [line for line in program.splitlines() if re.search(r"= (logistic|tanh|exp)\b", line)]
    assert computed and all(":f32[7] =" in line for line in computed)
