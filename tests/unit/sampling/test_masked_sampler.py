"""Laws of the two samplers that replace masks by tokens."""

import functools
from collections import Counter

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dualdiff_jax.sampling import masked_sampler
from dualdiff_jax.sampling.masked_sampler import T_END, VISIBLE, MaskedSample, ancestral, confidence

VOCABULARY, MASK = 4, 2  # three real tokens; the mask is not the last, so that an off-by-one shows
REAL_TOKENS = np.array([0, 1, 3])
LENGTH = 3
TABLE = 1.5 * np.random.default_rng(0).standard_normal((VOCABULARY,) * LENGTH + (LENGTH, VOCABULARY))


def tabular_logits(token_ids: jax.Array) -> jax.Array:
    """(b, 3) -> (b, 3, v), drawn once for each state of the three positions: a strongly correlated denoiser."""
    return jnp.asarray(TABLE, jnp.float32)[tuple(token_ids[:, i] for i in range(LENGTH))]


def smooth_logits(token_ids: jax.Array) -> jax.Array:
    """For any length: a token's scores depend on its place and on the mean of its own row."""
    length = token_ids.shape[1]
    place = jnp.sin(jnp.arange(length * VOCABULARY, dtype=jnp.float32).reshape(length, VOCABULARY) ** 2)
    return place * (1.0 + token_ids.mean(axis=1)[:, None, None])


def keys(count: int, seed: int = 0) -> jax.Array:
    return jax.random.split(jax.random.key(seed), count)


def masks(batch: int, length: int = LENGTH) -> np.ndarray:
    return np.full((batch, length), MASK, np.int32)


@functools.partial(jax.jit, static_argnames=("steps", "logits"))
def sample_ancestral(rngs, token_ids, *, steps: int, logits=smooth_logits) -> MaskedSample:
    return ancestral(logits, rngs, token_ids, mask_token_id=MASK, steps=steps)


@functools.partial(jax.jit, static_argnames=("steps", "logits"))
def sample_confidence(token_ids, *, steps: int, logits=smooth_logits) -> MaskedSample:
    return confidence(logits, token_ids, mask_token_id=MASK, steps=steps)


ORDERS = {
    "ancestral": lambda token_ids, steps, **options: sample_ancestral(
        keys(len(token_ids)), token_ids, steps=steps, **options
    ),
    "confidence": lambda token_ids, steps, **options: sample_confidence(token_ids, steps=steps, **options),
}
BOTH_ORDERS = pytest.mark.parametrize("order", ORDERS)


def sequential_law(rng: np.random.Generator, batch: int, steps: int, t_end: float) -> tuple[np.ndarray, np.ndarray]:
    """The sampler of the papers, step by step: (token_ids, dense rank of the step that revealed each).

    From t to s each masked token is revealed with probability (t - s) / t by a draw; an arg-max fills the rest.
    """
    real = np.where(np.arange(VOCABULARY) == MASK, -np.inf, TABLE)
    token_ids, revealed = masks(batch), np.full((batch, LENGTH), -1)
    clock = np.linspace(1, t_end, steps + 1)
    for k in range(steps + 1):
        scores = real[tuple(token_ids.T)]
        if k < steps:
            chosen = (token_ids == MASK) & (rng.random(token_ids.shape) < (clock[k] - clock[k + 1]) / clock[k])
            scores = scores + rng.gumbel(size=scores.shape)
        else:
            chosen = token_ids == MASK
        token_ids = np.where(chosen, scores.argmax(axis=-1), token_ids)
        revealed = np.where(chosen, k, revealed)
    rank = np.array([[len(set(row[row < step])) for step in row] for row in revealed])
    return token_ids, rank


def assert_same_law(found: np.ndarray, expected: np.ndarray) -> None:
    """Chi-square of two samples of equal size, row by row of ints; the bound is 5 of its standard deviations."""
    ours, theirs = (Counter(map(tuple, rows.tolist())) for rows in (found, expected))
    pairs = [(ours[cell], theirs[cell]) for cell in ours | theirs]
    common = [pair for pair in pairs if sum(pair) >= 10]
    rare = [pair for pair in pairs if sum(pair) < 10]
    if sum(map(sum, rare)) >= 10:
        common.append(tuple(np.sum(rare, axis=0)))
    freedom = len(common) - 1
    chi_square = sum((a - b) ** 2 / (a + b) for a, b in common)
    bound = freedom + 5 * np.sqrt(2 * max(freedom, 1))
    assert chi_square < bound, f"{chi_square:.1f} with {freedom} degrees of freedom"


