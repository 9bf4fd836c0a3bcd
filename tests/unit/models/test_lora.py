"""Low-rank factors on the kernels of inference: each form of weights, each layer by its own, placed as before."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from dualdiff_jax.config import LoraConfig
from dualdiff_jax.models.bundle import leaf_specs
from dualdiff_jax.models.leaves import kernel_dims, layers_of
from dualdiff_jax.models.lora import factor_specs, init_factors, layer_factors, merged, with_factors
from dualdiff_jax.models.separated import separated_weights, stacked_weights
from tests.unit.tiny import CONFIG, random_weights

SPECS = leaf_specs(CONFIG, ("mmdit",))
KERNELS = [name for name in SPECS if name.endswith(".kernel")]
RANK = 2


def draw(name: str, seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {
        factor: rng.standard_normal(spec.shape, np.float32)
        for factor, spec in factor_specs(name, SPECS[name], RANK).items()
    }


@pytest.mark.parametrize("is_separated", [True, False])
def test_inference_adds_what_training_merges(is_separated):
    """Each kernel of the MMDiT, from the factors of training with alpha / rank inside B."""
    weights = random_weights()
    expected, pairs = dict(weights), {}
    for number, name in enumerate(KERNELS):
        params = draw(name, number)
        expected[name] = merged(name, weights[name], SPECS[name], params, LoraConfig(rank=RANK, alpha=3.0))
        factors = layer_factors(name, SPECS[name], params, RANK)
        pairs[name] = [(a, np.float32(3.0 / RANK) * b) for a, b in factors]
    held = separated_weights(CONFIG, dict(weights)) if is_separated else weights
    for name in KERNELS:
        held[name] = with_factors(held[name], SPECS[name], pairs[name])
    for name, value in stacked_weights(CONFIG, held).items():
        np.testing.assert_allclose(value, expected[name], rtol=1e-5, atol=1e-5, err_msg=name)


def test_layers_have_ranks_of_their_own_and_one_without_factors_stays():
    name = "mmdit.blocks.text.mlp_in.kernel"
    kernel = random_weights()[name]
    inputs, outputs = (kernel.shape[dim] for dim in kernel_dims(SPECS[name])[1:] for dim in dim)
    rng = np.random.default_rng(0)
    pair = rng.standard_normal((inputs, 5), np.float32), rng.standard_normal((5, outputs), np.float32)
    found = with_factors(kernel, SPECS[name], [None, pair])
    np.testing.assert_array_equal(found[0], kernel[0])
    np.testing.assert_allclose(found[1], kernel[1] + pair[0] @ pair[1], rtol=1e-5, atol=1e-5)
    layers = tuple(kernel)
    apart = with_factors(layers, SPECS[name], [pair, None])
    assert apart[1] is layers[1] and not np.array_equal(apart[0], layers[0])
    small = rng.standard_normal((inputs, 1), np.float32), rng.standard_normal((1, outputs), np.float32)
    both = with_factors(kernel, SPECS[name], [pair, small])
    np.testing.assert_allclose(both[0], kernel[0] + pair[0] @ pair[1], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(both[1], kernel[1] + small[0] @ small[1], rtol=1e-5, atol=1e-5)


def test_factors_do_not_depend_on_the_order_of_their_names():
    specs = factor_specs("mmdit.image_out.kernel", SPECS["mmdit.image_out.kernel"], RANK)
    specs |= factor_specs("mmdit.text_out.kernel", SPECS["mmdit.text_out.kernel"], RANK)
    there, back = (init_factors(dict(order), jax.random.key(0)) for order in (specs.items(), reversed(specs.items())))
    for name, factor in there.items():
        np.testing.assert_array_equal(factor, back[name])


def test_the_kernel_keeps_its_place_and_its_dtype():
    name = "mmdit.image_out.kernel"
    mesh = jax.sharding.Mesh(np.array(jax.devices()[:1]), ("fsdp",))
    sharding = NamedSharding(mesh, PartitionSpec("fsdp", None))
    kernel = jax.device_put(random_weights()[name].astype(jnp.bfloat16), sharding)
    assert len(layers_of(SPECS[name])) == 1
    factors = layer_factors(name, SPECS[name], draw(name), RANK)
    found = with_factors(kernel, SPECS[name], factors)
    assert found.dtype == jnp.bfloat16 and found.sharding == sharding
    exact = np.asarray(kernel, np.float32) + factors[0][0] @ factors[0][1]
    np.testing.assert_array_equal(found, exact.astype(jnp.bfloat16))
