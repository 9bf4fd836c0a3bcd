"""The loop of all samplers that replace masks by tokens, a few at a time; ``text_samplers`` names them.

An order says which positions a pass reveals, and ``token_ids`` what stands there then. The law of an example is its
own: each has its own key, takes part in passes while it has masks, and its passes are those of a call of its own.
(1)  early stop: a decoder that ends at the first </s> reads nothing after a </s> that has no mask in front of it.
     So the masks behind it become </s> without a pass, and the decoded text is the same.
(2)  the prompt is what was given in front of an example's first mask; its own </s> ends nothing.
(3)  early exit (after SchED, arXiv 2512.02892, with a linear schedule that ends at 0): when a share p of an example's
     masks is revealed and the mean over the others of log p(best) - log p(second) is at least exit_margin (1 - p), all
     of them are revealed, by arg-max. Approximate.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from dualdiff_jax.arrays import Key, PerToken, TokenIds
from dualdiff_jax.sampling.text_network import Rows, TextNetwork, at_chosen, width_of
from dualdiff_jax.sampling.text_options import TextOptions
from dualdiff_jax.sampling.token_draws import draw_tokens, keys_at, second_log_prob, subs_scores

VISIBLE = -1  # in place of the number of a pass: the token was given
UNREAD = -2  # the early stop left the token out

LogProbs = Callable[[], jax.Array]  # the SUBS log-probabilities (b, l, v) of a pass, which are computed when called


class MaskedSample(NamedTuple):
    """A text, without masks unless its passes were limited, and when each of its tokens was revealed."""

    token_ids: TokenIds  # (b, l)
    revealed_in: jax.Array  # (b, l), the number of the last pass that revealed it, from 0; ``VISIBLE`` or ``UNREAD``
    passes: jax.Array  # (b,), evaluations of the network that the example took part in


class Choice(NamedTuple):
    """What a pass does with each position, (b, l) bool."""

    is_chosen: jax.Array  # reveals it
    is_greedy: jax.Array | bool = False  # by arg-max, whatever the temperature
    is_masked_next: jax.Array | bool = False  # masks it after the pass


# (number of the pass, its log-probabilities, token ids (b, l)) -> Choice; an example with masks reveals some
Choose = Callable[[jax.Array, LogProbs, TokenIds], Choice]
# (keys (b,), token ids (b, l), options, mask token) -> Choose
Order = Callable[[Key, TokenIds, TextOptions, int], Choose]


class _State(NamedTuple):
    k: jax.Array  # passes so far
    token_ids: TokenIds
    revealed_in: jax.Array
    passes: jax.Array


def fill_masks(
    order: Order,
    network: TextNetwork,
    rngs: Key,
    token_ids: TokenIds,
    options: TextOptions,
    *,
    mask_token_id: int,
    end_token_id: int,
    begin: MaskedSample | None = None,
    most: jax.Array | None = None,
) -> MaskedSample:
    """Runs passes until no example has a mask.

    Args:
        order: which positions a pass reveals.
        network: evaluated once a pass.
        rngs: (b,), a key for each example.
        token_ids: (b, l), with masks.
        options: of the sampler.
        mask_token_id: the absorbing state, which is never written.
        end_token_id: ``</s>``, which ends a text and which a repetition penalty does not count.
        begin: what an earlier call with the same arguments returned, to go on from there.
        most: passes of this call, after which masks may be left; None for as many as the texts need.
    """
    keys = jax.vmap(jax.random.split)(rngs)
    choose = order(keys[:, 0], token_ids, options, mask_token_id)
    passes = _Passes(network, choose, keys[:, 1], options, token_ids == mask_token_id, mask_token_id, end_token_id)
    begin = begin or _untouched(token_ids)
    first = begin.passes.max()  # an example takes part in every pass up to its last

    def is_unfinished(state: _State) -> jax.Array:
        return (state.token_ids == mask_token_id).any() & (most is None or state.k < first + most)

    end = jax.lax.while_loop(is_unfinished, passes.next, _State(first, *begin))
    return MaskedSample(end.token_ids, end.revealed_in, end.passes)


@dataclasses.dataclass(frozen=True)
class _Passes:
    """All that a pass needs besides the state."""

    network: TextNetwork
    choose: Choose
    rngs: Key  # (b,)
    options: TextOptions
    was_masked: PerToken
    mask_token_id: int
    end_token_id: int

    def next(self, state: _State) -> _State:
        k, token_ids, revealed_in, passes = state
        is_masked = token_ids == self.mask_token_id
        is_live = is_masked.any(axis=1)
        choice, tokens = self._read(state, is_masked)
        is_chosen = choice.is_chosen & is_masked
        token_ids = jnp.where(is_chosen, tokens, token_ids)
        is_masked_next = choice.is_masked_next & self.was_masked & is_live[:, None]
        token_ids = jnp.where(is_masked_next, self.mask_token_id, token_ids)
        revealed_in = jnp.where(is_chosen, k, revealed_in)
        if self.options.early_stop:
            is_unread = _is_unread(token_ids, self.was_masked, self.mask_token_id, self.end_token_id)
            token_ids = jnp.where(is_unread, self.end_token_id, token_ids)
            revealed_in = jnp.where(is_unread, UNREAD, revealed_in)
        return _State(k + 1, token_ids, revealed_in, passes + is_live)

    def _read(self, state: _State, is_masked: PerToken) -> tuple[Choice, TokenIds]:
        """What the pass does with each position, and the tokens (b, l) that it writes where it reveals one."""
        k, token_ids, options = state.k, state.token_ids, self.options
        is_written = self.was_masked & ~is_masked & (token_ids != self.end_token_id)
        rows = self.network.features(token_ids)

        def log_probs_at(rows: Rows) -> jax.Array:
            return subs_scores(self.network.scores(rows), token_ids, is_written, options, self.mask_token_id)

        def draws(log_probs: jax.Array, is_greedy: PerToken, positions: jax.Array) -> TokenIds:
            drawn = draw_tokens(keys_at(self.rngs, k, positions), log_probs, options)
            return jnp.where(is_greedy, log_probs.argmax(axis=-1), drawn).astype(token_ids.dtype)

        log_probs = functools.cache(lambda: log_probs_at(rows))
        choice = self._choose(state, log_probs, is_masked)
        is_greedy, length = jnp.broadcast_to(choice.is_greedy, token_ids.shape), token_ids.shape[1]
        if not options.is_planned:
            return choice, draws(log_probs(), is_greedy, jnp.broadcast_to(jnp.arange(length), token_ids.shape))
        tokens = at_chosen(
            lambda found, positions: draws(log_probs_at(found[0]), found[1], positions),
            (rows, is_greedy),
            choice.is_chosen & is_masked,
            width_of(length, options.steps or 1),
        )
        return choice, tokens

    def _choose(self, state: _State, log_probs: LogProbs, is_masked: PerToken) -> Choice:
        choice = self.choose(state.k, log_probs, state.token_ids)
        if self.options.exit_margin is None:
            return choice
        is_decided = _is_decided(log_probs(), is_masked, self.was_masked, self.options.exit_margin)[:, None]
        chosen, greedy, masked_next = choice
        return Choice(chosen | is_decided, greedy | is_decided, masked_next & ~is_decided)


def _untouched(token_ids: TokenIds) -> MaskedSample:
    return MaskedSample(token_ids, jnp.full(token_ids.shape, VISIBLE, jnp.int32), jnp.zeros(len(token_ids), jnp.int32))


def _is_unread(token_ids: TokenIds, was_masked: PerToken, mask_token_id: int, end_token_id: int) -> PerToken:
    """Equations (1), (2): (b, l), the masks behind a ``</s>`` of the sample that has no mask in front of it."""
    is_masked = token_ids == mask_token_id
    is_behind_prompt = jnp.cumsum(was_masked, axis=1) > 0
    is_before_masks = jnp.cumsum(is_masked, axis=1) == 0
    has_ended = ((token_ids == end_token_id) & is_behind_prompt & is_before_masks).any(axis=1)
    return is_masked & has_ended[:, None]


def _is_decided(
    log_probs: jax.Array, is_masked: PerToken, was_masked: PerToken, exit_margin: jax.Array | float
) -> jax.Array:
    """Equation (3): (b,), whether all that is left of an example is revealed now."""
    left, count = is_masked.sum(axis=1), was_masked.sum(axis=1)
    margins = jnp.where(is_masked, log_probs.max(axis=-1) - second_log_prob(log_probs), 0.0)
    share_left = left / jnp.maximum(count, 1)  # 1 - p
    return margins.sum(axis=1) >= exit_margin * share_left * left
