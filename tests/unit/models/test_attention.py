"""Laws of attention."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import demo
from dualdiff_jax.config.resolve import resolve
from dualdiff_jax.errors import UserError
from dualdiff_jax.models import paired_attention
from dualdiff_jax.models.attention import attention, check_kernel, choose_kernel, joined, splash_blocks
from dualdiff_jax.models.head_pairs import LANES
from dualdiff_jax.models.joint_kernel import FAST_MEMORY
from dualdiff_jax.pipeline.loaded_model import LoadedModel
from dualdiff_jax.planning.programs import compile_program


def draw(seed: int, *shape: int) -> jnp.ndarray:
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape), jnp.float32)


Q, K, V = (draw(seed, 2, 5, 3, 4) for seed in range(3))
BIAS = draw(3, 1, 3, 5, 5)


def by_loops(q, k, v, scale, bias) -> np.ndarray:
    out = np.zeros(q.shape)
    for b, head, query in np.ndindex(q.shape[0], q.shape[2], q.shape[1]):
        scores = scale * k[b, :, head] @ q[b, query, head] + bias[0, head, query]
        weights = np.exp(scores - scores.max())
        out[b, query, head] = weights @ v[b, :, head] / weights.sum()
    return out


def test_attention_by_its_formula():
    found = attention(Q, K, V, scale=0.7, bias=BIAS)
    np.testing.assert_allclose(found, by_loops(*map(np.float64, (Q, K, V)), 0.7, np.float64(BIAS)), atol=1e-5)


def test_no_bias_is_a_bias_of_zeros():
    found = attention(Q, K, V, scale=0.5)
    np.testing.assert_allclose(found, attention(Q, K, V, scale=0.5, bias=jnp.zeros_like(BIAS)), atol=1e-6)


def test_equal_values_come_out_whatever_the_scores():
    same = jnp.broadcast_to(V[:, :1], V.shape)
    np.testing.assert_allclose(attention(Q, K, same, scale=3.0, bias=BIAS), same, atol=1e-5)


def test_softmax_of_bf16_inputs_is_taken_in_fp32():
    """Large scores that differ by little: bf16 scores near 1000 are 4 apart and would make these weights equal."""
    q, k = jnp.full((1, 1, 1, 1), 1000.0, jnp.bfloat16), jnp.array([1.0, 1.0078125], jnp.bfloat16).reshape(1, 2, 1, 1)
    v = jnp.array([0.0, 1.0], jnp.bfloat16).reshape(1, 2, 1, 1)
    found = attention(q, k, v, scale=0.125)
    assert found.dtype == jnp.bfloat16
    np.testing.assert_allclose(float(found[0, 0, 0, 0]), 1 / (1 + np.exp(-125 * 0.0078125)), rtol=1e-2)


@pytest.mark.parametrize(
    "length, padded, block",
    [
        (1024 + 256, 1280, 640),
        (1024 + 128, 1152, 384),
        (1024, 1024, 512),
        (4096 + 256, 4352, 256),
        (1000, 1024, 512),
        (1, 128, 128),
        (129, 256, 256),
        (704, 768, 384),
    ],
)
def test_a_sequence_is_padded_to_whole_blocks_of_the_largest_size_that_divides(length, padded, block):
    assert splash_blocks(length) == (padded, block)


@pytest.mark.parametrize("queries, keys", [(1280, 1280), (200, 200), (64, 130)])
def test_the_tpu_kernel_is_the_formula_forward_and_backward(queries, keys):
    """Head dim 64; padding of odd lengths is not seen; a part of the queries sees all keys.

    Both kernels take exact softmaxes in fp32, so what differs is rounding.
    """
    q, k, v, weight = (draw(seed, 1, size, 2, 64) for seed, size in enumerate((queries, keys, keys, queries)))

    def loss(kernel):
        return lambda q, k, v: (weight * attention(q, k, v, scale=0.125, kernel=kernel)).sum()

    found, expected = (jax.value_and_grad(loss(kernel), argnums=(0, 1, 2))(q, k, v) for kernel in KERNELS)
    np.testing.assert_allclose(found[0], expected[0], rtol=1e-4)
    for ours, theirs in zip(found[1], expected[1], strict=True):
        assert np.linalg.norm(ours - theirs) <= 1e-5 * np.linalg.norm(theirs)


KERNELS = ("splash_interpreted", "xla")


@pytest.mark.parametrize("kernel", ["splash_interpreted", "splash"])
def test_a_kernel_that_takes_no_bias_is_an_error(kernel):
    with pytest.raises(ValueError, match=f"{kernel!r} takes no bias"):
        attention(Q, K, V, scale=1.0, bias=BIAS, kernel=kernel)


def test_an_unknown_kernel_is_an_error():
    message = "attention kernel 'flash' is none of xla, cudnn, splash, splash_interpreted"
    with pytest.raises(ValueError, match=message):
        attention(Q, K, V, scale=1.0, kernel="flash")
    with pytest.raises(ValueError, match="attention kernel 'flash' is none of auto, xla, cudnn"):
        choose_kernel("flash", "cpu", "float32")


@pytest.mark.parametrize(
    "wanted, platform, dtype, kernel",
    [
        ("auto", "cpu", "bfloat16", "xla"),
        ("auto", "gpu", "bfloat16", "cudnn"),
        ("auto", "gpu", "float32", "xla"),
        ("auto", "tpu", "bfloat16", "splash"),
        ("auto", "tpu", "float32", "splash"),
        ("xla", "tpu", "bfloat16", "xla"),
        ("splash_interpreted", "cpu", "float32", "splash_interpreted"),
    ],
)
def test_the_kernel_is_the_platforms_unless_it_is_named(wanted, platform, dtype, kernel):
    assert choose_kernel(wanted, platform, dtype) == kernel


@pytest.mark.parametrize(
    "wanted, platform, dtype, needs",
    [
        ("cudnn", "cpu", "bfloat16", "an NVIDIA GPU and model.compute_dtype bfloat16, but this is cpu with bfloat16"),
        ("cudnn", "gpu", "float32", "an NVIDIA GPU and model.compute_dtype bfloat16, but this is gpu with float32"),
        ("splash", "gpu", "bfloat16", "a TPU, but this is gpu with bfloat16"),
        ("splash", "cpu", "float32", "a TPU, but this is cpu with float32"),
    ],
)
def test_a_kernel_of_another_platform_or_dtype_is_one_sentence(wanted, platform, dtype, needs):
    with pytest.raises(UserError, match=f"model.attention '{wanted}' needs {needs}; give auto or xla"):
        check_kernel(wanted, platform, dtype)


@pytest.mark.parametrize(
    "platform, dtype", [("cpu", "float32"), ("gpu", "float32"), ("gpu", "bfloat16"), ("tpu", "float32")]
)
def test_the_kernels_of_a_platform_and_those_of_all_pass(platform, dtype):
    for wanted in ("auto", "xla", "splash_interpreted", choose_kernel("auto", platform, dtype)):
        assert check_kernel(wanted, platform, dtype) == choose_kernel(wanted, platform, dtype)


def test_sampling_and_plans_check_the_kernel_before_they_compile():
    run = resolve(demo.get_config())
    config = dataclasses.replace(run.model, attention="splash")
    with pytest.raises(UserError, match="model.attention 'splash' needs a TPU, but this is cpu"):
        LoadedModel(config, {"leaf": jnp.zeros(1)}, tokenizer=None)  # pyright: ignore[reportArgumentType]
    with pytest.raises(UserError, match="model.attention 'splash' needs a TPU, but this is gpu"):
        compile_program(dataclasses.replace(run, model=config), "train", [], "gpu")


def test_a_tpu_gets_three_pallas_kernels_and_no_scores():
    """Lowered for a TPU without its compiler: the result, the gradient of the queries, that of keys and values."""
    x = jax.ShapeDtypeStruct((1, 1280, 2, 64), jnp.bfloat16)

    def loss(q, k, v):
        return attention(q, k, v, scale=0.125, kernel="splash").astype(jnp.float32).sum()

    gradient = jax.jit(jax.grad(loss, argnums=(0, 1, 2)))
    text = gradient.trace(x, x, x).lower(lowering_platforms=("tpu",)).as_text()
    assert text.count("@tpu_custom_call") == 3
    assert "1280x1280" not in text


@pytest.mark.parametrize(
    "heads, head_dim, queries, keys", [(4, 64, 40, 40), (2, 64, 300, 300), (2, 64, 7, 33), (3, 8, 5, 9)]
)
@pytest.mark.parametrize("kernel", KERNELS)
def test_heads_side_by_side_are_the_same_attention(kernel, heads, head_dim, queries, keys):
    """Two heads of 64 share the registers of a TPU; other sizes go to splash. 300 queries are no whole blocks."""
    q, k, v = (
        jax.random.normal(jax.random.key(seed), (2, length, heads, head_dim))
        for seed, length in enumerate((queries, keys, keys))
    )
    expected = attention(q, k, v, scale=head_dim**-0.5)
    flat = [x.reshape(*x.shape[:2], -1) for x in (q, k, v)]
    found = attention(*flat, scale=head_dim**-0.5, kernel=kernel, heads=heads)
    assert found.shape == expected.shape
    np.testing.assert_allclose(found, expected, atol=2e-6)


@pytest.mark.parametrize("kernel", KERNELS)
def test_equal_values_come_out_of_heads_side_by_side_however_large_the_scores(kernel):
    """Scores of hundreds, whose exponentials fp32 does not hold."""
    q, k = (draw(seed, 2, 7, LANES) for seed in range(2))
    same = jnp.broadcast_to(draw(2, 2, 1, LANES), q.shape)
    found = attention(q, k, same, scale=100.0, kernel=kernel, heads=2)
    np.testing.assert_allclose(found.reshape(same.shape), same, rtol=1e-6)


def test_the_paired_kernel_takes_as_many_keys_as_fast_memory_holds():
    """A program holds keys and values in bf16, two blocks of each: it fetches the next while it computes. For each of
    its queries and each key it holds the score in fp32 and the softmax weight in bf16."""
    most = FAST_MEMORY // (2 * 2 * 2 * LANES + (4 + 2) * paired_attention.BLOCK_Q)
    assert paired_attention.fits(2, 64, most) and not paired_attention.fits(2, 64, most + 1)


def test_only_pairs_of_heads_that_fill_a_register_go_to_the_paired_kernel(monkeypatch):
    taken, run = [], paired_attention.paired_attention
    monkeypatch.setattr(
        paired_attention, "paired_attention", lambda *args, **options: taken.append(1) or run(*args, **options)
    )
    for heads, head_dim, is_paired in ((2, 64, True), (3, 64, False), (2, 32, False)):
        taken.clear()
        x = jnp.ones((1, 8, heads * head_dim))
        attention(x, x, x, scale=1.0, kernel="splash_interpreted", heads=heads)
        assert bool(taken) == is_paired


def test_q_k_and_v_of_two_streams_are_joined_and_their_gradients_go_back_to_each_stream():
    image, text = (jax.random.normal(jax.random.key(seed), (2, length, 3, 2, 4)) for seed, length in ((0, 5), (1, 3)))
    weights = jax.random.normal(jax.random.key(2), (3, 2, 8, 2, 4))

    def by_hand(image: jax.Array, text: jax.Array) -> list[jax.Array]:
        return [jnp.concatenate([image[:, :, part], text[:, :, part]], axis=1) for part in range(3)]

    (value, gradients), (expected, others) = (
        jax.value_and_grad(lambda *args, f=f: (weights * jnp.stack(f(*args))).sum(), argnums=(0, 1))(image, text)
        for f in (joined, by_hand)
    )
    np.testing.assert_allclose(value, expected, rtol=1e-6)
    jax.tree.map(np.testing.assert_array_equal, gradients, others)
