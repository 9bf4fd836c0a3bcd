"""Laws of the joint block."""

import jax.numpy as jnp
import numpy as np
from flax import nnx

from dualdiff_jax.models.blocks import JointBlock
from dualdiff_jax.models.norms import layer_norm, modulate
from tests.unit.tiny import CONFIG

WIDTH, HEADS = CONFIG.mmdit.width, CONFIG.mmdit.heads


def draw(seed: int, *shape: int) -> jnp.ndarray:
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape), jnp.float32)


IMAGE, TEXT, CONDITIONING = draw(0, 2, 4, WIDTH), draw(1, 2, 3, WIDTH), draw(2, 2, WIDTH)


def random_block() -> JointBlock:
    graph, state = nnx.split(JointBlock(CONFIG.mmdit, rngs=nnx.Rngs(0)))
    rng = np.random.default_rng(3)
    flat = [(path, leaf.replace(draw_like(rng, leaf[...]))) for path, leaf in nnx.to_flat_state(state)]
    return nnx.merge(graph, nnx.from_flat_state(flat))


def draw_like(rng: np.random.Generator, value: jnp.ndarray) -> jnp.ndarray:
    return jnp.asarray(0.3 * rng.standard_normal(value.shape), value.dtype)


def by_hand(block: JointBlock, image, text, conditioning) -> tuple[np.ndarray, np.ndarray]:
    """Equations (1) to (3) of the module in fp64, one example at a time."""
    out = []
    for x_image, x_text, c in zip(*map(np.float64, (image, text, conditioning)), strict=True):
        streams, hidden = (block.image, block.text), [x_image, x_text]
        vectors = [np.einsum("d,dpm->pm", c, k_of(s.modulation)) + b_of(s.modulation) for s in streams]
        heads = []
        for stream, x, (shift, scale, *_) in zip(streams, hidden, vectors, strict=True):
            normed = normalise(x) * (1 + scale) + shift
            heads.append(np.einsum("sd,dphk->pshk", normed, k_of(stream.qkv)) + b_of(stream.qkv)[:, None])
        q, k, v = np.concatenate(heads, axis=1)
        scores = np.einsum("qhk,shk->hqs", q, k) / np.sqrt(WIDTH // HEADS)
        weights = np.exp(scores) / np.exp(scores).sum(axis=-1, keepdims=True)
        attended = np.split(np.einsum("hqs,shk->qhk", weights, v), [len(x_image)])
        row = []
        for stream, x, a, (_, _, gate_a, shift, scale, gate) in zip(streams, hidden, attended, vectors, strict=True):
            x = x + gate_a * (np.einsum("shk,hkd->sd", a, k_of(stream.attention_out)) + b_of(stream.attention_out))
            mlp = (normalise(x) * (1 + scale) + shift) @ k_of(stream.mlp_in) + b_of(stream.mlp_in)
            row.append(x + gate * (gelu(mlp) @ k_of(stream.mlp_out) + b_of(stream.mlp_out)))
        out.append(row)
    return np.stack([row[0] for row in out]), np.stack([row[1] for row in out])


def k_of(linear) -> np.ndarray:
    return np.asarray(linear.kernel[...], np.float64)


def b_of(linear) -> np.ndarray:
    return np.asarray(linear.bias[...], np.float64)


def normalise(x: np.ndarray) -> np.ndarray:
    return (x - x.mean(axis=-1, keepdims=True)) / np.sqrt(x.var(axis=-1, keepdims=True) + 1e-6)


def gelu(x: np.ndarray) -> np.ndarray:
    return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


def test_block_by_its_equations():
    block = random_block()
    for found, expected in zip(
        block(IMAGE, TEXT, block.modulation(CONDITIONING)), by_hand(block, IMAGE, TEXT, CONDITIONING), strict=True
    ):
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


def test_a_fresh_block_is_the_identity():
    """Its gates are zero: a new block adds nothing to either stream."""
    block = JointBlock(CONFIG.mmdit, rngs=nnx.Rngs(0))
    image, text = block(IMAGE, TEXT, block.modulation(CONDITIONING))
    np.testing.assert_array_equal(image, IMAGE)
    np.testing.assert_array_equal(text, TEXT)


def test_layer_norm_has_mean_0_and_variance_1_and_ignores_shift_and_scale():
    normed = np.asarray(layer_norm(5.0 + 3.0 * IMAGE))
    np.testing.assert_allclose(normed.mean(axis=-1), 0.0, atol=1e-5)
    np.testing.assert_allclose(normed.var(axis=-1), 1.0, rtol=1e-4)
    np.testing.assert_allclose(normed, layer_norm(IMAGE), atol=1e-4)


def test_layer_norm_of_bf16_is_taken_in_fp32():
    x = (300.0 + IMAGE).astype(jnp.bfloat16)
    found = layer_norm(x)
    assert found.dtype == jnp.bfloat16
    np.testing.assert_array_equal(found, layer_norm(x.astype(jnp.float32)).astype(jnp.bfloat16))


def test_modulation_is_each_examples_own():
    shift, scale = draw(4, 2, WIDTH), draw(5, 2, WIDTH)
    expected = np.asarray(layer_norm(IMAGE)) * (1 + np.asarray(scale))[:, None] + np.asarray(shift)[:, None]
    np.testing.assert_allclose(modulate(IMAGE, shift, scale), expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(modulate(IMAGE, jnp.zeros_like(shift), jnp.zeros_like(scale)), layer_norm(IMAGE))
