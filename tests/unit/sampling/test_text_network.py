"""Scores at the few positions that a pass reveals are those that it has at all positions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dualdiff_jax.sampling import text_network
from dualdiff_jax.sampling.masked_sampler import MaskedSample
from dualdiff_jax.sampling.text_network import TextNetwork, at_chosen, width_of
from dualdiff_jax.sampling.text_options import TextOptions
from dualdiff_jax.sampling.text_samplers import sample_text
from tests.unit.sampling.tabular import END, MASK, keys
from tests.unit.sampling.test_certainty import contextual, some_prompts

LENGTH = 9
CHOICES = {
    "plain": {"steps": 6},
    "in blocks": {"steps": 6, "block_length": 3, "temperature": 0.7, "top_p": 0.9, "repetition_penalty": 1.5},
    "with remasking": {"steps": 8, "remask": 0.3},
    "with an early stop": {"steps": 6, "early_stop": True},
}


def sample(monkeypatch, spare: int, **choices) -> tuple[MaskedSample, list[int]]:
    """A sample with room for ``spare`` times the mean, and for how many positions each pass computed scores."""
    monkeypatch.setattr(text_network, "SPARE", spare)
    counts: list[int] = []

    def scores(rows: jax.Array) -> jax.Array:
        jax.debug.callback(lambda: counts.append(rows.shape[1]))
        return rows

    options = TextOptions(order="ancestral", **choices)
    given = jnp.asarray(some_prompts(5, LENGTH))
    found = sample_text(TextNetwork(contextual, scores), keys(5), given, options, mask_token_id=MASK, end_token_id=END)
    jax.effects_barrier()
    return jax.tree.map(np.asarray, found), counts


@pytest.mark.parametrize("name", CHOICES)
def test_a_sample_is_the_same_wherever_scores_are_computed(monkeypatch, name):
    few, some = sample(monkeypatch, 1, **CHOICES[name])
    whole, every = sample(monkeypatch, 100, **CHOICES[name])
    jax.tree.map(np.testing.assert_array_equal, few, whole)
    assert set(some) == {2, LENGTH}  # passes that reveal more than two tokens of a text compute all
    assert len(some) == len(every) == few.passes.max() and set(every) == {LENGTH}


def test_an_order_that_ranks_positions_reads_all_of_them(monkeypatch):
    assert set(sample(monkeypatch, 1, steps=6, exit_margin=50.0)[1]) == {LENGTH}


@pytest.mark.parametrize(
    ("length", "passes", "expected"), [(128, 32, 16), (12, 64, 4), (12, 5, 12), (8, 1, 8), (3, 9, 3)]
)
def test_there_is_room_for_four_times_the_mean(length, passes, expected):
    assert width_of(length, passes) == expected


def test_values_come_back_to_their_positions():
    rows = {"a": jnp.arange(12.0).reshape(2, 6), "b": jnp.arange(24.0).reshape(2, 6, 2)}
    is_chosen = jnp.asarray([[0, 0, 1, 0, 0, 1], [1, 0, 0, 0, 0, 0]], bool)
    shapes = []

    def values(rows: dict[str, jax.Array], positions: jax.Array) -> jax.Array:
        shapes.append(rows["b"].shape)
        return rows["a"] + 100 * rows["b"][..., 1] + 10_000 * positions

    found = at_chosen(values, rows, is_chosen, 2)
    expected = values(rows, jnp.broadcast_to(jnp.arange(6), (2, 6)))
    np.testing.assert_array_equal(found[is_chosen], expected[is_chosen])
    assert shapes[:2] == [(2, 2, 2), (2, 6, 2)]  # the two branches
