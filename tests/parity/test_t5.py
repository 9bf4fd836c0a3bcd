"""The text encoder against transformers': buckets, values and gradients."""

from functools import partial

import jax
import numpy as np
import pytest
import torch
from flax import nnx
from transformers.models.t5.modeling_t5 import T5Attention

from dualdiff_jax.config import ModelConfig
from dualdiff_jax.convert.state_dict import to_torch
from dualdiff_jax.models.bundle import bind
from dualdiff_jax.models.t5_encoder import relative_buckets
from tests.parity.comparison import GRADIENT_BOUND, OUTPUT_BOUND, assert_parity
from tests.parity.pair import CONFIG, random_pair
from tests.parity.reference import gradients, recorded

pytestmark = pytest.mark.parity

BATCH = 2


@pytest.mark.parametrize(("buckets", "max_distance"), [(32, 128), (8, 12), (16, 100), (4, 7)])
@pytest.mark.parametrize("length", [1, 2, 33, 512])
def test_relative_buckets(length, buckets, max_distance):
    distance = torch.arange(length)[None, :] - torch.arange(length)[:, None]
    expected = T5Attention._relative_position_bucket(
        distance, bidirectional=True, num_buckets=buckets, max_distance=max_distance
    )
    np.testing.assert_array_equal(relative_buckets(length, buckets, max_distance), expected)


MASK = CONFIG.mmdit.vocab_size - 1  # the last token that the model scores
PADDING = 1
TEXTS = ("plain", "padded", "masked", "masked_and_padded", "all_padding", "all_masks")


def draw_tokens(rng: np.random.Generator, kind: str, length: int) -> np.ndarray:
    """Token ids (b, length) of the full vocabulary; padding is at the end, masks are anywhere before it."""
    token_ids = rng.integers(0, CONFIG.t5.vocab_size, (BATCH, length))
    if kind.startswith("masked"):
        token_ids[rng.random(token_ids.shape) < 0.5] = MASK
        token_ids[:, 0] = MASK
    if kind.endswith("padded"):
        token_ids[:, -(-length // 2) :] = PADDING
    if kind.startswith("all"):
        token_ids[:] = PADDING if kind == "all_padding" else MASK
    return token_ids


@jax.jit
def our_encoding(weights: dict, token_ids: jax.Array) -> jax.Array:
    return bind(CONFIG, weights).encode_text(token_ids)


@pytest.mark.parametrize("kind", TEXTS)
def test_padding_and_masks_are_encoded_like_any_token(seed, kind):
    """Neither side has an attention mask."""
    pair, token_ids = random_pair(CONFIG, seed), draw_tokens(np.random.default_rng(seed), kind, 13)
    expected = pair.t5(input_ids=torch.from_numpy(token_ids)).last_hidden_state.detach().numpy()
    found = our_encoding(pair.weights, token_ids)
    assert_parity({"embeddings": found}, {"embeddings": expected}, OUTPUT_BOUND, seed=seed)


@jax.jit
def our_layers(weights: dict, token_ids: jax.Array, bias: jax.Array) -> dict[str, jax.Array]:
    """The embeddings after each block, and after the last norm."""
    t5 = bind(CONFIG, weights).t5
    x = t5.embedding[...][token_ids]
    outputs = {"encoder.embed_tokens": x}
    graph, layers = nnx.split(t5.blocks)
    for layer in range(CONFIG.t5.depth):
        x = nnx.merge(graph, jax.tree.map(lambda leaf, layer=layer: leaf[layer], layers))(x, bias)
        outputs[f"encoder.block.{layer}"] = x
    return outputs | {"encoder.final_layer_norm": t5.norm(x)}


@pytest.mark.parametrize("length", [5, 17])
def test_layer_by_layer(seed, length):
    pair, token_ids = random_pair(CONFIG, seed), draw_tokens(np.random.default_rng(seed), "masked_and_padded", length)
    bias = pair.t5.encoder.block[0].layer[0].SelfAttention.compute_bias(length, length).detach().numpy()
    found = our_layers(pair.weights, token_ids, bias)
    with recorded(pair.t5, found) as passes:
        pair.t5(input_ids=torch.from_numpy(token_ids))
    expected = {name: passed.outputs[0] for name, passed in passes.items()}
    assert_parity(found, expected, OUTPUT_BOUND, seed=seed)


@partial(jax.jit, static_argnums=0)
def our_pass(config: ModelConfig, trained: dict, constants: dict, token_ids: jax.Array, direction: jax.Array):
    """(embeddings, gradients by leaf) of the embeddings' product with a direction."""

    def loss(trained):
        embeddings = bind(config, trained | constants).encode_text(token_ids)
        return (embeddings * direction).sum(), embeddings

    (_, embeddings), gradients = jax.value_and_grad(loss, has_aux=True)(trained)
    return embeddings, gradients


@pytest.mark.parametrize("length", [1, 6, 41])
def test_encoder_and_every_gradient(seed, length):
    pair, rng = random_pair(CONFIG, seed), np.random.default_rng(seed)
    token_ids = rng.integers(0, CONFIG.t5.vocab_size, (BATCH, length))
    token_ids[0, length // 2 :] = 1  # padding is encoded like any token
    direction = rng.standard_normal((BATCH, length, CONFIG.t5.width), np.float32)

    trained = {name: weight for name, weight in pair.weights.items() if name.startswith("t5.")}
    constants = {name: weight for name, weight in pair.weights.items() if name not in trained}
    embeddings, by_leaf = our_pass(CONFIG, trained, constants, token_ids, direction)

    expected = pair.t5(input_ids=torch.from_numpy(token_ids)).last_hidden_state
    (expected * torch.from_numpy(direction)).sum().backward()
    expected = {"embeddings": expected.detach().numpy()}
    assert_parity({"embeddings": embeddings}, expected, OUTPUT_BOUND, seed=seed)
    assert_parity(to_torch(by_leaf, CONFIG, ["t5"]), gradients(pair.t5), GRADIENT_BOUND, seed=seed)