@pytest.mark.parametrize("steps, t_end", [(1, T_END), (2, T_END), (7, T_END), (3, 0.4)])
def test_ancestral_has_the_law_of_the_sequential_sampler(monkeypatch, steps, t_end):
    """Tokens, reveal order, and both jointly, of a denoiser whose every conditional is another one.

    With ``t_end`` at 0.4 the arg-max at the end fills four tokens in ten, so that its part shows too.
    """
    batch = 30_000
    monkeypatch.setattr(masked_sampler, "T_END", t_end)
    sample = jax.jit(lambda rngs, ids: ancestral(tabular_logits, rngs, ids, mask_token_id=MASK, steps=steps))
    found = sample(keys(batch, seed=1), masks(batch))
    token_ids, rank = sequential_law(np.random.default_rng(2), batch, steps, t_end)
    assert_same_law(np.asarray(found.revealed_in), rank)
    assert_same_law(np.asarray(found.token_ids), token_ids)
    assert_same_law(np.hstack(found), np.hstack([token_ids, rank]))


def test_the_comparison_of_laws_distinguishes_two_steps_from_three():
    two, three = (sequential_law(np.random.default_rng(3), 30_000, steps, T_END) for steps in (2, 3))
    for a, b in zip(two, three, strict=True):
        with pytest.raises(AssertionError, match="degrees of freedom"):
            assert_same_law(a, b)


def some_prompts(batch: int, length: int) -> np.ndarray:
    """Rows with 0, 1, 2, ... visible tokens at random places."""
    rng = np.random.default_rng(4)
    token_ids = masks(batch, length)
    for row in range(batch):
        places = rng.permutation(length)[: row % (length + 1)]
        token_ids[row, places] = rng.choice(REAL_TOKENS, len(places))
    return token_ids


@BOTH_ORDERS
@pytest.mark.parametrize("steps", [1, 3, 50])
def test_every_mask_is_filled_and_every_given_token_stays(order, steps):
    given = some_prompts(16, 7)
    sample = ORDERS[order](given, steps)
    token_ids, revealed_in = np.asarray(sample.token_ids), np.asarray(sample.revealed_in)
    assert token_ids.dtype == given.dtype
    assert (token_ids != MASK).all() and np.isin(token_ids, REAL_TOKENS).all()
    np.testing.assert_array_equal(token_ids[given != MASK], given[given != MASK])
    np.testing.assert_array_equal(revealed_in == VISIBLE, given != MASK)


def eager_logits(token_ids: jax.Array) -> jax.Array:
    """Scores that prefer the mask token everywhere."""
    return smooth_logits(token_ids) + 1e4 * jnp.eye(VOCABULARY)[MASK]


@BOTH_ORDERS
def test_the_mask_token_is_never_written_however_high_its_score(order):
    assert (np.asarray(ORDERS[order](masks(8, 7), 3, logits=eager_logits).token_ids) != MASK).all()


@BOTH_ORDERS
def test_an_example_does_not_depend_on_its_neighbours(order):
    given, rngs = some_prompts(6, 7), keys(6)

    def sample(rows):
        if order == "confidence":
            return sample_confidence(given[rows], steps=4)
        return sample_ancestral(rngs[np.array(rows)], given[rows], steps=4)

    batch, turned = sample([0, 1, 2, 3, 4, 5]), sample([2, 0, 3, 2, 5, 1])
    for a, b in zip(batch, turned, strict=True):
        np.testing.assert_array_equal(a[np.array([2, 0, 3, 2, 5, 1])], b)
    alone = sample([0])
    for a, b in zip(batch, alone, strict=True):
        np.testing.assert_array_equal(a[:1], b)


def count_evaluations(order: str, given: np.ndarray, steps: int) -> tuple[int, np.ndarray]:
    """(number of network evaluations, revealed_in)."""
    calls = []

    def logits(token_ids):
        jax.debug.callback(lambda: calls.append(1))
        return smooth_logits(token_ids)

    if order == "confidence":
        sample = confidence(logits, jnp.asarray(given), mask_token_id=MASK, steps=steps)
    else:
        sample = ancestral(logits, keys(len(given)), jnp.asarray(given), mask_token_id=MASK, steps=steps)
    revealed_in = np.asarray(sample.revealed_in)
    jax.effects_barrier()
    return len(calls), revealed_in


@BOTH_ORDERS
@pytest.mark.parametrize("steps", [1, 4, 50])
def test_evaluations_are_the_most_that_any_example_reveals_in(order, steps):
    given = some_prompts(5, 6)
    calls, revealed_in = count_evaluations(order, given, steps)
    assert calls == revealed_in.max() + 1
    assert calls <= min(steps + 1, 6)
    for row in revealed_in:
        used = sorted(set(row[row != VISIBLE]))
        assert used == list(range(len(used)))  # an example counts only its own occupied steps


@BOTH_ORDERS
def test_text_without_masks_is_left_alone_at_no_cost(order):
    given = np.random.default_rng(5).choice(REAL_TOKENS, (2, 4)).astype(np.int32)
    calls, revealed_in = count_evaluations(order, given, 3)
    assert calls == 0 and (revealed_in == VISIBLE).all()
    np.testing.assert_array_equal(ORDERS[order](given, 3).token_ids, given)


