"""Laws of the convolution."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from dualdiff_jax.models.convolution import Convolution


def by_loops(module: Convolution, x: np.ndarray, stride: int, padding: tuple[int, int]) -> np.ndarray:
    kernel, bias = np.asarray(module.kernel[...], np.float64), np.asarray(module.bias[...], np.float64)
    size = kernel.shape[0]
    padded = np.pad(np.asarray(x, np.float64), ((0, 0), padding, padding, (0, 0)))
    rows, columns = ((length - size) // stride + 1 for length in padded.shape[1:3])
    out = np.zeros((len(x), rows, columns, kernel.shape[3]))
    for row, column in np.ndindex(rows, columns):
        window = padded[:, row * stride : row * stride + size, column * stride : column * stride + size]
        out[:, row, column] = np.einsum("byxc,yxcd->bd", window, kernel) + bias
    return out


@pytest.mark.parametrize(
    "options",
    [{}, {"size": 1, "padding": (0, 0)}, {"stride": 2, "padding": (0, 1)}],
    ids=["3x3", "1x1", "half the side"],
)
def test_it_is_its_sum_over_windows_and_channels(options):
    module = Convolution(2, 3, **options, rngs=nnx.Rngs(0))
    module.bias[...] = jnp.arange(3.0)
    x = jax.random.normal(jax.random.key(1), (2, 5, 6, 2))
    expected = by_loops(module, x, options.get("stride", 1), options.get("padding", (1, 1)))
    np.testing.assert_allclose(module(x), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("size", [1, 3])
def test_outputs_start_with_the_variance_of_the_inputs_and_no_bias(size):
    """Over 60,000 entries and more: 5 standard errors of a deviation are 1.5 %."""
    module = Convolution(100, 600, size=size, rngs=nnx.Rngs(0))
    np.testing.assert_allclose(np.std(module.kernel[...]), (100 * size**2) ** -0.5, rtol=0.015)
    assert not np.asarray(module.bias[...]).any()


def test_it_is_three_by_three_and_keeps_the_size_unless_told_otherwise():
    module = Convolution(2, 3, rngs=nnx.Rngs(0))
    assert module.kernel.shape == (3, 3, 2, 3)
    assert module(jnp.ones((1, 5, 6, 2))).shape == (1, 5, 6, 3)


def test_its_axes_are_named_and_it_computes_in_the_inputs_dtype():
    module = Convolution(2, 3, rngs=nnx.Rngs(0))
    assert module.kernel.get_metadata()["out_sharding"] == ("row", "column", "channel", "width")
    assert module.bias.get_metadata()["out_sharding"] == ("width",)
    assert module.kernel[...].dtype == module.bias[...].dtype == jnp.float32
    assert module(jnp.ones((1, 4, 4, 2), jnp.bfloat16)).dtype == jnp.bfloat16
