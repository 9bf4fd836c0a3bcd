"""Laws that every text sampler keeps, the early stop and the early exit."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dualdiff_jax.sampling import masked_sampler
from dualdiff_jax.sampling.ancestral_order import ancestral
from dualdiff_jax.sampling.masked_sampler import UNREAD, VISIBLE, MaskedSample
from dualdiff_jax.sampling.text_network import TextNetwork, width_of
from dualdiff_jax.sampling.text_options import TextOptions
from dualdiff_jax.sampling.text_samplers import sample_text
from dualdiff_jax.sampling.token_draws import keys_at
from tests.unit.sampling.tabular import END, MASK, REAL_TOKENS, VOCABULARY, keys, whole
from tests.unit.sampling.test_certainty import PEAKS, contextual, even, masks, peaked, some_prompts

SAMPLERS = {
    "ancestral": {"order": "ancestral", "steps": 4},
    "ancestral in blocks": {"order": "ancestral", "steps": 4, "block_length": 2, "temperature": 0.7, "top_p": 0.9},
    "ancestral with remasking": {"order": "ancestral", "steps": 6, "remask": 0.5},
    "confidence": {"order": "confidence", "steps": 3},
    "confidence by draws": {"order": "confidence", "steps": 50, "temperature": 1.0, "repetition_penalty": 1.5},
    "threshold": {"order": "threshold", "threshold": 0.6},
    "threshold in blocks": {"order": "threshold", "threshold": 0.6, "block_length": 3, "exit_margin": 5.0},
    "entropy bound": {"order": "entropy_bound", "entropy_bound": 0.8, "certainty": "margin"},
}
EVERY_SAMPLER = pytest.mark.parametrize("name", SAMPLERS)
WITHOUT_REMASKING = pytest.mark.parametrize("name", [name for name in SAMPLERS if "remasking" not in name])


@functools.partial(jax.jit, static_argnames="logits")
def _sample(rngs, token_ids, options, logits) -> MaskedSample:
    return sample_text(whole(logits), rngs, token_ids, options, mask_token_id=MASK, end_token_id=END)


def sample(name: str, token_ids: np.ndarray, rngs=None, logits=contextual, **choices) -> MaskedSample:
    rngs = keys(len(token_ids)) if rngs is None else rngs
    options = TextOptions(**(SAMPLERS[name] | choices))
    return jax.tree.map(np.asarray, _sample(rngs, token_ids, options, logits))


@EVERY_SAMPLER
def test_every_mask_is_filled_and_every_given_token_stays(name):
    given = some_prompts(16, 7)
    found = sample(name, given)
    assert found.token_ids.dtype == given.dtype and np.isin(found.token_ids, REAL_TOKENS).all()
    np.testing.assert_array_equal(found.token_ids[given != MASK], given[given != MASK])
    np.testing.assert_array_equal(found.revealed_in == VISIBLE, given != MASK)
    assert (found.passes > found.revealed_in.max(axis=1)).all()


def eager(token_ids: jax.Array) -> jax.Array:
    """Scores that prefer the mask token everywhere."""
    return contextual(token_ids) + 1e4 * jnp.eye(VOCABULARY)[MASK]


@EVERY_SAMPLER
def test_the_mask_token_is_never_written_however_high_its_score(name):
    assert (sample(name, masks(8), logits=eager).token_ids != MASK).all()


@EVERY_SAMPLER
def test_an_example_does_not_depend_on_its_neighbours(name):
    given, rngs, turn = some_prompts(6, 7), keys(6), np.array([2, 0, 3, 2, 5, 1])
    for choices in ({}, {} if "remask" in SAMPLERS[name] else {"early_stop": True}):
        batch, turned = sample(name, given, rngs, **choices), sample(name, given[turn], rngs[turn], **choices)
        jax.tree.map(lambda a, b: np.testing.assert_array_equal(a[turn], b), batch, turned)
        alone = sample(name, given[:1], rngs[:1], **choices)
        jax.tree.map(lambda a, b: np.testing.assert_array_equal(a[:1], b), batch, alone)


def evaluations(name: str, given: np.ndarray, **choices) -> tuple[int, MaskedSample]:
    """How often the network was evaluated, and the sample."""
    calls = []

    def logits(token_ids):
        jax.debug.callback(lambda: calls.append(1))
        return contextual(token_ids)

    options = TextOptions(**(SAMPLERS[name] | choices))
    found = sample_text(
        whole(logits), keys(len(given)), jnp.asarray(given), options, mask_token_id=MASK, end_token_id=END
    )
    found = jax.tree.map(np.asarray, found)
    jax.effects_barrier()
    return len(calls), found


@EVERY_SAMPLER
def test_evaluations_are_the_most_passes_of_any_example(name):
    calls, found = evaluations(name, some_prompts(5, 6))
    assert calls == found.passes.max()
    if "remasking" not in name:  # an example counts only passes that reveal something
        for row, passes in zip(found.revealed_in, found.passes, strict=True):
            assert sorted(set(row[row != VISIBLE])) == list(range(passes))
    calls, found = evaluations(name, np.random.default_rng(5).choice(REAL_TOKENS, (2, 4)).astype(np.int32))
    assert calls == 0 and not found.passes.any()


@pytest.mark.parametrize("name", ["ancestral", "confidence by draws"])
def test_draws_differ_by_key_and_repeat_with_it(name):
    first, again, other = (sample(name, masks(40), keys(40, seed)).token_ids for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any(axis=1).mean() > 0.5


def test_another_number_needs_no_new_program_and_another_choice_does():
    count = _sample._cache_size
    sample("threshold", masks(3, 5), threshold=0.3, temperature=0.5)
    before = count()
    sample("threshold", masks(3, 5), threshold=0.4, temperature=0.0)
    assert count() == before
    sample("threshold", masks(3, 5), threshold=0.4)
    assert count() == before + 1


def decoded(row: np.ndarray, prompt: int) -> list[int]:
    """What ``Tokenizer.decode`` keeps."""
    kept = row[prompt:].tolist()
    return kept[: kept.index(END)] if END in kept else kept


def ending(token_ids: jax.Array) -> jax.Array:
    """Scores by which texts end early, at a place that depends on what is visible."""
    return contextual(token_ids) + 1.5 * jax.nn.one_hot(END, VOCABULARY)


@WITHOUT_REMASKING
def test_an_early_stop_changes_no_decoded_text_and_saves_passes(name):
    given = masks(40, 9)
    given[:, 0], given[1::2, 1] = END, 3  # prompts of one and two tokens, with an end of their own
    whole, stopped = (sample(name, given, logits=ending, early_stop=early) for early in (False, True))
    left_out = stopped.revealed_in == UNREAD
    assert left_out.any() and (stopped.token_ids[left_out] == END).all()
    np.testing.assert_array_equal(stopped.token_ids[~left_out], whole.token_ids[~left_out])
    for row, (a, b) in enumerate(zip(whole.token_ids, stopped.token_ids, strict=True)):
        assert decoded(a, 1 + row % 2) == decoded(b, 1 + row % 2)
    assert (stopped.passes <= whole.passes).all() and stopped.passes.sum() < whole.passes.sum()


@WITHOUT_REMASKING
def test_no_pass_follows_once_all_that_is_decoded_is_there(name):
    given = masks(40, 9)
    found, whole = (sample(name, given, logits=ending, early_stop=early) for early in (True, False))
    for row in range(len(given)):
        read = len(decoded(whole.token_ids[row], 0)) + 1  # with its end, where it has one
        assert found.passes[row] == whole.revealed_in[row, :read].max() + 1


def deciding(token_ids: jax.Array) -> jax.Array:
    """Position j prefers a token by PEAKS[j] (k + 1) / 4 where k tokens are visible."""
    visible = (token_ids != MASK).sum(axis=1)[:, None, None]
    return peaked(token_ids) * (visible + 1) / 4


@pytest.mark.parametrize("bound, passes", [(0.0, 1), (0.5, 1), (1.5, 4), (2.4, 7), (1e9, 7)])
def test_an_early_exit_reveals_all_that_is_left_once_its_margin_is_large(bound, passes):
    """After k passes the 7 - k smallest margins are left, and the bound on their mean is bound x (7 - k) / 7."""
    margins = np.sort(PEAKS)
    exits = [k for k in range(7) if margins[: 7 - k].mean() * (k + 1) / 4 >= bound * (7 - k) / 7]
    assert passes == min([k + 1 for k in exits], default=7)
    found = sample("confidence", masks(1), logits=deciding, steps=7, exit_margin=bound)
    assert found.passes.tolist() == [passes]
    assert np.bincount(found.revealed_in[0]).tolist() == [1] * (passes - 1) + [8 - passes]


def test_an_early_exit_takes_the_likeliest_tokens():
    found = sample("ancestral", masks(50), logits=peaked, exit_margin=0.0)
    assert (found.token_ids == [0, 3, 0, 3, 0, 3, 0]).all() and (found.passes == 1).all()


def test_a_repetition_penalty_counts_what_is_written_but_no_end_and_no_prompt():
    def liked(token_ids):  # token 3 is a little ahead of token 0 everywhere
        return even(token_ids) + jnp.asarray([1.0, 0.0, 0.0, 1.2])

    given = masks(1, 4)
    given[0, 0] = 3
    call = dict(steps=3, logits=liked, temperature=None)
    assert sample("confidence by draws", given, **call, repetition_penalty=1.0).token_ids[0].tolist() == [3, 3, 3, 3]
    assert sample("confidence by draws", given, **call, repetition_penalty=1.3).token_ids[0].tolist() == [3, 3, 0, 3]

    def ends(token_ids):
        return even(token_ids) + jnp.asarray([1.0, 1.2, 0.0, 0.0])

    call["logits"] = ends
    assert sample("confidence by draws", given, **call, repetition_penalty=9.0).token_ids[0].tolist() == [3, 1, 1, 1]


def test_the_order_and_the_draws_have_keys_of_their_own(monkeypatch):
    """From one key, what a position waits for would say what is written there."""
    seen = {}

    def order(rngs, *args):
        seen["order"] = jax.random.key_data(rngs)
        return ancestral(rngs, *args)

    def record(rngs, k, positions):
        jax.debug.callback(lambda data: seen.update(draws=data), jax.random.key_data(rngs))
        return keys_at(rngs, k, positions)

    monkeypatch.setattr(masked_sampler, "keys_at", record)
    options = TextOptions(order="ancestral", steps=3)
    run = functools.partial(masked_sampler.fill_masks, order, whole(contextual), mask_token_id=MASK, end_token_id=END)
    run(keys(2), jnp.asarray(masks(2, 3)), options)
    jax.effects_barrier()
    rows = np.concatenate([seen["order"], seen["draws"], jax.random.key_data(keys(2))])
    assert len({tuple(row) for row in rows.tolist()}) == 6


def test_a_pass_of_a_plan_scores_the_vocabulary_where_it_reveals_and_hardly_elsewhere():
    computed = []

    def scores(rows):
        jax.debug.callback(lambda: computed.append(rows.shape[1]))
        return rows

    given, options = masks(3, 12), TextOptions(order="ancestral", steps=12)
    network = TextNetwork(features=contextual, scores=scores)
    found = sample_text(network, keys(3), jnp.asarray(given), options, mask_token_id=MASK, end_token_id=END)
    jax.effects_barrier()
    most = max(np.bincount(row).max() for row in np.asarray(found.revealed_in))
    assert most <= width_of(12, 12) < 12  # of no example does a pass reveal more than there is room for
    assert computed == [width_of(12, 12)] * int(found.passes.max())
