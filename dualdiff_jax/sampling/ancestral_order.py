"""Ancestral sampling (MDLM, arXiv 2406.07524, section 3.2), and with remasking (ReMDM, arXiv 2503.00307, section 3).

t falls over linspace(1, 1e-5, n + 1), and a token is masked at t with probability t. From t to s:
(1)  a masked token is revealed with probability (t - s + r (1 - t)) / t, by a draw from SUBS
(2)  a revealed token is masked again with probability r = min(remask, s / (1 - t)); without remasking r = 0
(3)  a token that is still masked at the end is revealed by arg-max
With any r, P(masked at s) = s where P(masked at t) = t: remasking keeps the marginals.

Which positions are masked at which step does not depend on any token, so all of it is drawn before the loop. The
network does not see t, hence
(4)  a step in which an example reveals nothing changes nothing for the network: what it masks can wait until the next
     step that reveals. So each example counts its own revealing steps alone, the law is the same, and the number of
     evaluations is the largest such count.
In blocks (``blocks.py``) each block has such a clock of its own, which starts when those on its left have ended.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from dualdiff_jax.arrays import Key, PerToken, TokenIds
from dualdiff_jax.sampling.blocks import Blocks, cut
from dualdiff_jax.sampling.masked_sampler import Choice, Choose, LogProbs
from dualdiff_jax.sampling.text_options import TextOptions

T_END = 1e-5


class MaskPlan(NamedTuple):
    """Where masks are, drawn ahead; n is the number of steps."""

    before: jax.Array  # (n, b, l) bool, masked before the step
    is_revealed: jax.Array  # (n, b, l) bool, revealed in the step
    is_last: jax.Array  # (n, b, l) bool, in the step of equation (3)


def ancestral(rngs: Key, token_ids: TokenIds, options: TextOptions, mask_token_id: int) -> Choose:
    """What ancestral sampling reveals, in at most ``steps`` evaluations of the network and one more for each block.

    Args:
        rngs: (b,), a key for each example.
        token_ids: (b, l), with masks.
        options: their ``steps``, ``block_length`` and ``remask``.
        mask_token_id: the absorbing state.
    """
    assert options.steps is not None  # TextOptions checks it
    is_masked = token_ids == mask_token_id
    blocks = cut(is_masked, options.block_length, options.steps)
    remask = 0.0 if options.remask is None else options.remask
    plan = draw_plan(rngs, is_masked, blocks, options.steps + 2 * blocks.most, remask)
    occupied = plan.is_revealed.any(axis=2)
    order, count = jnp.argsort(~occupied, axis=0), occupied.sum(axis=0)  # stable: the occupied steps in their order

    def at(values: jax.Array, evaluation: jax.Array) -> jax.Array:
        """(n, b, l) -> (b, l), of each example's step in that evaluation; False after its last one."""
        step = order[jnp.minimum(evaluation, len(order) - 1)]
        return jnp.take_along_axis(values, step[None, :, None], axis=0)[0] & (evaluation < count)[:, None]

    def choose(k: jax.Array, log_probs: LogProbs, token_ids: TokenIds) -> Choice:
        return Choice(at(plan.is_revealed, k), is_greedy=at(plan.is_last, k), is_masked_next=at(plan.before, k + 1))

    return choose


def draw_plan(rngs: Key, is_masked: PerToken, blocks: Blocks, steps: int, remask: jax.Array | float) -> MaskPlan:
    """Equations (1) to (3) for the masks alone.

    Args:
        rngs: (b,), a key for each example.
        is_masked: (b, l), at the start; all other positions stay as they are.
        blocks: of the texts.
        steps: n, enough for all blocks and the last step of each.
        remask: of equation (2).
    """
    of_block, length = blocks.steps[:, None], is_masked.shape[1]

    def step(now: PerToken, k: jax.Array) -> tuple[PerToken, MaskPlan]:
        local = k - blocks.block * (of_block + 1)  # (b, l), the step of each position's own clock
        is_running, is_last = (local >= 0) & (local < of_block), local == of_block
        fall = (1.0 - T_END) / of_block
        t = 1.0 - fall * local
        s = t - fall
        again = jnp.minimum(remask, s / jnp.maximum(1.0 - t, T_END))
        revealed = (fall + again * (1.0 - t)) / t
        u = jax.vmap(lambda key: jax.random.uniform(jax.random.fold_in(key, k), (length,)))(rngs)
        is_revealed = now & ((is_running & (u < revealed)) | is_last)
        is_masked_again = is_masked & ~now & is_running & (u < again)
        return (now & ~is_revealed) | is_masked_again, MaskPlan(now, is_revealed, is_last)

    return jax.lax.scan(step, is_masked, jnp.arange(steps))[1]
