"""Orders that reveal the most certain positions first, and their limits."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dualdiff_jax.sampling.certainty import CERTAINTIES
from dualdiff_jax.sampling.masked_sampler import VISIBLE, MaskedSample
from dualdiff_jax.sampling.text_options import TextOptions
from dualdiff_jax.sampling.text_samplers import sample_text
from tests.unit.sampling.tabular import END, LENGTH, MASK, REAL_TOKENS, TABLE, VOCABULARY, keys, tabular_logits, whole

HUGE = 1e9


@functools.partial(jax.jit, static_argnames="logits")
def _sample(token_ids, options, logits) -> MaskedSample:
    keys_of = keys(len(token_ids))
    return sample_text(whole(logits), keys_of, token_ids, options, mask_token_id=MASK, end_token_id=END)


def masks(batch: int, length: int = 7) -> np.ndarray:
    return np.full((batch, length), MASK, np.int32)


def sample(token_ids: np.ndarray, logits, order: str = "confidence", **choices) -> MaskedSample:
    return jax.tree.map(np.asarray, _sample(token_ids, TextOptions(order=order, **choices), logits))


PEAKS = np.array([0.5, 4.0, 1.0, 3.0, 2.0, 5.0, 0.2], np.float32)


def peaked(token_ids: jax.Array) -> jax.Array:
    """Position j prefers token 0 or 3, in turn, by PEAKS[j], whatever the context."""
    favourite = jnp.where(jnp.arange(len(PEAKS)) % 2 == 0, 0, 3)
    scores = jnp.asarray(PEAKS)[:, None] * jax.nn.one_hot(favourite, VOCABULARY)
    return jnp.broadcast_to(scores, (*token_ids.shape, VOCABULARY))


def contextual(token_ids: jax.Array) -> jax.Array:
    """For any length: a token's scores depend on its place and on all that is visible in its own row."""
    length = token_ids.shape[1]
    place = jnp.sin(jnp.arange(length * VOCABULARY, dtype=jnp.float32).reshape(length, VOCABULARY) ** 2)
    return 2.0 * place * (1.0 + token_ids.mean(axis=1)[:, None, None])


def test_the_most_confident_position_comes_first_with_its_likeliest_token():
    found = sample(masks(1), peaked, steps=7)
    np.testing.assert_array_equal(np.argsort(found.revealed_in[0]), np.argsort(-PEAKS))
    np.testing.assert_array_equal(found.token_ids[0], [0, 3, 0, 3, 0, 3, 0])


@pytest.mark.parametrize("steps, counts", [(3, [3, 2, 2]), (5, [2, 1, 2, 1, 1]), (50, [1] * 7)])
def test_what_does_not_divide_is_revealed_early(steps, counts):
    """7 masks over 3 passes: after k of them ceil(7 k / 3) are revealed; over 5, ceil(7 k / 5)."""
    [revealed_in] = sample(masks(1), peaked, steps=steps).revealed_in
    assert np.bincount(revealed_in).tolist() == counts


def test_each_example_spreads_its_own_masks():
    """Rows with 7, 5 and 2 masks over at most 3 passes: 3 + 2 + 2, 2 + 2 + 1 and 1 + 1."""
    given = masks(3)
    given[1, [1, 5]] = 0
    given[2, :5] = 3
    found = sample(given, peaked, steps=3)
    counts = [np.bincount(row[row != VISIBLE]).tolist() for row in found.revealed_in]
    assert [sorted(count, reverse=True) for count in counts] == [[3, 2, 2], [2, 2, 1], [1, 1]]
    assert found.passes.tolist() == [3, 3, 2]
    for row in found.revealed_in:  # a more confident position is never later
        free = row != VISIBLE
        assert (np.diff(row[free][np.argsort(-PEAKS[free])]) >= 0).all()


def even(token_ids: jax.Array) -> jax.Array:
    return jnp.zeros((*token_ids.shape, VOCABULARY))


