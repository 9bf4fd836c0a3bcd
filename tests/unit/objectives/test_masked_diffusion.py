"""Laws of the mask schedule, of SUBS and of the NELBO."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.polynomial.legendre import leggauss

from dualdiff_jax.objectives import masked_diffusion as module
from dualdiff_jax.objectives.masked_diffusion import (
    keep_probability,
    mask_rate,
    mask_tokens,
    masked_log_probs,
    masked_nelbo,
    subs_log_probs,
    token_log_probs,
)
from dualdiff_jax.objectives.time_sampling import T_MIN, sample_t

VOCABULARY, MASK = 6, 4  # the mask is not the last token here, so that an off-by-one shows
STANDARD_ERRORS = 4.5
REAL_TOKENS = np.array([k for k in range(VOCABULARY) if k != MASK])


def draw_tokens(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).choice(REAL_TOKENS, shape).astype(np.int32)


def draw_logits(seed: int, *shape: int) -> jax.Array:
    return 3.0 * jax.random.normal(jax.random.key(seed), (*shape, VOCABULARY))


@pytest.mark.parametrize("t", [1e-3, 0.1, 0.5, 0.9, 1.0])
def test_a_token_is_masked_with_probability_1_minus_eps_times_t(t):
    tokens = draw_tokens(0, 200, 1000)
    answer = jnp.ones(tokens.shape, bool)
    _, is_masked = mask_tokens(jax.random.key(1), tokens, jnp.full(200, t), answer, MASK)
    expected = (1 - T_MIN) * t
    assert abs(np.asarray(is_masked).mean() - expected) < STANDARD_ERRORS * np.sqrt(
        expected * (1 - expected) / tokens.size
    )


def test_t_is_each_examples_own():
    tokens, t = draw_tokens(0, 4, 20_000), np.array([0.05, 0.95, 0.3, 0.6])
    _, is_masked = mask_tokens(jax.random.key(2), tokens, jnp.asarray(t), jnp.ones(tokens.shape, bool), MASK)
    np.testing.assert_allclose(np.asarray(is_masked).mean(axis=1), (1 - T_MIN) * t, atol=STANDARD_ERRORS * 0.5 / 141)


def test_tokens_are_masked_independently():
    """Two neighbours in the sequence or in the batch are both masked with the product of the rates."""
    tokens, rate = draw_tokens(0, 400, 400), (1 - T_MIN) * 0.5
    _, is_masked = mask_tokens(jax.random.key(3), tokens, jnp.full(400, 0.5), jnp.ones(tokens.shape, bool), MASK)
    is_masked = np.asarray(is_masked)
    for pairs in (is_masked[:, ::2] & is_masked[:, 1::2], is_masked[::2] & is_masked[1::2]):
        assert abs(pairs.mean() - rate**2) < STANDARD_ERRORS * np.sqrt(rate**2 * (1 - rate**2) / pairs.size)


@pytest.mark.parametrize("t", [T_MIN, 1.0])
def test_tokens_outside_the_answer_are_never_masked(t):
    tokens = draw_tokens(0, 50, 400)
    is_answer = np.random.default_rng(1).random(tokens.shape) < 0.5
    noisy, is_masked = mask_tokens(jax.random.key(4), tokens, jnp.full(50, t), is_answer, MASK)
    assert not (np.asarray(is_masked) & ~is_answer).any()
    np.testing.assert_array_equal(np.asarray(noisy)[~is_answer], tokens[~is_answer])
    assert np.asarray(is_masked)[is_answer].any()


def test_masked_tokens_become_the_mask_and_the_others_stay():
    tokens = draw_tokens(0, 20, 50)
    noisy, is_masked = mask_tokens(jax.random.key(5), tokens, jnp.full(20, 0.5), jnp.ones(tokens.shape, bool), MASK)
    np.testing.assert_array_equal(noisy, np.where(is_masked, MASK, tokens))


def test_keep_and_mask_are_complements():
    t = jnp.linspace(T_MIN, 1.0, 7)
    np.testing.assert_allclose(keep_probability(t) + mask_rate(t), np.ones(7), atol=1e-6)
    assert keep_probability(jnp.zeros(())) == 1.0


def test_mask_token_has_probability_0_and_the_rest_sums_to_1():
    logits = draw_logits(0, 3, 5).at[..., MASK].add(1e4)
    log_probs = masked_log_probs(logits, MASK)
    probs = np.exp(np.asarray(log_probs, np.float64))
    assert (probs[..., MASK] == 0).all()
    np.testing.assert_allclose(probs.sum(axis=-1), 1.0, rtol=1e-6)
    expected = jax.nn.log_softmax(logits[..., REAL_TOKENS], axis=-1)
    np.testing.assert_allclose(log_probs[..., REAL_TOKENS], expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("length", (1, 4, 5, 8, 11))
def test_a_long_text_has_the_log_probabilities_of_its_pieces(monkeypatch, length):
    rng = np.random.default_rng(length)
    logits = jnp.asarray(rng.standard_normal((2, length, 6)), jnp.float32)
    token_ids = jnp.asarray(rng.integers(0, 5, (2, length)))
    whole = jax.value_and_grad(lambda logits: token_log_probs(logits, token_ids, 5).sum())
    expected = token_log_probs(logits, token_ids, 5), *whole(logits)
    monkeypatch.setattr(module, "PIECE", 4)
    found = token_log_probs(logits, token_ids, 5), *whole(logits)
    np.testing.assert_array_equal(found[0], expected[0])
    for ours, theirs in zip(found[1:], expected[1:], strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-6, atol=1e-7)


def test_visible_tokens_are_carried_over_and_masked_ones_predicted():
    tokens = draw_tokens(0, 4, 5)
    is_masked = np.random.default_rng(2).random(tokens.shape) < 0.5
    logits = draw_logits(1, 4, 5)
    noisy = np.where(is_masked, MASK, tokens)
    log_probs = np.asarray(subs_log_probs(logits, noisy, MASK), np.float64)
    probs = np.exp(log_probs)
    assert probs.shape == logits.shape and np.isfinite(log_probs).all()
    np.testing.assert_allclose(probs.sum(axis=-1), 1.0, rtol=1e-6)
    assert (probs[..., MASK] == 0).all()
    np.testing.assert_array_equal(probs[~is_masked], np.eye(VOCABULARY)[tokens[~is_masked]])
    np.testing.assert_array_equal(log_probs[is_masked], np.asarray(masked_log_probs(logits, MASK))[is_masked])


def test_log_softmax_of_bf16_logits_is_taken_in_fp32():
    logits = draw_logits(2, 3, 4).astype(jnp.bfloat16)
    noisy = np.full((3, 4), MASK)
    for found, exact in (
        (masked_log_probs(logits, MASK), masked_log_probs(logits.astype(jnp.float32), MASK)),
        (subs_log_probs(logits, noisy, MASK), subs_log_probs(logits.astype(jnp.float32), noisy, MASK)),
    ):
        assert found.dtype == jnp.float32
        np.testing.assert_array_equal(found, exact)


@pytest.mark.parametrize("t", [T_MIN, 0.03, 0.5, 1.0])
def test_weight_of_the_nelbo_is_that_of_the_schedule(t):
    """-alpha'(t) / (1 - alpha(t)), by differentiating alpha, is the factor that the NELBO has: 1/t."""
    value, slope = jax.value_and_grad(keep_probability)(jnp.float32(t))
    weight = -slope / (1.0 - value)
    np.testing.assert_allclose(weight, 1 / t, rtol=1e-4)
    logits, clean = draw_logits(3, 1, 1), jnp.array([[2]])
    found = masked_nelbo(logits, clean, jnp.array([[True]]), jnp.array([t]), MASK)
    np.testing.assert_allclose(found[0], -weight * masked_log_probs(logits, MASK)[0, 0, 2], rtol=1e-4)


