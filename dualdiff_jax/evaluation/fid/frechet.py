"""The Frechet distance of two Gaussians (Dowson, Landau 1982), squared, as FID is.

(1)  d^2 = |m_a - m_b|^2 + tr(A) + tr(B) - 2 tr((A B)^(1/2))
(2)  tr((A B)^(1/2)) = the sum of the singular values of A^(1/2) B^(1/2)
A^(1/2) and B^(1/2) are symmetric roots, so (2) is real and exact also where A or B has not full rank; the product A B,
whose root pytorch-fid takes, is not symmetric, and there its root may not be finite.
"""

import numpy as np

from dualdiff_jax.evaluation.fid.statistics import Statistics


def frechet_distance(a: Statistics, b: Statistics) -> float:
    """Equation (1), in float64."""
    difference = a.mean - b.mean
    overlap = np.linalg.svd(_root(a.covariance) @ _root(b.covariance), compute_uv=False).sum()
    return float(difference @ difference + np.trace(a.covariance) + np.trace(b.covariance) - 2 * overlap)


def _root(covariance: np.ndarray) -> np.ndarray:
    """The symmetric root; rounding makes small eigenvalues negative, which are 0."""
    values, vectors = np.linalg.eigh(covariance)
    return (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T