def tied(token_ids: jax.Array) -> jax.Array:
    """Three groups of positions; within a group, log-probabilities differ by less than their third decimal."""
    peaks = jnp.asarray([2.0, 1.0, 2.00002, 1.00002, 2.00001, 1.00001, 0.99])
    return jnp.broadcast_to(peaks[:, None] * jax.nn.one_hot(0, VOCABULARY), (*token_ids.shape, VOCABULARY))


@pytest.mark.parametrize("certainty", CERTAINTIES)
def test_the_last_of_equally_certain_positions_comes_first(certainty):
    found = sample(masks(1), even, steps=7, certainty=certainty)
    np.testing.assert_array_equal(found.revealed_in[0], [6, 5, 4, 3, 2, 1, 0])
    found = sample(masks(1), tied, steps=7, certainty=certainty)
    np.testing.assert_array_equal(found.revealed_in[0], [2, 5, 1, 4, 0, 3, 6])


def test_confidence_reads_what_it_has_written():
    found = sample(masks(2, LENGTH), tabular_logits, steps=LENGTH)
    state = [MASK] * LENGTH
    scores = np.where(np.arange(VOCABULARY) == MASK, -np.inf, TABLE)
    log_probs = scores - np.log(np.exp(scores).sum(axis=-1, keepdims=True))
    for _ in range(LENGTH):
        free = [place for place in range(LENGTH) if state[place] == MASK]
        surest = max(free, key=lambda place: log_probs[tuple(state)][place].max())
        state[surest] = int(log_probs[tuple(state)][surest].argmax())
    np.testing.assert_array_equal(found.token_ids, [state] * 2)


# Three positions, each the most certain by one measure alone.
RANKED = {
    "probability": [0.60, 0.39, 0.01],
    "margin": [0.58, 0.21, 0.21],
    "entropy": [0.50, 0.499, 0.001],
}


def ranked(token_ids: jax.Array) -> jax.Array:
    probs = np.zeros((len(RANKED), VOCABULARY), np.float32)
    probs[:, list(REAL_TOKENS)] = list(RANKED.values())
    return jnp.broadcast_to(jnp.log(jnp.asarray(probs) + 1e-9), (*token_ids.shape, VOCABULARY))


@pytest.mark.parametrize("certainty", RANKED)
def test_each_certainty_ranks_in_its_own_way(certainty):
    probs = np.array(list(RANKED.values()))
    by_hand = {
        "probability": probs.max(axis=1),
        "margin": np.sort(probs)[:, -1] - np.sort(probs)[:, -2],
        "entropy": (probs * np.log(probs)).sum(axis=1),
    }
    assert list(RANKED)[by_hand[certainty].argmax()] == certainty
    [revealed_in] = sample(masks(1, 3), ranked, steps=3, certainty=certainty).revealed_in
    np.testing.assert_array_equal(np.argsort(revealed_in), np.argsort(-by_hand[certainty]))


def test_certainties_by_their_equations():
    probs = np.random.default_rng(0).dirichlet(np.full(5, 0.7), size=20)
    values = np.sort(probs)
    expected = {
        "probability": np.log(values[:, -1]),
        "margin": values[:, -1] - values[:, -2],
        "entropy": (probs * np.log(probs)).sum(axis=1),
    }
    assert CERTAINTIES.keys() == expected.keys()
    for name, certainty in CERTAINTIES.items():
        np.testing.assert_allclose(certainty(jnp.log(probs)), expected[name], rtol=1e-4, atol=1e-6)


def some_prompts(batch: int, length: int) -> np.ndarray:
    """Rows with 0, 1, 2, ... visible tokens at random places."""
    rng = np.random.default_rng(4)
    token_ids = masks(batch, length)
    for row in range(batch):
        places = rng.permutation(length)[: row % (length + 1)]
        token_ids[row, places] = rng.choice(REAL_TOKENS, len(places))
    return token_ids


