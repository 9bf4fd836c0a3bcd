"""Laws of the clocks: their range, their levels, their distribution."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import logit
from scipy.stats import norm

from dualdiff_jax.objectives.time_sampling import LEVELS, T_MIN, sample_sigma, sample_t

DRAWS = 40_000
DISTRIBUTIONS = ("logit_normal_1000", "logit_normal")
STANDARD_ERRORS = 4.5


def given_normals(monkeypatch: pytest.MonkeyPatch, values: np.ndarray) -> None:
    monkeypatch.setattr(jax.random, "normal", lambda key, shape: jnp.asarray(values, jnp.float32).reshape(shape))


def test_batches_that_belong_together_cover_the_clock_as_finely_as_one_of_all():
    """Each of N * B equal cells has one t, and a batch alone still has one in each of its B cells."""
    batch, parts = 6, 5
    rngs = jax.random.split(jax.random.key(3), parts)
    found = np.stack([np.asarray(sample_t(rng, batch, part, parts)) for part, rng in enumerate(rngs)])
    u = (found.astype(np.float64) - T_MIN) / (1 - T_MIN)
    assert sorted(np.floor(u.ravel() * batch * parts).astype(int)) == list(range(batch * parts))
    for row in u:
        assert sorted(np.floor(row * batch).astype(int)) == list(range(batch))


@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
def test_sigma_lies_in_0_to_1_and_is_never_0(distribution):
    sigma = np.asarray(sample_sigma(jax.random.key(0), DRAWS, distribution))
    assert sigma.shape == (DRAWS,) and sigma.dtype == np.float32
    assert (sigma > 0).all() and (sigma <= 1).all()


def test_levels_are_multiples_of_a_thousandth():
    sigma = np.asarray(sample_sigma(jax.random.key(1), DRAWS, "logit_normal_1000"), np.float64)
    np.testing.assert_allclose(sigma * LEVELS, np.round(sigma * LEVELS), atol=1e-3)
    assert len(np.unique(np.round(sigma * LEVELS))) > LEVELS // 2


def test_levels_are_never_0_even_where_the_sigmoid_saturates(monkeypatch):
    given_normals(monkeypatch, np.array([-30.0, 30.0]))
    np.testing.assert_allclose(sample_sigma(jax.random.key(0), 2, "logit_normal_1000"), [1.0, 0.001], rtol=1e-4)


def test_level_is_1_minus_the_floor_of_1000_u(monkeypatch):
    u = np.array([0.0004, 0.0996, 0.2504, 0.7318, 0.9996])
    given_normals(monkeypatch, logit(u))
    found = sample_sigma(jax.random.key(0), len(u), "logit_normal_1000")
    np.testing.assert_allclose(found, [1.0, 0.901, 0.75, 0.269, 0.001], atol=1e-6)


def test_continuous_sigma_is_u_itself(monkeypatch):
    u = np.array([0.0004, 0.2504, 0.9996])
    given_normals(monkeypatch, logit(u))
    np.testing.assert_allclose(sample_sigma(jax.random.key(0), len(u), "logit_normal"), u, rtol=1e-5)


@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
@pytest.mark.parametrize("level", [0.05, 0.2, 0.5, 0.8, 0.95])
def test_sigma_has_the_quantiles_of_the_logit_normal(distribution, level):
    """P(sigma <= s): Phi(logit s) for u itself; of the levels, sigma <= s is u >= 1 - s, which is as likely."""
    sigma = np.asarray(sample_sigma(jax.random.key(2), DRAWS, distribution), np.float64)
    expected = norm.cdf(logit(level))
    found = (sigma <= level + 1e-6).mean()
    assert abs(found - expected) < STANDARD_ERRORS * np.sqrt(expected * (1 - expected) / DRAWS)


@pytest.mark.parametrize("batch", [1, 2, 7, 64])
def test_each_of_the_equal_strata_is_hit_exactly_once(batch):
    keys = jax.random.split(jax.random.key(3), 200)
    t = np.asarray(jax.vmap(lambda key: sample_t(key, batch))(keys), np.float64)
    assert (t >= T_MIN).all() and (t <= 1).all()
    strata = np.sort(np.floor((t - T_MIN) / (1 - T_MIN) * batch).astype(int), axis=1)
    np.testing.assert_array_equal(strata, np.broadcast_to(np.arange(batch), strata.shape))


def test_one_offset_moves_the_whole_batch():
    t = np.sort(np.asarray(sample_t(jax.random.key(4), 8), np.float64))
    np.testing.assert_allclose(np.diff(t), (1 - T_MIN) / 8, rtol=1e-5)


@pytest.mark.parametrize("position", [0, 1, 4])
def test_each_t_alone_is_uniform(position):
    """Wherever it stands in the batch: the bound on sqrt(n) D is passed by chance with p below 5e-5."""
    draws = 4000
    t = np.asarray(jax.vmap(lambda key: sample_t(key, 5))(jax.random.split(jax.random.key(5), draws)), np.float64)
    level = np.sort((t[:, position] - T_MIN) / (1 - T_MIN))
    steps = np.arange(draws + 1) / draws
    distance = max((steps[1:] - level).max(), (level - steps[:-1]).max())
    assert np.sqrt(draws) * distance < 2.4


def test_draws_are_a_function_of_the_key():
    for draw in (lambda key: sample_t(key, 4), lambda key: sample_sigma(key, 4, "logit_normal")):
        np.testing.assert_array_equal(draw(jax.random.key(6)), draw(jax.random.key(6)))
        assert (np.asarray(draw(jax.random.key(6))) != np.asarray(draw(jax.random.key(7)))).all()


def test_a_distribution_that_is_none_is_refused_by_the_names_there_are():
    with pytest.raises(ValueError, match="distribution is 'sigma'; give one of .*'logit_normal', 'logit_normal_1000'"):
        sample_sigma(jax.random.key(0), 1, "sigma")
