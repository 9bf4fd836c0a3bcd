"""Torch keys to leaves and back: each number has one leaf, no number is lost, and the report lists every fault."""

import re

import numpy as np
import pytest

from dualdiff_jax.config import ModelConfig
from dualdiff_jax.convert.checkpoint_formats import D_DIT_FORMATS
from dualdiff_jax.convert.plan import format_rules
from dualdiff_jax.convert.rule import Rule
from dualdiff_jax.convert.state_dict import networks_with_leaves, to_torch
from dualdiff_jax.errors import UserError
from dualdiff_jax.models.bundle import leaf_specs
from tests.parity.pair import CONFIG, KL, UNPATCHED, random_pair
from tests.torch_weights import from_torch

pytestmark = pytest.mark.parity

TIED = "encoder.embed_tokens.weight"
LAST_GATE = "transformer_blocks.1.norm1_context.linear.weight"


@pytest.fixture
def state_dict() -> dict[str, np.ndarray]:
    """The tensors of both networks, with the embedding under both of its names."""
    tensors = random_pair(CONFIG, seed=0).state_dict()
    tensors[TIED] = tensors["shared.weight"].copy()
    return tensors


def assert_faults(message: str, *patterns: str) -> None:
    """Checks that the report has exactly these faults, one per line."""
    _, *faults = message.splitlines()
    assert len(faults) == len(patterns), message
    for pattern in patterns:
        assert any(re.search(pattern, fault) for fault in faults), f"{pattern!r} is not in:\n{message}"


def all_rules(config: ModelConfig) -> list[Rule]:
    rules = [format_rules(D_DIT_FORMATS[network], config) for network in networks_with_leaves(config)]
    return [rule for by_layer in rules for group in by_layer.values() for rule in group]


@pytest.mark.parametrize("config", [CONFIG, UNPATCHED, KL], ids=["patch2", "patch1", "kl"])
def test_every_number_of_every_leaf_has_one_tensor(config):
    covered = {name: np.zeros(spec.shape, int) for name, spec in leaf_specs(config).items()}
    for rule in all_rules(config):
        array = covered[rule.leaf] if rule.layer is None else covered[rule.leaf][rule.layer]
        array[rule.index] += 1
        assert rule.size == array[rule.index].size, rule
    assert all((count == 1).all() for count in covered.values())


@pytest.mark.parametrize("config", [CONFIG, UNPATCHED, KL], ids=["patch2", "patch1", "kl"])
def test_the_rules_name_the_tensors_of_the_reference(config):
    reference = random_pair(config, seed=0).state_dict()
    expected = {key: value.shape for key, value in reference.items() if key != TIED}
    assert {rule.key: rule.shape for rule in all_rules(config)} == expected


@pytest.mark.parametrize("config", [CONFIG, UNPATCHED, KL], ids=["patch2", "patch1", "kl"])
def test_there_and_back_is_bit_for_bit(config, seed):
    pair = random_pair(config, seed)
    tensors = pair.state_dict()
    tensors.pop(TIED, None)
    back = to_torch(from_torch(tensors, config), config)
    assert back.keys() == tensors.keys()
    for key, tensor in tensors.items():
        assert back[key].dtype == tensor.dtype and back[key].shape == tensor.shape, key
        assert back[key].tobytes() == tensor.tobytes(), key
    again = from_torch(back, config)
    assert all(again[leaf].tobytes() == pair.weights[leaf].tobytes() for leaf in pair.weights)


def test_one_network_alone(state_dict):
    for network in ("mmdit", "t5"):
        tensors = {k: v for k, v in state_dict.items() if k.startswith(("encoder.", "shared.")) == (network == "t5")}
        weights = from_torch(tensors, CONFIG, [network])
        assert weights and all(leaf.startswith(f"{network}.") for leaf in weights)
        assert to_torch(weights, CONFIG, [network]).keys() == tensors.keys() - {TIED}


def test_half_precision_is_widened_exactly(state_dict):
    half = {key: tensor.astype(np.float16) for key, tensor in state_dict.items()}
    back = to_torch(from_torch(half, CONFIG), CONFIG)
    assert all(tensor.dtype == np.float32 and np.array_equal(tensor, half[key]) for key, tensor in back.items())


@pytest.mark.parametrize("name", ["shared.weight", TIED])
def test_the_embedding_may_have_either_name(state_dict, name):
    both = from_torch(state_dict, CONFIG)["t5.embedding"]
    del state_dict[name]
    np.testing.assert_array_equal(from_torch(state_dict, CONFIG)["t5.embedding"], both)


def test_two_embeddings_that_differ(state_dict):
    state_dict[TIED][3, 2] += 1
    with pytest.raises(UserError, match=rf"{TIED}: found other values than in shared\.weight"):
        from_torch(state_dict, CONFIG)


def test_a_renamed_key(state_dict):
    state_dict["image_proj_out.wieght"] = state_dict.pop("image_proj_out.weight")
    with pytest.raises(UserError) as error:
        from_torch(state_dict, CONFIG)
    assert_faults(
        str(error.value),
        r"image_proj_out\.wieght: found an unknown name; expected image_proj_out\.weight\?",
        r"image_proj_out\.weight: found nothing, expected shape \(12, 24\) for mmdit\.image_out\.kernel",
    )


def test_all_faults_in_one_report(state_dict):
    """SD3's last block: no text output, and a modulation of two vectors; a head too many; integers."""
    gone = [key for key in state_dict if re.match(r"transformer_blocks\.1\.(attn\.to_add_out|ff_context)\.", key)]
    for key in gone:
        del state_dict[key]
    state_dict[LAST_GATE] = state_dict[LAST_GATE][: 2 * CONFIG.mmdit.width]
    state_dict["proj_out.weight"] = np.zeros((12, 24), np.float32)
    state_dict["text_proj_out.bias"] = np.zeros(29, np.int8)
    with pytest.raises(UserError) as error:
        from_torch(state_dict, CONFIG)
    assert len(gone) == 6
    assert_faults(
        str(error.value),
        *(rf"^  the torch weights: {re.escape(key)}: found nothing, expected shape" for key in gone),
        rf"{re.escape(LAST_GATE)}: found shape \(48, 24\), expected \(144, 24\)",
        r"proj_out\.weight: found an unknown name",
        r"text_proj_out\.bias: found dtype int8, expected floating point numbers",
    )


def test_a_transposed_tensor_is_not_taken(state_dict):
    state_dict["context_embedder.weight"] = state_dict["context_embedder.weight"].T
    with pytest.raises(UserError) as error:
        from_torch(state_dict, CONFIG)
    assert_faults(str(error.value), r"context_embedder\.weight: found shape \(20, 24\), expected \(24, 20\)")


def test_faults_of_our_own_weights():
    weights = dict(random_pair(CONFIG, seed=0).weights)
    weights["mmdit.blocks.image.qvk.kernel"] = weights.pop("mmdit.blocks.image.qkv.kernel")
    weights["t5.norm.scale"] = weights["t5.norm.scale"][:-1]
    with pytest.raises(UserError) as error:
        to_torch(weights, CONFIG)
    assert_faults(
        str(error.value),
        r"image\.qvk\.kernel: found an unknown name",
        r"image\.qkv\.kernel: found nothing, expected shape \(2, 24, 3, 3, 8\)",
        r"t5\.norm\.scale: found shape \(19,\), expected \(20,\)",
    )
