"""Laws of kernels in 8 bits, and of a T5 that has them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dualdiff_jax.config import MeshConfig
from dualdiff_jax.models.bundle import bind, weight_shardings
from dualdiff_jax.models.int8 import LARGEST, Int8Kernel, in_8_bits
from dualdiff_jax.models.separated import separated_weights, with_t5_in_8_bits
from dualdiff_jax.sharding import make_mesh
from tests.unit.tiny import CONFIG, random_weights

SHAPES = [((5, 3), 1), ((2, 4, 3), 2), ((5, 2, 3), 1)]


@pytest.mark.parametrize(("shape", "contracted"), SHAPES)
def test_each_weight_is_off_by_half_a_step_of_its_output_at_most(shape, contracted):
    kernel = jax.random.normal(jax.random.key(0), shape) * jnp.linspace(0.01, 30.0, shape[-1])
    found = in_8_bits(kernel, contracted)
    assert found.values.dtype == jnp.int8 and found.values.shape == shape and found.scale.shape == shape[contracted:]
    np.testing.assert_array_less(
        np.abs(found.values * found.scale - kernel), np.broadcast_to(0.501 * found.scale, shape)
    )
    largest = np.abs(found.values).max(axis=tuple(range(contracted)))
    np.testing.assert_array_equal(largest, LARGEST)  # every output uses the whole range


@pytest.mark.parametrize(("shape", "contracted"), SHAPES)
def test_the_product_is_that_with_the_rounded_kernel(shape, contracted):
    kernel = in_8_bits(jax.random.normal(jax.random.key(0), shape), contracted)
    x = jax.random.normal(jax.random.key(1), (7, *shape[:contracted]))
    expected = jnp.tensordot(x, kernel.values * kernel.scale, contracted)
    np.testing.assert_allclose(kernel.product(x, contracted), expected, rtol=1e-5, atol=1e-6)
    assert kernel.product(x.astype(jnp.bfloat16), contracted).dtype == jnp.bfloat16


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_product_is_one_of_arrays_in_the_inputs_dtype(dtype):
    """A CPU computes the same numbers from an int8 kernel, so the test reads the traced program."""
    kernel = in_8_bits(jnp.ones((5, 3)), 1)
    program = jax.make_jaxpr(lambda x: kernel.product(x, 1))(jnp.ones((2, 5), dtype))
    [product] = [equation for equation in program.eqns if equation.primitive.name == "dot_general"]
    assert [str(operand.aval.dtype) for operand in product.invars] == [dtype, dtype]


def test_an_output_of_zeros_stays_zero():
    found = in_8_bits(jnp.zeros((3, 2)), 1)
    np.testing.assert_array_equal(found.product(jnp.ones((1, 3)), 1), jnp.zeros((1, 2)))


def test_a_t5_in_8_bits_is_the_t5_with_rounded_kernels_and_no_other_leaf_changes():
    weights = random_weights()
    found = with_t5_in_8_bits(CONFIG, separated_weights(CONFIG, dict(weights)))
    rounded = dict(weights)
    for name, leaf in found.items():
        parts = jax.tree.leaves(leaf, is_leaf=lambda part: isinstance(part, Int8Kernel))
        is_converted = all(isinstance(part, Int8Kernel) for part in parts)
        assert is_converted == (name.startswith("t5.blocks.") and name.endswith(".kernel"))
        assert is_converted or not any(isinstance(part, Int8Kernel) for part in parts)
        if is_converted:
            layers = [
                jnp.stack([part.values * part.scale for part in layer], axis=1)
                if type(layer) is tuple
                else layer.values * layer.scale
                for layer in leaf
            ]
            rounded[name] = jnp.stack(layers).reshape(weights[name].shape)
    token_ids = jax.random.randint(jax.random.key(0), (2, 6), 0, CONFIG.t5.vocab_size)
    embeddings = bind(CONFIG, found).encode_text(token_ids)
    np.testing.assert_allclose(embeddings, bind(CONFIG, rounded).encode_text(token_ids), rtol=1e-4, atol=1e-5)
    assert not np.allclose(embeddings, bind(CONFIG, weights).encode_text(token_ids), rtol=1e-4, atol=1e-5)


def test_abstract_weights_become_those_of_real_ones_and_keep_the_sharding_of_each_dim():
    mesh = make_mesh(MeshConfig(), jax.devices()[:1])
    shardings = weight_shardings(CONFIG, mesh)
    weights = {name: jax.device_put(leaf, shardings[name]) for name, leaf in random_weights().items()}
    abstract = {
        name: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding) for name, leaf in weights.items()
    }
    real, planned = (with_t5_in_8_bits(CONFIG, separated_weights(CONFIG, dict(given))) for given in (weights, abstract))
    for ours, theirs in zip(jax.tree.leaves(planned), jax.tree.leaves(real), strict=True):
        assert (ours.shape, ours.dtype) == (theirs.shape, theirs.dtype)
    kernel, (_, *expected) = planned["t5.blocks.mlp_out.kernel"][0], abstract["t5.blocks.mlp_out.kernel"].sharding.spec
    assert [*kernel.values.sharding.spec] == expected and [*kernel.scale.sharding.spec] == expected[1:]
