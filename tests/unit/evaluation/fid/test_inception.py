"""The network's parts do what torch's do, and its weights come from a file with all of them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx
from safetensors.torch import save_file

from dualdiff_jax.errors import UserError
from dualdiff_jax.evaluation.fid import inception
from dualdiff_jax.evaluation.fid.inception_weights import bind, leaf_shapes, read_weights, torch_key
from tests.unit.evaluation.fid import narrow

X = np.random.default_rng(0).standard_normal((2, 9, 11, 4)).astype(np.float32)
THEIR_X = torch.tensor(X.transpose(0, 3, 1, 2))
TRAINED = 21_785_568  # kernels, scales and biases of Inception V3 without its classifiers, as torchvision counts them


def channels_last(theirs: torch.Tensor) -> np.ndarray:
    return theirs.detach().numpy().transpose(0, 2, 3, 1)


@pytest.mark.parametrize("size", [1, 3, 5, (1, 7), (7, 1)])
@pytest.mark.parametrize("stride, same", [(1, True), (1, False), (2, False)])
def test_a_unit_is_torchs(size, stride, same):
    unit = inception.ConvUnit(4, 6, size, stride=stride, same=same, rngs=nnx.Rngs(0))
    rng = np.random.default_rng(1)
    for name in ("scale", "bias", "mean", "variance"):
        getattr(unit, name).set_value(jnp.asarray(rng.uniform(0.2, 2, 6), jnp.float32))
    kernel = torch.tensor(np.asarray(unit.kernel[...]).transpose(3, 2, 0, 1).copy())
    padding = tuple(n // 2 for n in kernel.shape[2:]) if same else (0, 0)
    mean, variance, scale, bias = (
        torch.tensor(np.asarray(getattr(unit, name)[...])) for name in ("mean", "variance", "scale", "bias")
    )
    theirs = torch.nn.functional.conv2d(THEIR_X, kernel, stride=stride, padding=padding)
    theirs = torch.relu(torch.nn.functional.batch_norm(theirs, mean, variance, scale, bias, eps=1e-3))
    np.testing.assert_allclose(unit(jnp.asarray(X)), channels_last(theirs), rtol=1e-5, atol=1e-5)


def test_pools_are_torchs():
    average = torch.nn.functional.avg_pool2d(THEIR_X, 3, 1, 1, count_include_pad=False)
    np.testing.assert_allclose(inception.average_pool(jnp.asarray(X)), channels_last(average), rtol=1e-5, atol=1e-6)
    for stride, same in ((1, True), (2, False)):
        theirs = torch.nn.functional.max_pool2d(THEIR_X, 3, stride, int(same))
        np.testing.assert_array_equal(
            inception.max_pool(jnp.asarray(X), stride=stride, same=same), channels_last(theirs)
        )


def test_the_true_network_has_inceptions_parts():
    shapes = leaf_shapes()
    assert sum(np.prod(shape) for leaf, shape in shapes.items() if not leaf.endswith((".mean", ".variance"))) == TRAINED
    assert len({leaf.rpartition(".")[0] for leaf in shapes}) == 94
    assert shapes["mixed_7c.branch3x3_2b.kernel"] == (3, 1, 384, 384)
    assert torch_key("mixed_6a.branch3x3dbl_1.mean") == "Mixed_6a.branch3x3dbl_1.bn.running_mean"


def test_the_last_block_alone_pools_the_maximum():
    network = nnx.eval_shape(lambda: inception.Inception(16, rngs=nnx.Rngs(0)))
    assert not network.mixed_7b.pools_maximum
    assert network.mixed_7c.pools_maximum


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_weights_are_read_from_either_kind_of_file(tmp_path, suffix):
    file, tensors = tmp_path / f"inception{suffix}", narrow.tensors()
    tensors["Mixed_5b.branch1x1.bn.num_batches_tracked"] = torch.tensor(0)
    torch.save(tensors, file) if suffix == ".pth" else save_file(tensors, file)
    weights = read_weights(file, narrow.DIVISOR)
    assert {leaf: array.shape for leaf, array in weights.items()} == leaf_shapes(narrow.DIVISOR)
    for leaf, array in weights.items():
        theirs = tensors[torch_key(leaf)].numpy()
        np.testing.assert_array_equal(array, theirs.transpose(2, 3, 1, 0) if theirs.ndim == 4 else theirs)
    network = nnx.eval_shape(lambda: bind({leaf: jnp.asarray(array) for leaf, array in weights.items()}))
    assert network.mixed_5b.branch1x1.kernel.get_value().shape == weights["mixed_5b.branch1x1.kernel"].shape


def test_bound_weights_are_where_they_belong():
    numbered = {
        leaf: jax.ShapeDtypeStruct((number, shape[-1]), jnp.float32)  # every leaf of another size
        for number, (leaf, shape) in enumerate(leaf_shapes(16).items(), 1)
    }
    network = nnx.eval_shape(lambda: bind(numbered))
    found = {".".join(map(str, path)): leaf.get_value() for path, leaf in nnx.to_flat_state(nnx.state(network))}
    assert {leaf: value.shape for leaf, value in found.items()} == {leaf: s.shape for leaf, s in numbered.items()}


def test_all_faults_of_a_file_are_in_one_message(tmp_path):
    tensors = narrow.tensors()
    del tensors["Mixed_6b.branch_pool.bn.bias"]
    tensors["AuxLogits.fc.bias"] = torch.zeros(3)
    tensors["Conv2d_2a_3x3.conv.weight"] = torch.zeros(2, 2, 3, 5)
    tensors["Mixed_7a.branch3x3_1.bn.weight"] = tensors["Mixed_7a.branch3x3_1.bn.weight"].to(torch.int32)
    tensors["fc.bias"] = torch.zeros(1000)
    tensors["Mixed_5b.bn.num_batches_tracked"] = torch.tensor(0)  # of no unit
    torch.save(tensors, tmp_path / "a.pth")
    with pytest.raises(UserError) as raised:
        read_weights(tmp_path / "a.pth", narrow.DIVISOR)
    assert "it has 6 faults" in str(raised.value)
    for fault in (
        "Mixed_6b.branch_pool.bn.bias: found nothing, expected shape (12,)",
        "'AuxLogits.fc.bias': found an unknown name",
        "Conv2d_2a_3x3.conv.weight: found shape (2, 2, 3, 5), expected (2, 2, 3, 3)",
        "Mixed_7a.branch3x3_1.bn.weight: found int32",
        "fc.bias: found shape (1000,), expected (1008,)",
        "'Mixed_5b.bn.num_batches_tracked': found an unknown name",
    ):
        assert fault in str(raised.value)


@pytest.mark.parametrize("key, value", [("conv.weight", float("nan")), ("bn.running_var", -0.1)])
def test_numbers_that_cannot_be_are_refused(tmp_path, key, value):
    tensors = narrow.tensors()
    tensors[f"Mixed_5b.branch1x1.{key}"].view(-1)[0] = value
    torch.save(tensors, tmp_path / "a.pth")
    with pytest.raises(UserError, match=f"Mixed_5b.branch1x1.{key} has numbers that cannot be"):
        read_weights(tmp_path / "a.pth", narrow.DIVISOR)
