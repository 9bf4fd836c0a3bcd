"""Fills masked positions with tokens, a few at a time (MDLM, arXiv 2406.07524, section 3.2).

Ancestral sampling walks t over linspace(1, 1e-5, n + 1); going from t to s each masked token is
revealed with probability (t - s) / t by a draw from SUBS, and what is left at the end by arg-max:
(1)  P(revealed in step k) = (t_k - t_{k+1}) / t_0, whatever the tokens are
so the step of every position can be drawn before the loop. The network does not see t, hence
(2)  a step in which an example reveals nothing changes nothing, and each example may count only its own
     occupied steps: the law is the same, the number of network evaluations is the largest such count.

``confidence`` reveals in each step the positions whose best token is most probable, by arg-max (as
MaskGIT, arXiv 2202.04200, at temperature 0): deterministic, and better where one answer is right.
Where nothing is visible yet, all positions look alike to a text encoder with relative positions. Among
equally sure positions the last comes first: it is padding, and from there the others can count.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from dualdiff_jax.arrays import Key, TokenIds
from dualdiff_jax.objectives.masked_diffusion import masked_log_probs

T_END = 1e-5
VISIBLE = -1  # rank of a token that was never masked
SURE_DIGITS = 3  # decimals of a log-probability in which two positions must differ to be told apart

LogitsFunction = Callable[[TokenIds], jax.Array]  # (b, l) -> (b, l, v)


class MaskedSample(NamedTuple):
    token_ids: TokenIds  # (b, l), no masks left
    revealed_in: jax.Array  # (b, l), the evaluation that revealed each token; -1 where it was given


def ancestral(
    logits: LogitsFunction, rngs: Key, token_ids: TokenIds, *, mask_token_id: int, steps: int
) -> MaskedSample:
    """Draws what is masked in ``token_ids`` (b, l) in at most ``steps`` + 1 evaluations. Equations (1), (2).

    ``rngs`` (b,): a key for each example, so that an example does not depend on its neighbours.
    """
    keys = jax.vmap(jax.random.split)(rngs)
    is_masked = token_ids == mask_token_id
    u = jax.vmap(lambda key: jax.random.uniform(key, token_ids.shape[1:]))(keys[:, 0])
    step = jnp.minimum(jnp.floor((1.0 - u) * steps / (1.0 - T_END)), steps).astype(jnp.int32)
    rank = _dense_rank(step, is_masked, steps + 1)
    left_over = step == steps

    def choose(k: jax.Array, log_probs: jax.Array, token_ids: TokenIds) -> tuple[jax.Array, jax.Array]:
        step_keys = jax.vmap(jax.random.fold_in, in_axes=(0, None))(keys[:, 1], k)
        drawn = jax.vmap(lambda key, p: jax.random.categorical(key, p, axis=-1))(step_keys, log_probs)
        return jnp.where(left_over, log_probs.argmax(axis=-1), drawn), rank == k

    return _reveal(logits, choose, token_ids, mask_token_id, evaluations=rank.max() + 1)


def confidence(logits: LogitsFunction, token_ids: TokenIds, *, mask_token_id: int, steps: int) -> MaskedSample:
    """Fills what is masked in ``token_ids`` (b, l), the surest first, evenly over at most ``steps`` evaluations."""
    count = (token_ids == mask_token_id).sum(axis=1)
    used = jnp.minimum(count, steps)

    def choose(k: jax.Array, log_probs: jax.Array, token_ids: TokenIds) -> tuple[jax.Array, jax.Array]:
        is_masked = token_ids == mask_token_id
        done_before = count - is_masked.sum(axis=1)
        done_after = -(-(k + 1) * count // jnp.maximum(used, 1))  # ceil
        surest = jnp.where(is_masked, jnp.round(log_probs.max(axis=-1), SURE_DIGITS), -jnp.inf)
        place = jnp.argsort(jnp.argsort(-surest[:, ::-1], axis=1), axis=1)[:, ::-1]
        return log_probs.argmax(axis=-1), is_masked & (place < (done_after - done_before)[:, None])

    return _reveal(logits, choose, token_ids, mask_token_id, evaluations=used.max())


def _dense_rank(step: jax.Array, is_masked: jax.Array, steps: int) -> jax.Array:
    """(b, l): how many earlier steps of the same example reveal something; -1 for visible tokens."""
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
    """The loop of both orders: evaluate, let ``choose`` say which tokens go where, keep the rest."""

    def body(k: jax.Array, state: tuple[TokenIds, jax.Array]) -> tuple[TokenIds, jax.Array]:
        token_ids, revealed_in = state
        tokens, is_chosen = choose(k, masked_log_probs(logits(token_ids), mask_token_id), token_ids)
        return (
            jnp.where(is_chosen, tokens.astype(token_ids.dtype), token_ids),
            jnp.where(is_chosen, k, revealed_in),
        )

    start = (token_ids, jnp.full(token_ids.shape, VISIBLE, jnp.int32))
    token_ids, revealed_in = jax.lax.fori_loop(0, evaluations, body, start)
    return MaskedSample(token_ids, revealed_in)
