"""Laws of the normalisations: each by its equation, where epsilon decides and where it does not."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dualdiff_jax.models.norms import GroupNorm, RMSNorm, layer_norm, modulate

EPSILON = 1e-6  # of SD3 and T5
SIZES = pytest.mark.parametrize("size", [1e-3, 1.0, 30.0])  # at 1e-3 the variance is as large as epsilon


def draw(seed: int, *shape: int, size: float = 1.0) -> jnp.ndarray:
    return jnp.asarray(size * np.random.default_rng(seed).standard_normal(shape), jnp.float32)


def normalised(x: np.ndarray, axis: int | tuple[int, ...]) -> np.ndarray:
    return (x - x.mean(axis, keepdims=True)) / np.sqrt(x.var(axis, keepdims=True) + EPSILON)


@SIZES
def test_layer_norm_by_its_equation(size):
    x = draw(0, 2, 3, 16, size=size)
    np.testing.assert_allclose(layer_norm(x), normalised(np.float64(x), -1), rtol=1e-4, atol=1e-5)


@SIZES
def test_modulation_by_its_equation(size):
    x, shift, scale = draw(0, 2, 3, 16, size=size), draw(1, 2, 16), draw(2, 2, 16)
    expected = normalised(np.float64(x), -1) * (1 + np.float64(scale)[:, None]) + np.float64(shift)[:, None]
    np.testing.assert_allclose(modulate(x, shift, scale), expected, rtol=1e-4, atol=1e-5)


@SIZES
@pytest.mark.parametrize("vectors", [1, 2])
def test_the_gradient_of_modulation_is_that_of_its_equation(size, vectors):
    """Its backward pass is written by hand; one vector for all examples gets the sum of their gradients."""
    x, shift, scale = draw(0, 2, 3, 16, size=size), draw(1, vectors, 16), draw(2, vectors, 16)
    weights = draw(3, 2, 3, 16)

    def by_equation(x: jax.Array, shift: jax.Array, scale: jax.Array) -> jax.Array:
        return layer_norm(x) * (1 + scale[:, None]) + shift[:, None]

    found, expected = (
        jax.grad(lambda *args, f=f: (weights * f(*args)).sum(), argnums=(0, 1, 2))(x, shift, scale)
        for f in (modulate, by_equation)
    )
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5 * np.abs(other).max())


@SIZES
def test_rms_norm_by_its_equation(size):
    x, norm = draw(0, 2, 3, 16, size=size), RMSNorm(16)
    norm.scale[...] = draw(1, 16)
    expected = np.float64(x) / np.sqrt(np.square(np.float64(x)).mean(-1, keepdims=True) + EPSILON)
    np.testing.assert_allclose(norm(x), expected * np.float64(norm.scale[...]), rtol=1e-4, atol=1e-5)


@SIZES
def test_group_norm_by_its_equation(size):
    """Each group of two channels over all pixels, then scale and bias by channel."""
    x, norm = draw(0, 2, 3, 5, 6, size=size), GroupNorm(6, groups=3)
    norm.scale[...], norm.bias[...] = draw(1, 6), draw(2, 6)
    groups = normalised(np.float64(x).reshape(2, 3, 5, 3, 2), (1, 2, 4)).reshape(x.shape)
    expected = groups * np.float64(norm.scale[...]) + np.float64(norm.bias[...])
    np.testing.assert_allclose(norm(x), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("size", [1, 5, 20])
def test_group_norm_loses_no_digits_where_the_mean_is_a_thousand_deviations_from_zero(size):
    """fp32 rounds the mean to 2**-23 of itself. E[x^2] - E[x]^2 would lose all but one digit of the variance."""
    x = np.float32(1000.0 + draw(0, 2, size, size, 8))
    found = GroupNorm(8, groups=2)(jnp.asarray(x))
    expected = normalised(np.float64(x).reshape(2, size, size, 2, 4), (1, 2, 4)).reshape(x.shape)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=4 * 1000 * 2.0**-23)


@pytest.mark.parametrize("norm", [layer_norm, RMSNorm(16), GroupNorm(16, groups=4)])
def test_bf16_is_normalised_in_fp32(norm):
    x = (300.0 + draw(0, 2, 3, 4, 16)).astype(jnp.bfloat16)
    found = norm(x)
    assert found.dtype == jnp.bfloat16
    np.testing.assert_array_equal(found, norm(x.astype(jnp.float32)).astype(jnp.bfloat16))
