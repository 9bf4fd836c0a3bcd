"""The distance of Gaussians whose distance is known."""

import numpy as np
import pytest
from scipy import linalg

from dualdiff_jax.evaluation.fid.frechet import frechet_distance
from dualdiff_jax.evaluation.fid.statistics import Statistics


def gaussian(rng: np.random.Generator, size: int, rank: int) -> Statistics:
    factor = rng.standard_normal((size, rank))
    return Statistics(rng.standard_normal(size), factor @ factor.T / rank)


def test_variances_on_the_diagonal_have_a_closed_form():
    """|m_a - m_b|^2 + the sum of (sigma_a - sigma_b)^2."""
    rng = np.random.default_rng(0)
    a, b = rng.uniform(0.1, 3, (2, 100))
    means = rng.standard_normal((2, 100))
    found = frechet_distance(Statistics(means[0], np.diag(a**2)), Statistics(means[1], np.diag(b**2)))
    assert found == pytest.approx(((means[0] - means[1]) ** 2).sum() + ((a - b) ** 2).sum(), rel=1e-9)


def test_a_linear_map_has_a_closed_form():
    """B = T A T for a symmetric positive T: tr((A B)^(1/2)) = tr(A T), since T transports A to B."""
    rng = np.random.default_rng(1)
    a, (_, t) = gaussian(rng, 60, 90), gaussian(rng, 60, 90)[:2]
    b = Statistics(a.mean + 2, t @ a.covariance @ t)
    expected = 4 * 60 + np.trace(a.covariance + b.covariance - 2 * a.covariance @ t)
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-9)
    assert frechet_distance(b, a) == pytest.approx(expected, rel=1e-9)


def test_covariances_without_an_inverse_have_a_distance():
    """scipy's root of the product needs a little of the identity; the distance grows only a little by that."""
    rng = np.random.default_rng(2)
    a, b = gaussian(rng, 40, 10), gaussian(rng, 40, 10)
    little = 1e-9 * np.eye(40)
    root = linalg.sqrtm((a.covariance + little) @ (b.covariance + little)).real
    expected = ((a.mean - b.mean) ** 2).sum() + np.trace(a.covariance + b.covariance) - 2 * np.trace(root)
    assert frechet_distance(a, b) == pytest.approx(expected, abs=1e-3)
    assert frechet_distance(a, a) == pytest.approx(0, abs=1e-12 * 40)