def test_nelbo_against_brute_force():
    tokens, logits = draw_tokens(3, 3, 4), np.asarray(draw_logits(4, 3, 4), np.float64)
    is_masked = np.random.default_rng(5).random((3, 4)) < 0.5
    t = np.array([T_MIN, 0.4, 1.0])
    expected = np.zeros(3)
    for row, place in itertools.product(range(3), range(4)):
        if is_masked[row, place]:
            others = sum(np.exp(logits[row, place, k]) for k in REAL_TOKENS)
            expected[row] -= np.log(np.exp(logits[row, place, tokens[row, place]]) / others) / t[row]
    found = masked_nelbo(jnp.asarray(logits, jnp.float32), tokens, is_masked, jnp.asarray(t, jnp.float32), MASK)
    assert is_masked.any(axis=1).all() and not is_masked.all()
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_nelbo_without_masks_is_0():
    tokens = draw_tokens(3, 2, 4)
    found = masked_nelbo(draw_logits(4, 2, 4), tokens, jnp.zeros((2, 4), bool), jnp.full(2, 0.01), MASK)
    np.testing.assert_array_equal(found, np.zeros(2))


def test_a_clean_mask_token_counts_as_0_and_gives_finite_gradients():
    def total(logits, tokens):
        return masked_nelbo(logits, tokens, jnp.ones((1, 2), bool), jnp.ones(1), MASK).sum()

    logits = draw_logits(5, 1, 2)
    found, gradient = jax.value_and_grad(total)(logits, jnp.array([[1, MASK]]))
    np.testing.assert_allclose(found, -masked_log_probs(logits, MASK)[0, 0, 1], rtol=1e-6)
    assert np.isfinite(gradient).all() and not np.asarray(gradient[0, 1]).any()


