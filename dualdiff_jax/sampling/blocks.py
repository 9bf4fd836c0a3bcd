"""Semi-autoregressive blocks: a text is completed block after block, from the left (arXiv 2503.09573, 2502.09992).

Blocks have ``block_length`` tokens and are counted from an example's first mask. The steps are shared out: each of an
example's n blocks has ceil(steps / n). Without a ``block_length`` the text is one block.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from dualdiff_jax.arrays import PerToken


class Blocks(NamedTuple):
    """How each example's text is cut."""

    block: jax.Array  # (b, l), number of each position's block; meaningless where no mask was
    steps: jax.Array  # (b,), of one block
    most: int  # blocks that a text of this length can have


def cut(is_masked: PerToken, block_length: int | None, steps: int) -> Blocks:
    """The blocks of texts with masks at ``is_masked`` (b, l), which share ``steps``."""
    count, length = is_masked.shape
    if block_length is None:
        return Blocks(jnp.zeros((count, length), jnp.int32), jnp.full(count, steps), 1)
    first = is_masked.argmax(axis=1)[:, None]
    block = jnp.maximum(jnp.arange(length) - first, 0) // block_length
    blocks = jnp.where(is_masked, block, 0).max(axis=1) + 1
    return Blocks(block, -(-steps // blocks), -(-length // block_length))


def current(blocks: Blocks, is_masked: PerToken) -> PerToken:
    """(b, l), the positions of each example's first block that has masks."""
    first = jnp.where(is_masked, blocks.block, blocks.most).min(axis=1, keepdims=True)
    return blocks.block == first
