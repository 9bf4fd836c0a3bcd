"""The NELBO of masked diffusion as a mean over numbers of masks, and an estimate of it with little variance.

With n tokens that may be masked, M the masked ones, and eps -> 0 in equations (1) and (3) of ``masked_diffusion``:
(1)  NELBO = E over k ~ U{1..n}, then over all M of k tokens, of (n / k) sum over i in M of -log p(x_i | the others)
since the integral of C(n, k) t^(k-1) (1 - t)^(n-k) over t is 1/k. It is the bound of an order-agnostic model, the mean
over all orders of -log p in that order (arXiv 2110.02037, equation 4), so it bounds -log p with no term in eps.
``masked_diffusion`` gives k masks the weight of its own t in [eps, 1], which is at most n eps / k or so less.
(2)  estimate: u in two independent draws from each of H equal parts of [0, 1); k = floor(n u) + 1; M uniform
(3)  term = sum over i of b_i + (n / k) sum over i in M of (c_i - b_i), c_i = -log p(x_i | the others): a control
     variate. It is unbiased, as b_i is the mean of c_i over draws of the other half: b for the first draw of a part
     comes from all second ones, and vice versa. So it matters less which tokens happen to be masked
(4)  standard error^2 = sum over parts of (a - b)^2 / (4 H^2), a and b the two terms of a part. The halves share some
     noise through each other's b_i, so with very few draws it is too small: by a tenth with 6, a hundredth with 40
All draws are a function of the seed alone, not of the text: between two texts of one length most of the noise cancels.
"""

from typing import NamedTuple

import numpy as np


class MaskDraws(NamedTuple):
    """Masks of one text: s draws, the two of each part next to each other."""

    is_masked: np.ndarray  # (s, l) bool
    share: np.ndarray  # (s,), k / n, by which the sum over M is divided


def draw_masks(seed: int, is_answer: np.ndarray, samples: int) -> MaskDraws:
    """Equation (2).

    Args:
        seed: of all draws.
        is_answer: (l,), where the text may be masked. Where that is nowhere, nothing is masked.
        samples: s = 2 H.
    """
    rng, parts, count = np.random.default_rng(seed), samples // 2, int(is_answer.sum())
    u = (np.arange(parts)[:, None] + rng.random((parts, 2))) / parts
    ranked = np.where(is_answer, rng.random((samples, len(is_answer))), np.inf)
    k = np.floor(np.minimum(u, np.nextafter(1.0, 0.0)) * count).astype(int).reshape(-1) + 1
    is_masked = is_answer & (ranked.argsort(axis=1).argsort(axis=1) < k[:, None])
    return MaskDraws(is_masked, k / max(count, 1))


def bound_terms(costs: np.ndarray, is_masked: np.ndarray, share: np.ndarray) -> np.ndarray:
    """Equation (3).

    Args:
        costs: (..., s, l), c_i where a token is masked.
        is_masked: (..., s, l).
        share: (..., s).

    Returns:
        (..., s) fp64.
    """
    costs = np.where(is_masked, costs, 0.0).astype(np.float64)
    halves = []
    for first in (0, 1):
        seen = is_masked[..., 1 - first :: 2, :].sum(axis=-2, keepdims=True)
        baseline = costs[..., 1 - first :: 2, :].sum(axis=-2, keepdims=True) / np.maximum(seen, 1)
        surprise = np.where(is_masked[..., first::2, :], costs[..., first::2, :] - baseline, 0.0).sum(axis=-1)
        halves.append(baseline.sum(axis=-1) + surprise / share[..., first::2])
    return np.stack(halves, axis=-1).reshape(*halves[0].shape[:-1], -1)


def stratified_mean(terms: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Equations (2), (4): terms (..., s) -> the estimate and its standard error, (...) each."""
    pairs = terms.reshape(*terms.shape[:-1], -1, 2).astype(np.float64)
    spread = np.square(pairs[..., 0] - pairs[..., 1]).sum(axis=-1)
    return pairs.mean(axis=(-2, -1)), np.sqrt(spread) / (2 * pairs.shape[-2])
