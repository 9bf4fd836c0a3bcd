"""The network of a text sampler in two parts, so that scores of the vocabulary are computed at few positions.

(1)  features     token ids -> what the last layers read, at every position: all that positions tell each other is in it
(2)  scores       features at some positions -> the scores of all tokens there
Where an order knows which positions a pass reveals before it sees a score, (2) is computed there alone.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from dualdiff_jax.arrays import PerToken, TokenIds

Rows = Any  # a tree of arrays (b, n, ...), of n positions
SPARE = 4  # times as many positions as a pass reveals on average


class TextNetwork(NamedTuple):
    """What a text sampler evaluates; equations (1) and (2)."""

    features: Callable[[TokenIds], Rows]  # (b, l) -> rows of all l positions
    scores: Callable[[Rows], jax.Array]  # rows of n positions -> (b, n, v)


def width_of(length: int, passes: int) -> int:
    """For how many positions of ``length`` a pass should have room, if ``passes`` passes reveal all of them."""
    return min(length, SPARE * -(-length // passes))


def at_chosen(values: Callable[[Rows, jax.Array], jax.Array], rows: Rows, is_chosen: PerToken, width: int) -> jax.Array:
    """Values at the chosen positions.

    Args:
        values: (rows of n positions, these positions (b, n)) -> (b, n); a position's value depends on its row alone.
        rows: of all l positions.
        is_chosen: (b, l).
        width: positions of each example that are computed, if no example has more chosen ones; else all are.

    Returns:
        (b, l), of no meaning where a position is not chosen.
    """
    batch, length = is_chosen.shape

    def few() -> jax.Array:
        positions = jnp.argsort(~is_chosen, axis=1)[:, :width]  # stable: the chosen ones first
        found = values(jax.tree.map(lambda leaf: jax.vmap(lambda row, at: row[at])(leaf, positions), rows), positions)
        return jax.vmap(lambda row, at: jnp.zeros(length, row.dtype).at[at].set(row))(found, positions)

    def all_of_them() -> jax.Array:
        return values(rows, jnp.broadcast_to(jnp.arange(length), (batch, length)))

    if width == length:
        return all_of_them()
    return jax.lax.cond((is_chosen.sum(axis=1) <= width).all(), few, all_of_them)
