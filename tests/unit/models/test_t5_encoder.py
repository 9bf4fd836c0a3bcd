"""Laws of the text encoder."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dualdiff_jax.models.bundle import bind
from dualdiff_jax.models.norms import RMSNorm
from dualdiff_jax.models.t5_encoder import relative_buckets
from tests.unit.tiny import CONFIG, END, QUICK, draw_tokens, random_weights, with_dtype

LENGTH = 6
TOKENS = draw_tokens(0, 1, LENGTH)


@jax.jit(compiler_options=QUICK)
def encode(token_ids: jax.Array) -> jax.Array:
    return bind(CONFIG, random_weights()).encode_text(token_ids)


def bucket(distance: int, buckets: int, max_distance: int) -> int:
    """T5's rule for one pair (arXiv 1910.10683, section 2.1): half of the buckets for keys that come later."""
    half = buckets // 2
    later = half if distance > 0 else 0
    near = half // 2
    if abs(distance) < near:
        return later + abs(distance)
    far = near + int(math.log(abs(distance) / near) / math.log(max_distance / near) * (half - near))
    return later + min(far, half - 1)


@pytest.mark.parametrize("buckets, max_distance", [(32, 128), (8, 12)])
def test_buckets_by_the_direct_formula(buckets, max_distance):
    length = 150
    expected = [[bucket(j - i, buckets, max_distance) for j in range(length)] for i in range(length)]
    found = relative_buckets(length, buckets, max_distance)
    differing = found != np.array(expected)
    assert not differing.any(), f"at distances {sorted({int(j - i) for i, j in np.argwhere(differing)})}"


def test_buckets_depend_on_the_distance_alone_and_are_all_used():
    found = relative_buckets(140, 32, 128)
    for offset in (-139, -20, 0, 3, 100):
        assert len(set(np.diagonal(found, offset))) == 1
    assert set(found.ravel()) == set(range(32)) - {16}  # 16 would be a later key at distance 0


def test_the_bias_makes_order_matter_and_only_relatively():
    """Without absolute positions, a text of one repeated token has one embedding everywhere; others have not."""
    same = np.asarray(encode(jnp.full((1, LENGTH), 5)))
    np.testing.assert_allclose(same, np.broadcast_to(same[:, :1], same.shape), atol=1e-5)
    turned = np.asarray(encode(TOKENS[:, ::-1]))[:, ::-1]
    assert np.abs(turned - np.asarray(encode(TOKENS))).max() > 1e-2


def test_padding_is_read():
    """There is no attention mask: other padding, other embeddings of the words, before and after it."""
    padded = TOKENS.at[0, 3:].set(END)
    other = padded.at[0, 5].set(0)
    before, after = np.asarray(encode(padded)), np.asarray(encode(other))
    assert (np.abs(before - after).max(axis=-1) > 1e-5).all()


def test_attention_runs_both_ways():
    before = np.asarray(encode(TOKENS))
    for place in (0, LENGTH - 1):
        after = np.asarray(encode(TOKENS.at[0, place].set(TOKENS[0, place] + 1)))
        assert (np.abs(after - before).max(axis=-1) > 1e-5).all()


def test_examples_do_not_see_each_other():
    both = jnp.concatenate([TOKENS, draw_tokens(1, 1, LENGTH)])
    np.testing.assert_allclose(encode(both)[:1], encode(TOKENS), atol=1e-5)


def test_rms_norm_scales_by_the_root_mean_square_without_centring():
    x = 4.0 + 2.0 * jnp.asarray(np.random.default_rng(0).standard_normal((3, 8)), jnp.float32)
    norm = RMSNorm(8)
    expected = x / np.sqrt(np.square(x).mean(axis=-1, keepdims=True) + 1e-6)
    np.testing.assert_allclose(norm(x), expected, rtol=1e-5)
    norm.scale[...] = jnp.arange(8.0)
    np.testing.assert_allclose(norm(x), expected * np.arange(8), rtol=1e-5)
    assert norm(x.astype(jnp.bfloat16)).dtype == jnp.bfloat16


def test_embeddings_have_the_compute_dtype():
    shape = jax.eval_shape(lambda: bind(with_dtype("bfloat16"), random_weights()).encode_text(TOKENS))
    assert shape.shape == (1, LENGTH, CONFIG.t5.width) and shape.dtype == jnp.bfloat16
