"""The bound as a mean over numbers of masks, against enumeration; and its estimate."""

import itertools
import math

import numpy as np
import pytest
from numpy.polynomial.legendre import leggauss

from dualdiff_jax.objectives.any_order import bound_terms, draw_masks, stratified_mean
from dualdiff_jax.objectives.time_sampling import T_MIN

COUNT = 3  # tokens that may be masked
STANDARD_ERRORS = 4.5
IS_ANSWER = np.array([False, True, True, False, True])
COSTS = 4.0 * np.random.default_rng(0).random((2**COUNT, COUNT))  # -log p of each token, by the set that is masked


def cost(is_masked: np.ndarray) -> float:
    """The sum over the masked tokens, of a model whose predictions depend on the masks in any way."""
    number = int(is_masked @ (1 << np.arange(COUNT)))
    return float(COSTS[number] @ is_masked)


def subsets(size: int) -> list[np.ndarray]:
    return [np.isin(np.arange(COUNT), chosen) for chosen in itertools.combinations(range(COUNT), size)]


def exact() -> float:
    """Equation (1)."""
    means = {k: np.mean([cost(each) for each in subsets(k)]) for k in range(1, COUNT + 1)}
    return float(np.mean([COUNT / k * mean for k, mean in means.items()]))


def terms(seed: int, samples: int) -> np.ndarray:
    is_masked, share = draw_masks(seed, IS_ANSWER, samples)
    costs = np.full(is_masked.shape, np.nan)
    costs[:, IS_ANSWER] = COSTS[is_masked[:, IS_ANSWER] @ (1 << np.arange(COUNT))]
    return bound_terms(costs, is_masked, share)


def test_the_bound_is_the_mean_over_all_orders_of_the_cost_in_that_order():
    orders = list(itertools.permutations(range(COUNT)))
    total = 0.0
    for order in orders:
        for place in range(COUNT):
            is_masked = np.isin(np.arange(COUNT), order[place:])
            total += COSTS[int(is_masked @ (1 << np.arange(COUNT)))][order[place]]
    assert exact() == pytest.approx(total / len(orders), rel=1e-12)


def test_the_bound_is_the_objectives_up_to_terms_in_eps():
    """E over t in [eps, 1] of equation (3) of masked_diffusion, by integration; it weighs k masks a little less."""
    nodes, weights = leggauss(8)
    t = T_MIN + (1 - T_MIN) * (nodes + 1) / 2
    rate, found = (1 - T_MIN) * t, 0.0
    for k in range(1, COUNT + 1):
        found += sum(map(cost, subsets(k))) * (weights / 2 / t * rate**k * (1 - rate) ** (COUNT - k)).sum()
    assert (1 - COUNT * T_MIN) * exact() < found < exact()


@pytest.mark.parametrize(("samples", "slack"), [(4, 0.2), (6, 0.15), (40, 0.08)])
def test_the_estimate_is_unbiased_and_its_error_nearly(samples, slack):
    """A variance over 3000 runs is known to about a fortieth."""
    runs = 3000
    found = [stratified_mean(terms(seed, samples)) for seed in range(runs)]
    means, errors = (np.array(each) for each in zip(*found, strict=True))
    assert abs(means.mean() - exact()) < STANDARD_ERRORS * means.std() / math.sqrt(runs)
    assert abs(np.square(errors).mean() / means.var() - 1) < slack


@pytest.mark.parametrize("seed", range(5))
def test_each_part_of_the_clock_has_two_draws(seed):
    """So few draws have each number of masks equally often already, and more tokens are covered evenly."""
    sizes = draw_masks(seed, IS_ANSWER, 2 * COUNT).is_masked.sum(axis=1)
    assert sizes.tolist() == [1, 1, 2, 2, 3, 3]
    many = draw_masks(seed, np.ones(100, bool), 8).is_masked.sum(axis=1)
    assert ((many - 1) // 25).tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
    assert len(set(many.tolist())) > 4


def test_costs_that_do_not_depend_on_the_context_have_no_noise():
    """Once the other half has seen each token, nothing is left to chance, whatever is masked."""
    is_masked, share = draw_masks(3, np.ones(5, bool), 40)
    found = bound_terms(
        np.tile([1.0, 2.0, 0.0, 9.0, 0.5], (2, 40, 1)), np.stack([is_masked] * 2), np.stack([share] * 2)
    )
    np.testing.assert_allclose(found, np.full((2, 40), 12.5), rtol=1e-12)


def test_only_answers_are_masked_each_number_of_them_as_often_and_each_set_as_often():
    draws = draw_masks(5, IS_ANSWER, 6000)
    assert not draws.is_masked[:, ~IS_ANSWER].any()
    sizes = draws.is_masked.sum(axis=1)
    np.testing.assert_allclose(draws.share, sizes / COUNT, rtol=1e-6)
    assert np.bincount(sizes, minlength=COUNT + 1).tolist() == [0, 2000, 2000, 2000]
    rows = draws.is_masked[sizes == 2][:, IS_ANSWER]
    for chosen in subsets(2):
        share = (rows == chosen).all(axis=1).mean()
        assert abs(share - 1 / 3) < STANDARD_ERRORS * math.sqrt(2 / 9 / 2000)


def test_texts_of_one_length_have_the_same_draws_and_seeds_others():
    first, second, other = (draw_masks(seed, IS_ANSWER, 8) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first.is_masked, second.is_masked)
    assert (first.is_masked != other.is_masked).any()


def test_where_nothing_may_be_masked_nothing_is():
    draws = draw_masks(0, np.zeros(4, bool), 4)
    assert not draws.is_masked.any() and (draws.share > 0).all()


def test_the_error_of_equal_terms_is_0_and_dims_in_front_stay():
    mean, error = stratified_mean(np.tile(np.repeat([1.0, 5.0, 3.0], 2), (2, 4, 1)))
    np.testing.assert_array_equal(mean, np.full((2, 4), 3.0))
    np.testing.assert_array_equal(error, np.zeros((2, 4)))
    assert stratified_mean(np.array([0.0, 2.0])) == (1.0, 1.0)