@pytest.mark.parametrize("block_length", [None, 3])
@pytest.mark.parametrize(
    "bounded, spread",
    [
        ({"order": "threshold", "threshold": 0.0}, {"steps": 1}),
        ({"order": "threshold", "threshold": 1.0}, {"steps": 1000}),
        ({"order": "entropy_bound", "entropy_bound": HUGE}, {"steps": 1}),
        ({"order": "entropy_bound", "entropy_bound": 0.0}, {"steps": 1000, "certainty": "entropy"}),
        (
            {"order": "entropy_bound", "entropy_bound": 0.0, "certainty": "margin"},
            {"steps": 1000, "certainty": "margin"},
        ),
    ],
)
def test_the_limits_of_a_bound_are_all_at_once_and_one_by_one(block_length, bounded, spread):
    given = some_prompts(8, 7)
    found = sample(given, contextual, **bounded, block_length=block_length)
    expected = sample(given, contextual, **spread, block_length=block_length)
    jax.tree.map(np.testing.assert_array_equal, found, expected)


def test_a_threshold_reveals_all_that_are_above_it_and_at_least_one():
    probs = np.exp(PEAKS) / (np.exp(PEAKS) + 2)
    [revealed_in] = sample(masks(1), peaked, order="threshold", threshold=0.6).revealed_in
    assert (probs > 0.6).sum() == 4
    np.testing.assert_array_equal(revealed_in == 0, probs > 0.6)
    np.testing.assert_array_equal(revealed_in[[0, 2, 6]], [2, 1, 3])  # below it one by one, the surest first


@pytest.mark.parametrize("bound", [0.05, 0.4, 1.0, 2.0])
def test_an_entropy_bound_reveals_as_many_as_it_allows(bound):
    first = np.exp(PEAKS) / (np.exp(PEAKS) + 2)
    entropies = -first * np.log(first) - (1 - first) * np.log((1 - first) / 2)
    left, expected = sorted(range(7), key=entropies.__getitem__), []
    while left:
        fits = [n for n in range(1, len(left) + 1) if sum(entropies[left[:n]]) - max(entropies[left[:n]]) <= bound]
        expected.append(set(left[: max(fits)]))
        left = left[max(fits) :]
    [revealed_in] = sample(masks(1), peaked, order="entropy_bound", entropy_bound=bound).revealed_in
    assert [set(np.flatnonzero(revealed_in == k)) for k in range(revealed_in.max() + 1)] == expected


def test_an_entropy_bound_may_be_met_exactly():
    """Positions without entropy and the surest other one: without its largest term the sum of theirs is 0."""
    is_certain = jnp.arange(len(PEAKS)) % 2 == 0

    def certain(token_ids: jax.Array) -> jax.Array:
        return jnp.where(is_certain[:, None], HUGE * jnp.eye(VOCABULARY)[0], peaked(token_ids))

    [revealed_in] = sample(masks(1), certain, order="entropy_bound", entropy_bound=0.0).revealed_in
    surest = np.where(is_certain, 0.0, PEAKS).argmax()
    np.testing.assert_array_equal(revealed_in == 0, is_certain | (np.arange(len(PEAKS)) == surest))


@pytest.mark.parametrize("order", [{"steps": 6}, {"order": "threshold", "threshold": 0.6}])
def test_a_block_is_complete_before_the_next_begins(order):
    given = masks(2, 8)
    given[1, :3] = 0
    found = sample(given, contextual, **order, block_length=3)
    for row, begin in zip(found.revealed_in, (0, 3), strict=True):
        blocks = [row[at : at + 3] for at in range(begin, 8, 3)]
        for left, right in zip(blocks[:-1], blocks[1:], strict=True):
            assert left.max() < right.min()
    if "steps" in order:  # 3 blocks with 2 passes each; 2 blocks with 3 each, of which the second has 2 tokens
        assert found.passes.tolist() == [6, 5]


def test_a_network_of_nan_ends_too():
    for order in (
        {"steps": 2},
        {"order": "threshold", "threshold": 0.5},
        {"order": "entropy_bound", "entropy_bound": 1.0},
    ):
        found = sample(masks(2), lambda token_ids: jnp.full((*token_ids.shape, VOCABULARY), jnp.nan), **order)
        assert (found.token_ids != MASK).all()
