"""Samplers that replace masks by tokens, a few at a time (MDLM, arXiv 2406.07524, section 3.2).

Ancestral sampling lets t fall over linspace(1, 1e-5, n + 1). From t to s each masked token is revealed with
probability (t - s) / t, by a draw from SUBS; a token that is still masked at the end is revealed by arg-max:
(1)  P(revealed in step k) = (t_k - t_{k+1}) / t_0, for all tokens alike
so the step of every position can be drawn before the loop. The network does not see t, hence
(2)  a step in which an example reveals nothing changes nothing, and each example can count its own occupied steps
     alone: the law is the same, and the number of network evaluations is the largest such count.

Confidence sampling reveals in each step the positions whose best token is most probable, by arg-max (as MaskGIT,
arXiv 2202.04200, at temperature 0). It is deterministic, and better where one answer is right. While every position
is masked, all of them look alike to a text encoder with relative positions. Among equally confident positions the
last is revealed first: it is padding, and the positions of the others follow from it.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from dualdiff_jax.arrays import Key, TokenIds
from dualdiff_jax.objectives.masked_diffusion import masked_log_probs

T_END = 1e-5
VISIBLE = -1  # rank of a token that was never masked
CONFIDENCE_DECIMALS = 3  # of a log-probability: positions that agree in these are equally confident

LogitsFunction = Callable[[TokenIds], jax.Array]  # (b, l) -> (b, l, v)


class MaskedSample(NamedTuple):
    """A text without masks, and when each of its tokens was revealed."""

    token_ids: TokenIds  # (b, l)
    revealed_in: jax.Array  # (b, l), the number of the evaluation, from 0; -1 where the token was given


def ancestral(
    logits: LogitsFunction, rngs: Key, token_ids: TokenIds, *, mask_token_id: int, steps: int
) -> MaskedSample:
    """Ancestral sampling, in at most ``steps`` + 1 evaluations of the network. Equations (1), (2).

    Args:
        logits: (token ids (b, l)) -> scores of the clean token at each position (b, l, v).
        rngs: (b,), a key for each example, so that an example does not depend on its neighbours.
        token_ids: (b, l), with masks.
        mask_token_id: The absorbing state, which is never drawn.
        steps: n.
    """
    keys = jax.vmap(jax.random.split)(rngs)
    is_masked = token_ids == mask_token_id
    u = jax.vmap(lambda key: jax.random.uniform(key, token_ids.shape[1:]))(keys[:, 0])
    step = jnp.minimum(jnp.floor((1.0 - u) * steps / (1.0 - T_END)), steps).astype(jnp.int32)
    rank = _dense_rank(step, is_masked, steps + 1)
    is_left_over = step == steps

    def choose(k: jax.Array, log_probs: jax.Array, token_ids: TokenIds) -> tuple[jax.Array, jax.Array]:
        step_keys = jax.vmap(jax.random.fold_in, in_axes=(0, None))(keys[:, 1], k)
        drawn = jax.vmap(lambda key, p: jax.random.categorical(key, p, axis=-1))(step_keys, log_probs)
        return jnp.where(is_left_over, log_probs.argmax(axis=-1), drawn), rank == k

    return _reveal(logits, choose, token_ids, mask_token_id, evaluations=rank.max() + 1)


def confidence(logits: LogitsFunction, token_ids: TokenIds, *, mask_token_id: int, steps: int) -> MaskedSample:
    """Confidence sampling, spread evenly over at most ``steps`` evaluations of the network.

    Args:
        logits: (token ids (b, l)) -> scores of the clean token at each position (b, l, v).
        token_ids: (b, l), with masks.
        mask_token_id: The absorbing state, which is never chosen.
        steps: An example with fewer masks takes one for each mask.
    """
    count = (token_ids == mask_token_id).sum(axis=1)
    used = jnp.minimum(count, steps)

    def choose(k: jax.Array, log_probs: jax.Array, token_ids: TokenIds) -> tuple[jax.Array, jax.Array]:
        is_masked = token_ids == mask_token_id
        revealed_before = count - is_masked.sum(axis=1)
        revealed_after = -(-(k + 1) * count // jnp.maximum(used, 1))  # ceil
        certainty = jnp.where(is_masked, jnp.round(log_probs.max(axis=-1), CONFIDENCE_DECIMALS), -jnp.inf)
        # Both sorts are stable, so of equally confident positions the last comes first.
        rank = jnp.argsort(jnp.argsort(-certainty[:, ::-1], axis=1), axis=1)[:, ::-1]
        return log_probs.argmax(axis=-1), is_masked & (rank < (revealed_after - revealed_before)[:, None])

    return _reveal(logits, choose, token_ids, mask_token_id, evaluations=used.max())


def _dense_rank(step: jax.Array, is_masked: jax.Array, steps: int) -> jax.Array:
    """How many earlier steps of the same example reveal something, by position.

    Args:
        step: (b, l), the step of each position, below ``steps``.
        is_masked: (b, l).
        steps: Number of steps.

    Returns:
        (b, l), -1 where the token is visible.
    """
    occupied = jax.vmap(lambda s, m: jnp.zeros(steps, jnp.int32).at[s].max(m.astype(jnp.int32)))(step, is_masked)
    earlier = jnp.cumsum(occupied, axis=1) - occupied
    return jnp.where(is_masked, jnp.take_along_axis(earlier, step, axis=1), VISIBLE)


def _reveal(
    logits: LogitsFunction,
    choose: Callable[[jax.Array, jax.Array, TokenIds], tuple[jax.Array, jax.Array]],
    token_ids: TokenIds,
    mask_token_id: int,
    evaluations: jax.Array,
) -> MaskedSample:
    """The loop of both samplers.

    Args:
        logits: The network, as in ``ancestral``.
        choose: (evaluation, SUBS log-probabilities (b, l, v), token ids (b, l)) -> (tokens (b, l), where they are
            revealed now (b, l) bool).
        token_ids: (b, l), with masks.
        mask_token_id: The absorbing state.
        evaluations: How often the network is evaluated.
    """

    def body(k: jax.Array, state: tuple[TokenIds, jax.Array]) -> tuple[TokenIds, jax.Array]:
        token_ids, revealed_in = state
        tokens, is_chosen = choose(k, masked_log_probs(logits(token_ids), mask_token_id), token_ids)
        return (
            jnp.where(is_chosen, tokens.astype(token_ids.dtype), token_ids),
            jnp.where(is_chosen, k, revealed_in),
        )

    revealed_in = jnp.full(token_ids.shape, VISIBLE, jnp.int32)
    token_ids, revealed_in = jax.lax.fori_loop(0, evaluations, body, (token_ids, revealed_in))
    return MaskedSample(token_ids, revealed_in)
