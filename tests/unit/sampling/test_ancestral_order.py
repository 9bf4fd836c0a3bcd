"""Ancestral sampling, in blocks and with remasking, against its exact law on a joint distribution of three tokens."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dualdiff_jax.sampling import ancestral_order
from dualdiff_jax.sampling.ancestral_order import T_END, ancestral, draw_plan
from dualdiff_jax.sampling.blocks import cut
from dualdiff_jax.sampling.masked_sampler import VISIBLE, MaskedSample
from dualdiff_jax.sampling.text_options import TextOptions
from dualdiff_jax.sampling.text_samplers import sample_text
from tests.unit.sampling.tabular import END, JOINT, LENGTH, MASK, exact_law, keys, p_value, tabular_logits, texts, whole

SAMPLES, SEEDS = 100_000, (0, 1, 2)
ALL = (MASK,) * LENGTH
ONE_BLOCK = (0, 0, 0)


@functools.partial(jax.jit, static_argnames="t_end")
def _sample(rngs, token_ids, options, t_end) -> MaskedSample:
    return sample_text(whole(tabular_logits), rngs, token_ids, options, mask_token_id=MASK, end_token_id=END)


def sample(seed: int, batch: int = SAMPLES, *, start=ALL, t_end: float = T_END, **choices) -> MaskedSample:
    options = TextOptions(order="ancestral", **choices)
    return _sample(keys(batch, seed), texts(batch, start), options, t_end)


def clock(steps: int, t_end: float = T_END) -> list[float]:
    return np.linspace(1, t_end, steps + 1).tolist()


def assert_law(expected, seeds: tuple[int, ...] = SEEDS[:1], **call) -> None:
    found = {seed: p_value(np.asarray(sample(seed, **call).token_ids), expected) for seed in seeds}
    assert all(p > 0.01 for p in found.values()), found


@pytest.mark.parametrize("steps", [1, 4])
def test_tokens_have_the_law_of_the_paper(steps):
    assert_law(exact_law(ALL, [clock(steps)], ONE_BLOCK), SEEDS, steps=steps)


@pytest.mark.parametrize("start", [(MASK, MASK, END), (3, MASK, MASK)])
def test_given_tokens_stay_and_the_others_follow_them(start):
    assert_law(exact_law(start, [clock(4)], ONE_BLOCK), start=start, steps=4)


def test_what_is_left_at_the_end_is_an_arg_max(monkeypatch):
    """With ``T_END`` at 0.4 the end fills four tokens in ten."""
    monkeypatch.setattr(ancestral_order, "T_END", 0.4)
    assert_law(exact_law(ALL, [clock(3, 0.4)], ONE_BLOCK), steps=3, t_end=0.4)


def test_blocks_are_completed_from_the_left_and_share_the_steps():
    """Two blocks: 2 tokens and 1 token, 4 steps and so 2 for each."""
    assert_law(exact_law(ALL, [clock(2), clock(2)], (0, 0, 1)), steps=4, block_length=2)


def test_blocks_are_counted_from_the_first_mask():
    """Behind a given token the next two are one block, which has all steps."""
    start = (3, MASK, MASK)
    assert_law(exact_law(start, [clock(4)], ONE_BLOCK), start=start, steps=4, block_length=2)


def test_blocks_of_one_token_sample_the_joint_distribution():
    """One token at a time with true conditionals: the law is the joint one, but for an arg-max in 1 of 100,000."""
    assert_law(JOINT, SEEDS, steps=3, block_length=1)


@pytest.mark.parametrize("remask", [0.3, pytest.param(1.0, marks=pytest.mark.slow)])
def test_remasking_has_its_law(remask):
    """The second number needs no new program."""
    assert_law(exact_law(ALL, [clock(4)], ONE_BLOCK, remask), SEEDS, steps=4, remask=remask)


def test_remasking_in_blocks_has_its_law():
    expected = exact_law(ALL, [clock(3), clock(3)], (0, 0, 1), 0.5)
    assert_law(expected, steps=6, block_length=2, remask=0.5)


@pytest.mark.parametrize("temperature", [0.5, 1.5])
def test_a_temperature_has_its_law(temperature):
    expected = exact_law(ALL, [clock(4)], ONE_BLOCK, temperature=temperature)
    assert_law(expected, steps=4, temperature=temperature)


@pytest.mark.parametrize(
    "wrong",
    [
        {"steps": 3},
        {"steps": 4, "temperature": 0.95},
        {"steps": 4, "remask": 0.5},
        {"steps": 8, "block_length": 2},
        {"steps": 4, "start": (MASK, MASK, END)},
    ],
)
def test_another_sampler_fails_the_same_comparison(wrong):
    expected = exact_law(ALL, [clock(4)], ONE_BLOCK)
    assert p_value(np.asarray(sample(SEEDS[0], **wrong).token_ids), expected) < 0.01


@pytest.mark.parametrize("remask", [0.0, 0.2, 1.0])
def test_the_share_of_masks_follows_the_clock(remask):
    """P(masked at s) = s for any remasking, within 5 standard deviations; given tokens are never masked."""
    batch, length, steps = 4000, 6, 8
    is_masked = np.tile(np.arange(length) > 0, (batch, 1))
    blocks = cut(jnp.asarray(is_masked), None, steps)
    before = np.asarray(draw_plan(keys(batch), jnp.asarray(is_masked), blocks, steps + 1, remask).before)
    assert not before[:, :, 0].any()
    for share, t in zip(before[:, :, 1:].mean(axis=(1, 2)), clock(steps), strict=True):
        assert abs(share - t) <= 5 * np.sqrt(t * (1 - t) / (batch * (length - 1)))


def sequential(rng: np.random.Generator, batch: int, steps: int) -> np.ndarray:
    """When each position is revealed, step by step as in the paper: the dense rank of its step among the example's."""
    revealed, times = np.full((batch, LENGTH), -1), clock(steps)
    for k in range(steps + 1):
        falls = (times[k] - times[k + 1]) / times[k] if k < steps else 1.0
        revealed = np.where((revealed < 0) & (rng.random((batch, LENGTH)) < falls), k, revealed)
    return np.array([[len(set(row[row < step])) for step in row] for row in revealed])


