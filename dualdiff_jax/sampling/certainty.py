"""Orders that reveal the most certain positions first.

How certain the network is of a position with SUBS probabilities p:
(1)  probability   the largest log p (MaskGIT, arXiv 2202.04200)
(2)  margin        the largest p minus the second largest (arXiv 2502.06768)
(3)  entropy       minus the entropy of p in nats (arXiv 2505.24857)
Certainties that agree in three decimals are equal. While every position is masked, all of them look alike to a text
encoder with relative positions; among equally certain positions the last is revealed first, since it is padding, and
the positions of the others follow from it.

How many of them a pass reveals:
(4)  confidence     as many as spread a block's c masks evenly over its steps: ceil(k c / n) after k passes of n
(5)  threshold      all with a largest p above the bound, and at least the most probable one (Fast-dLLM, 2505.22618)
(6)  entropy bound  the most certain ones, as long as the sum of their entropies minus the largest of them is within the
                    bound (EB-sampler, 2505.24857): at least one
All reveal tokens that depend on each other as if they did not. (5) and (6) bound the error of doing so, and take as
many passes as the text needs.
"""

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp

from dualdiff_jax.arrays import Key, PerToken, TokenIds
from dualdiff_jax.objectives.masked_diffusion import NEVER
from dualdiff_jax.sampling import blocks as blocks_of
from dualdiff_jax.sampling.masked_sampler import Choice, Choose, LogProbs
from dualdiff_jax.sampling.text_options import TextOptions
from dualdiff_jax.sampling.token_draws import second_log_prob

CERTAINTY_DECIMALS = 3  # positions that agree in these are equally certain


def entropy(log_probs: jax.Array) -> jax.Array:
    """(..., v) -> (...), in nats."""
    return -(jnp.exp(log_probs) * log_probs).sum(axis=-1)


def _margin(log_probs: jax.Array) -> jax.Array:
    return jnp.exp(log_probs.max(axis=-1)) - jnp.exp(second_log_prob(log_probs))


# Equations (1) to (3), by the names of ``TextOptions.certainty``: (b, l, v) -> (b, l).
CERTAINTIES: Mapping[str, Callable[[jax.Array], jax.Array]] = {
    "probability": lambda log_probs: log_probs.max(axis=-1),
    "margin": _margin,
    "entropy": lambda log_probs: -entropy(log_probs),
}


def by_certainty(certainty: str, log_probs: jax.Array, may_appear: PerToken) -> jax.Array:
    """The positions, the most certain first and those that may not appear last: indices (b, l)."""
    found = jnp.nan_to_num(CERTAINTIES[certainty](log_probs), nan=NEVER)  # a network of NaN reveals something too
    found = jnp.where(may_appear, jnp.round(found, CERTAINTY_DECIMALS), -jnp.inf)
    length = found.shape[1]
    return length - 1 - jnp.argsort(-found[:, ::-1], axis=1)  # a stable sort: of equal ones the last comes first


def first_ones(order: jax.Array, count: jax.Array) -> PerToken:
    """(b, l), whether a position is among the first ``count`` (b,) of ``order`` (b, l)."""
    return jnp.argsort(order, axis=1) < count[:, None]


def confidence(rngs: Key, token_ids: TokenIds, options: TextOptions, mask_token_id: int) -> Choose:
    """Equation (4). An example with fewer masks than steps takes a pass for each mask.

    Args:
        rngs: unused.
        token_ids: (b, l), with masks.
        options: their ``steps``, ``block_length`` and ``certainty``.
        mask_token_id: the absorbing state.
    """
    assert options.steps is not None  # TextOptions checks it
    was_masked = token_ids == mask_token_id
    blocks = blocks_of.cut(was_masked, options.block_length, options.steps)

    def choose(k: jax.Array, log_probs: LogProbs, token_ids: TokenIds) -> Choice:
        is_masked = token_ids == mask_token_id
        here = blocks_of.current(blocks, is_masked)
        count = (was_masked & here).sum(axis=1)
        before = count - (is_masked & here).sum(axis=1)
        passes, masks = jnp.maximum(jnp.minimum(count, blocks.steps), 1), jnp.maximum(count, 1)
        after = -(-(before * passes // masks + 1) * count // passes)  # before is ceil(k count / passes) for one k
        order = by_certainty(options.certainty or "probability", log_probs(), is_masked & here)
        return Choice(is_masked & here & first_ones(order, after - before))

    return choose


def _in_turn(start: TokenIds, options: TextOptions, mask_token_id: int) -> Callable[[TokenIds], PerToken]:
    """For orders without steps: token ids (b, l) -> (b, l), the masks of the block that is completed now."""
    blocks = blocks_of.cut(start == mask_token_id, options.block_length, 1)

    def masks(token_ids: TokenIds) -> PerToken:
        is_masked = token_ids == mask_token_id
        return is_masked & blocks_of.current(blocks, is_masked)

    return masks


def threshold(rngs: Key, token_ids: TokenIds, options: TextOptions, mask_token_id: int) -> Choose:
    """Equation (5); arguments as for ``confidence``, with the options' ``threshold``."""
    bound = options.threshold
    assert bound is not None  # TextOptions checks it
    in_turn = _in_turn(token_ids, options, mask_token_id)

    def choose(k: jax.Array, log_probs: LogProbs, token_ids: TokenIds) -> Choice:
        may_appear = in_turn(token_ids)
        found = log_probs()
        order = by_certainty("probability", found, may_appear)
        is_surest = first_ones(order, jnp.ones(len(order), jnp.int32))
        return Choice(may_appear & (is_surest | (jnp.exp(found.max(axis=-1)) > bound)))

    return choose


def entropy_bound(rngs: Key, token_ids: TokenIds, options: TextOptions, mask_token_id: int) -> Choose:
    """Equation (6); arguments as for ``confidence``, with the options' ``entropy_bound``."""
    bound = options.entropy_bound
    assert bound is not None  # TextOptions checks it
    in_turn = _in_turn(token_ids, options, mask_token_id)

    def choose(k: jax.Array, log_probs: LogProbs, token_ids: TokenIds) -> Choice:
        may_appear = in_turn(token_ids)
        order = by_certainty(options.certainty or "entropy", log_probs(), may_appear)
        found = jnp.take_along_axis(jnp.where(may_appear, entropy(log_probs()), 0.0), order, axis=1)
        largest = jax.lax.cummax(found, axis=1)
        # The sum without its largest term, as terms that are not negative: what each new one adds to it.
        added = jnp.minimum(found[:, 1:], largest[:, :-1])
        count = 1 + (jnp.cumsum(added, axis=1) <= bound).sum(axis=1)
        return Choice(may_appear & first_ones(order, count))

    return choose
