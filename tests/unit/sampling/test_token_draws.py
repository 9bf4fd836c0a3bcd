"""From scores to tokens: repetition penalty, nucleus, temperature, and the tail of a draw."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend.random import define_prng_impl
from scipy.stats import chi2

from dualdiff_jax.sampling.text_options import TextOptions
from dualdiff_jax.sampling.token_draws import draw_tokens, nucleus, penalized

ANCESTRAL = {"order": "ancestral", "steps": 1}
DRAW = jax.jit(draw_tokens)


def draws(probs: np.ndarray, count: int, seed: int = 0, **choices) -> np.ndarray:
    """``count`` draws from ``probs`` (v,), all in one text."""
    log_probs = jnp.broadcast_to(jnp.log(jnp.asarray(probs, jnp.float32)), (1, count, len(probs)))
    options = TextOptions(**(ANCESTRAL | choices))
    return np.asarray(DRAW(jax.random.split(jax.random.key(seed), (1, count)), log_probs, options))[0]


def _bits(key_data: jax.Array, bit_width: int, shape: tuple[int, ...]) -> jax.Array:
    first = jnp.arange(shape[-1]) == 0
    return jnp.broadcast_to(jnp.where(first, key_data[0], jnp.uint32(1 << 31)), shape)


EXTREME = define_prng_impl(
    key_shape=(1,),
    seed=lambda seed: jnp.asarray([seed], jnp.uint32),
    split=lambda key_data, shape: jnp.broadcast_to(key_data, (*shape, 1)),
    random_bits=_bits,
    fold_in=lambda key_data, data: key_data,
    name="extreme",
)  # its keys are the random bits of the first token; those of all others are one half


def test_the_tail_of_a_draw_is_not_cut_off():
    """The noise at one end of its range reaches a token of probability 1e-9; with 23 random bits it ends at 1e-7."""
    probs = jnp.asarray([1e-9, 1.0])
    keys = jax.random.wrap_key_data(jnp.asarray([[[0]], [[2**32 - 1]]], jnp.uint32), impl=EXTREME)
    log_probs = jnp.broadcast_to(jnp.log(probs), (2, 1, 2))
    assert sorted(np.asarray(DRAW(keys, log_probs, TextOptions(**ANCESTRAL))).ravel()) == [0, 1]


def chi_square(found: np.ndarray, probs: np.ndarray) -> float:
    expected = len(found) * probs[probs > 0]
    seen = np.bincount(found, minlength=len(probs))
    assert not seen[probs == 0].any()
    return float(chi2.sf(((seen[probs > 0] - expected) ** 2 / expected).sum(), len(expected) - 1))


PROBS = np.array([0.05, 0.4, 0.02, 0.3, 0.15, 0.08])


@pytest.mark.parametrize("temperature, top_p", [(None, None), (0.5, None), (2.0, None), (None, 0.8), (0.7, 0.9)])
def test_temperature_comes_before_the_nucleus(temperature, top_p):
    expected = PROBS ** (1 / (temperature or 1.0))
    expected /= expected.sum()
    if top_p is not None:
        order = np.argsort(-expected)
        kept = order[: np.searchsorted(np.cumsum(expected[order]), top_p) + 1]
        expected = np.where(np.isin(np.arange(len(PROBS)), kept), expected, 0.0)
        expected /= expected.sum()
    for seed in (0, 1, 2):
        assert chi_square(draws(PROBS, 100_000, seed, temperature=temperature, top_p=top_p), expected) > 0.01


@pytest.mark.parametrize("choices", [{"temperature": 0.0}, {"temperature": 1e-30}, {"top_p": 1e-6}])
def test_the_limit_is_the_likeliest_token(choices):
    assert (draws(PROBS, 1000, **choices) == 1).all()


@pytest.mark.parametrize("order", [{"order": "confidence", "steps": 1}, {"order": "threshold", "threshold": 0.5}])
def test_other_orders_take_the_likeliest_token_unless_a_temperature_is_given(order):
    log_probs = jnp.log(jnp.broadcast_to(jnp.asarray(PROBS), (1, 1000, 6)))
    key = jax.random.split(jax.random.key(0), (1, 1000))
    assert (draw_tokens(key, log_probs, TextOptions(**order)) == 1).all()
    found = draw_tokens(key, log_probs, TextOptions(**order, temperature=1.0))
    assert chi_square(np.asarray(found)[0], PROBS) > 0.01


def test_the_nucleus_is_the_smallest_with_that_probability_and_keeps_equals_together():
    probs = np.array([[0.4, 0.3, 0.2, 0.1], [0.25, 0.25, 0.25, 0.25], [0.5, 0.2, 0.2, 0.1], [1.0, 0.0, 0.0, 0.0]])
    kept = np.asarray(nucleus(jnp.log(jnp.asarray(probs)), 0.65)) > -1e29
    np.testing.assert_array_equal(kept[:3], [[1, 1, 0, 0], [1, 1, 1, 1], [1, 1, 1, 0]])
    assert kept[3, 0]
    assert (np.asarray(nucleus(jnp.log(jnp.asarray(probs[:3])), 1.0)) > -1e29).all()


def test_a_repetition_penalty_lowers_what_is_written_in_the_same_text():
    logits = jnp.asarray([[[2.0, -2.0, 0.0, 4.0]] * 3, [[2.0, -2.0, 0.0, 4.0]] * 3])
    token_ids, is_written = jnp.asarray([[0, 1, 3], [3, 3, 3]]), jnp.asarray([[True, True, False], [False] * 3])
    found = penalized(logits, token_ids, is_written, 2.0)
    np.testing.assert_array_equal(found[0], [[1.0, -4.0, 0.0, 4.0]] * 3)
    np.testing.assert_array_equal(found[1], logits[1])
    np.testing.assert_array_equal(penalized(logits, token_ids, is_written, 1.0), logits)
