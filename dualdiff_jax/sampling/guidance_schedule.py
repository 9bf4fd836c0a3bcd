"""Which steps of a grid are guided, as pieces of the grid, each of one kind.

(1)  interval [low, high]: step k is guided where low <= sigma_k <= high (arXiv 2404.07724), the level where it begins;
     outside, the null prompt is not evaluated. Both evaluations of a Heun step are of the step's kind
(2)  zero-init (CFG-Zero*, arXiv 2503.18886): the first steps of a grid have velocity 0. Their latents stay what they
     are, so these steps evaluate nothing
"""

from typing import Literal, NamedTuple

import numpy as np

Kind = Literal["still", "plain", "guided"]


class Piece(NamedTuple):
    """Steps ``first`` to ``last - 1`` of a grid, from ``sigmas[first]`` to ``sigmas[last]``."""

    first: int
    last: int
    kind: Kind  # still: velocity 0; plain: of the prompt alone; guided


def guidance_pieces(
    sigmas: np.ndarray,
    *,
    is_guided: bool,
    interval: tuple[float, float] = (0.0, 1.0),
    still_steps: int = 0,
    every: int | None = None,
) -> list[Piece]:
    """Cuts a grid where its guidance changes.

    Args:
        sigmas: (n + 1,), falling.
        is_guided: whether there is guidance at all; else all steps are plain.
        interval: (low, high) of equation (1).
        still_steps: of equation (2), where there is guidance.
        every: also cuts after each ``every`` steps.

    Returns:
        The pieces in order; together they are the grid.
    """
    steps = len(sigmas) - 1
    levels = sigmas.astype(np.float32)
    low, high = np.asarray(interval, np.float32)  # a bound of 0.3 is the level of 0.3

    def kind(k: int) -> Kind:
        if is_guided and k < still_steps:
            return "still"
        return "guided" if is_guided and low <= levels[k] <= high else "plain"

    kinds: list[Kind] = [kind(k) for k in range(steps)]
    begins = [k for k in range(steps) if not k or kinds[k] != kinds[k - 1] or (every is not None and k % every == 0)]
    return [Piece(first, last, kinds[first]) for first, last in zip(begins, [*begins[1:], steps], strict=True)]