def test_one_ancestral_step_reveals_all_at_once():
    assert (np.asarray(sample_ancestral(keys(50), masks(50), steps=1).revealed_in) == 0).all()


def test_ancestral_draws_differ_by_key_and_repeat_with_it():
    first, again, other = (sample_ancestral(keys(40, seed), masks(40, 6), steps=6).token_ids for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert (np.asarray(first) != np.asarray(other)).any(axis=1).mean() > 0.5


def peaked_logits(token_ids: jax.Array) -> jax.Array:
    """Position j prefers token 0 or 3, in turn, by PEAKS[j], whatever the context."""
    favourite = jnp.where(jnp.arange(len(PEAKS)) % 2 == 0, 0, 3)
    return jnp.broadcast_to(
        jnp.asarray(PEAKS)[:, None] * jax.nn.one_hot(favourite, VOCABULARY), (*token_ids.shape, VOCABULARY)
    )


PEAKS = np.array([0.5, 4.0, 1.0, 3.0, 2.0, 5.0, 0.2], np.float32)


def test_confidence_reveals_the_most_confident_position_first_and_its_likeliest_token():
    sample = sample_confidence(masks(1, 7), steps=7, logits=peaked_logits)
    np.testing.assert_array_equal(np.argsort(sample.revealed_in[0]), np.argsort(-PEAKS))
    np.testing.assert_array_equal(sample.token_ids[0], [0, 3, 0, 3, 0, 3, 0])


def test_confidence_reveals_early_what_does_not_divide():
    """7 masks over 3 evaluations: after k of them ceil(7 k / 3) are revealed; over 5, ceil(7 k / 5)."""
    for steps, counts in ((3, [3, 2, 2]), (5, [2, 1, 2, 1, 1])):
        [revealed_in] = np.asarray(sample_confidence(masks(1, 7), steps=steps, logits=peaked_logits).revealed_in)
        assert np.bincount(revealed_in).tolist() == counts


def tied_logits(token_ids: jax.Array) -> jax.Array:
    """Three groups of positions; within a group, log-probabilities differ by less than their third decimal."""
    peaks = jnp.asarray([2.0, 1.0, 2.00002, 1.00002, 2.00001, 1.00001, 0.99])
    return jnp.broadcast_to(peaks[:, None] * jax.nn.one_hot(0, VOCABULARY), (*token_ids.shape, VOCABULARY))


def test_of_equally_confident_positions_the_last_is_revealed_first():
    """Equal scores are equally confident, and so are scores that differ by less than 0.001."""
    even = sample_confidence(masks(1, 7), steps=7, logits=lambda ids: jnp.zeros((*ids.shape, VOCABULARY)))
    np.testing.assert_array_equal(even.revealed_in[0], [6, 5, 4, 3, 2, 1, 0])
    tied = sample_confidence(masks(1, 7), steps=7, logits=tied_logits)
    np.testing.assert_array_equal(tied.revealed_in[0], [2, 5, 1, 4, 0, 3, 6])


def test_confidence_spreads_what_is_masked_evenly():
    """Rows with 7, 5 and 2 masks over at most 3 evaluations: 3 + 2 + 2, 2 + 2 + 1 and 1 + 1."""
    given = masks(3, 7)
    given[1, [1, 5]] = 0
    given[2, :5] = 3
    revealed_in = np.asarray(sample_confidence(given, steps=3, logits=peaked_logits).revealed_in)
    counts = [np.bincount(row[row != VISIBLE]) for row in revealed_in]
    assert [sorted(count.tolist(), reverse=True) for count in counts] == [[3, 2, 2], [2, 2, 1], [1, 1]]
    for row in revealed_in:  # a more confident position is never later
        free = row != VISIBLE
        assert (np.diff(row[free][np.argsort(-PEAKS[free])]) >= 0).all()


def test_confidence_is_deterministic_and_reads_what_it_has_written():
    first, again = (sample_confidence(masks(2), steps=LENGTH, logits=tabular_logits) for _ in range(2))
    jax.tree.map(np.testing.assert_array_equal, first, again)
    real = np.where(np.arange(VOCABULARY) == MASK, -np.inf, TABLE)
    log_probs = real - np.log(np.exp(real).sum(axis=-1, keepdims=True))
    state = [MASK] * LENGTH
    for _ in range(LENGTH):
        free = [place for place in range(LENGTH) if state[place] == MASK]
        surest = max(free, key=lambda place: log_probs[tuple(state)][place].max())
        state[surest] = int(log_probs[tuple(state)][surest].argmax())
    np.testing.assert_array_equal(first.token_ids[0], state)