@pytest.mark.parametrize("steps", [2, 7])
def test_positions_are_revealed_when_the_paper_says_and_no_pass_reveals_nothing(steps):
    """The two samples have the same shares of each reveal order, within 5 standard deviations of their difference."""
    batch = 10_000
    found = np.asarray(sample(1, batch, steps=steps).revealed_in)
    expected = sequential(np.random.default_rng(2), batch, steps)
    for pattern in np.unique(np.concatenate([found, expected]), axis=0):
        a, b = ((rows == pattern).all(axis=1).mean() for rows in (found, expected))
        assert abs(a - b) <= 5 * np.sqrt((a + b) / batch)
    assert {tuple(sorted(set(row))) for row in found} <= {(0,), (0, 1), (0, 1, 2)}


def test_passes_are_counted():
    found = sample(0, 500, steps=4)
    np.testing.assert_array_equal(found.passes, found.revealed_in.max(axis=1) + 1)
    again = sample(0, 500, steps=16, remask=1.0)
    assert (np.asarray(again.passes) >= np.asarray(again.revealed_in).max(axis=1) + 1).all()
    assert again.passes.mean() > 1.5 * sample(0, 500, steps=16).passes.mean()
    assert (np.asarray(again.revealed_in) != VISIBLE).all()


def test_the_plan_reveals_each_mask_at_last():
    is_masked = jnp.asarray([[True, False, True, True, True]])
    options = TextOptions(order="ancestral", steps=3, block_length=2, remask=0.5)
    choose = ancestral(keys(1), jnp.where(is_masked, MASK, 0), options, MASK)
    state = np.asarray(is_masked)
    for k in range(3 + 2 * 3):
        choice = choose(jnp.int32(k), jnp.zeros(0), jnp.zeros(0))
        assert not (np.asarray(choice.is_chosen) & ~state).any(), "it reveals what is visible"
        state = (state & ~np.asarray(choice.is_chosen)) | np.asarray(choice.is_masked_next)
    assert not state.any()