def test_nelbo_of_the_true_independent_distribution_is_minus_log_p():
    """E over t and masks is (1 - eps) (-log p) exactly: a token is masked at rate (1 - eps) t, and weighs 1/t."""
    batch, length, rounds = 16, 4, 2000
    logits, tokens = draw_logits(6, length), draw_tokens(7, length)
    log_p = np.asarray(masked_log_probs(logits, MASK))[np.arange(length), tokens].sum()

    def mean_nelbo(key):
        key_t, key_mask = jax.random.split(key)
        t = sample_t(key_t, batch)
        clean = jnp.broadcast_to(jnp.asarray(tokens), (batch, length))
        _, is_masked = mask_tokens(key_mask, clean, t, jnp.ones((batch, length), bool), MASK)
        return masked_nelbo(jnp.broadcast_to(logits, (batch, *logits.shape)), clean, is_masked, t, MASK).mean()

    found = np.asarray(jax.jit(jax.vmap(mean_nelbo))(jax.random.split(jax.random.key(8), rounds)), np.float64)
    error = found.std() / np.sqrt(rounds)
    expected = -(1 - T_MIN) * log_p
    assert error < 0.03 * expected
    assert abs(found.mean() - expected) < STANDARD_ERRORS * error


def expected_nelbo(logits_given: np.ndarray, tokens: np.ndarray) -> float:
    """E over t and masks of the NELBO of two tokens; ``logits_given[i, x]`` scores token i where the other is x.

    Exact: the expectation over masks is a sum of three terms, polynomials in t, and Gauss-Legendre integrates those.
    """
    nodes, weights = leggauss(4)
    t = T_MIN + (1 - T_MIN) * (nodes + 1) / 2
    rate = (1 - T_MIN) * t
    total = 0.0
    for is_masked in ([True, False], [False, True], [True, True]):
        noisy = np.where(is_masked, MASK, tokens)
        logits = jnp.asarray([logits_given[0, noisy[1]], logits_given[1, noisy[0]]], jnp.float32)
        rows = len(t)
        nelbo = masked_nelbo(
            jnp.broadcast_to(logits, (rows, *logits.shape)),
            jnp.broadcast_to(jnp.asarray(tokens), (rows, 2)),
            jnp.broadcast_to(jnp.asarray(is_masked), (rows, 2)),
            jnp.asarray(t, jnp.float32),
            MASK,
        )
        probability = np.prod(np.where(np.array(is_masked)[:, None], rate, 1 - rate), axis=0)
        total += (weights / 2 * probability * np.asarray(nelbo, np.float64)).sum()
    return total


def true_conditionals(joint: np.ndarray) -> np.ndarray:
    """(2, VOCABULARY, VOCABULARY) log p(token i | the other), where MASK as the other stands for not knowing it."""
    logits = np.zeros((2, VOCABULARY, VOCABULARY))
    for i, table in enumerate((joint, joint.T)):
        known = np.concatenate([table.T, table.sum(axis=1)[None]])  # rows: the other token; last: unknown
        rows = np.append(REAL_TOKENS, MASK)
        logits[np.ix_([i], rows, REAL_TOKENS)] = np.log(known)
    return logits


def correlated_joint() -> np.ndarray:
    table = np.exp(2.0 * np.random.default_rng(9).standard_normal((len(REAL_TOKENS),) * 2))
    return table / table.sum()


@pytest.mark.parametrize("cell", [(0, 0), (3, 1), (2, 4)])
def test_nelbo_of_the_true_conditionals_is_minus_log_p_of_correlated_tokens(cell):
    """Whatever the order of unmasking, the conditionals multiply to p; what is left out is of the size of eps."""
    joint = correlated_joint()
    found = expected_nelbo(true_conditionals(joint), REAL_TOKENS[list(cell)])
    np.testing.assert_allclose(found, -np.log(joint[cell]), rtol=3 * T_MIN)


def test_nelbo_of_other_conditionals_bounds_the_entropy_from_above():
    joint = correlated_joint()
    cells = list(itertools.product(range(len(REAL_TOKENS)), repeat=2))
    entropy = -sum(joint[cell] * np.log(joint[cell]) for cell in cells)
    noise = 0.5 * np.random.default_rng(10).standard_normal((2, VOCABULARY, VOCABULARY))
    for logits, excess in ((true_conditionals(joint), 0.0), (true_conditionals(joint) + noise, 0.02)):
        nelbo = sum(joint[cell] * expected_nelbo(logits, REAL_TOKENS[list(cell)]) for cell in cells)
        assert nelbo > (1 - 3 * T_MIN) * entropy + excess
