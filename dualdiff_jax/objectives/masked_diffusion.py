"""Masked diffusion on tokens (MDLM, arXiv 2406.07524; absorbing state, log-linear schedule).

With eps = 1e-3 and t in [eps, 1]:
(1)  mask rate        P(token i is masked at t) = (1 - eps) t, independently, for every maskable token
(2)  SUBS             log p(token i = k) = log-softmax of the logits with the mask token's set to -inf;
                      a token that is not masked keeps its value with probability 1
(3)  NELBO            -(1/t) sum over masked i of log p(clean token i): with alpha(t) = 1 - (1 - eps) t the
                      weight -alpha'/(1 - alpha) is exactly 1/t
Only answer tokens are maskable in instruction data; everything is in captions. Masks go in BEFORE the
text encoder reads the tokens, and the network never sees t.

With an anchor the last token is never masked where it is </s>, which all captions end with:
(4)  NELBO >= -log p(x_1 .. x_{l-1} | x_l = </s>) = -log p(x) wherever p(x_l = </s>) = 1
so the bound is of the same text, but smaller: the last token costs nothing, and no other token is predicted from masks
alone, which all look alike (docs/sampling.md). Figures with and without an anchor are not comparable.
"""

import jax
import jax.numpy as jnp

from dualdiff_jax.arrays import Key, PerExample, PerToken, TokenIds
from dualdiff_jax.objectives.time_sampling import T_MIN

PIECE = 64  # tokens whose log-probabilities over the vocabulary are in memory at once
NEVER = -1e30  # a log-probability that no softmax and no draw survives, and that stays finite in a product


def mask_rate(t: PerExample) -> PerExample:
    """Equation (1)."""
    return (1.0 - T_MIN) * t


def keep_probability(t: PerExample) -> PerExample:
    """P(token survives to t), alpha(t)."""
    return 1.0 - mask_rate(t)


def mask_tokens(
    rng: Key, clean_token_ids: TokenIds, t: PerExample, is_answer: PerToken, mask_token_id: int
) -> tuple[TokenIds, PerToken]:
    """Equation (1).

    Args:
        rng: one key.
        clean_token_ids: (b, l).
        t: (b,) in [eps, 1].
        is_answer: (b, l); only these tokens can be masked.
        mask_token_id: the absorbing state.

    Returns:
        noisy_token_ids and is_masked, both (b, l).
    """
    u = jax.random.uniform(rng, clean_token_ids.shape)
    is_masked = is_answer & (u < mask_rate(t)[:, None])
    return jnp.where(is_masked, mask_token_id, clean_token_ids), is_masked


def without_anchor(is_answer: PerToken, clean_token_ids: TokenIds, end_token_id: int | jax.Array) -> PerToken:
    """Equation (4): ``is_answer`` (b, l) without each caption's last token if it is ``</s>``.

    A text with a prompt keeps it, since a sampler does not give the end of an answer.
    """
    is_caption = is_answer.all(axis=-1, keepdims=True)
    is_last = jnp.arange(is_answer.shape[-1]) == is_answer.shape[-1] - 1
    return is_answer & ~(is_caption & is_last & (clean_token_ids == end_token_id))


def is_padding(token_ids: TokenIds, end_token_id: int | jax.Array) -> PerToken:
    """(b, l) -> (b, l): each ``</s>`` that follows another; the first of them ends a text and belongs to it."""
    is_end = token_ids == end_token_id
    return is_end & jnp.pad(is_end[:, :-1], ((0, 0), (1, 0)))


def masked_log_probs(logits: jax.Array, mask_token_id: int) -> jax.Array:
    """(..., v) -> (..., v) fp32: the log-softmax of equation (2) for a token that is masked."""
    is_mask_token = jnp.arange(logits.shape[-1]) == mask_token_id
    return jax.nn.log_softmax(jnp.where(is_mask_token, NEVER, logits.astype(jnp.float32)), axis=-1)


def token_log_probs(logits: jax.Array, token_ids: TokenIds, mask_token_id: int) -> jax.Array:
    """``masked_log_probs`` of one token at each position.

    A long text is cut into pieces, each recomputed in the backward pass, so that (b, l, v) is never held in fp32.

    Args:
        logits: (b, l, v).
        token_ids: (b, l), the tokens to look up.
        mask_token_id: has probability 0.

    Returns:
        (b, l) fp32.
    """

    def piece(logits: jax.Array, token_ids: TokenIds) -> jax.Array:
        is_token = jnp.arange(logits.shape[-1]) == token_ids[..., None]
        return jnp.where(is_token, masked_log_probs(logits, mask_token_id), 0.0).sum(axis=-1)

    length = logits.shape[1]
    if length <= PIECE:
        return piece(logits, token_ids)
    pieces = [slice(start, start + PIECE) for start in range(0, length, PIECE)]
    return jnp.concatenate([jax.checkpoint(piece)(logits[:, at], token_ids[:, at]) for at in pieces], axis=1)


def subs_log_probs(logits: jax.Array, noisy_token_ids: TokenIds, mask_token_id: int) -> jax.Array:
    """Log-probabilities of the clean token at each position; a visible token keeps its value. Equation (2).

    Args:
        logits: (b, l, v).
        noisy_token_ids: (b, l), some of them masks.
        mask_token_id: the absorbing state.

    Returns:
        (b, l, v) fp32.
    """
    is_masked = (noisy_token_ids == mask_token_id)[..., None]
    carried = jnp.where(jax.nn.one_hot(noisy_token_ids, logits.shape[-1], dtype=bool), 0.0, NEVER)
    return jnp.where(is_masked, masked_log_probs(logits, mask_token_id), carried)


def masked_nelbo(
    logits: jax.Array, clean_token_ids: TokenIds, is_masked: PerToken, t: PerExample, mask_token_id: int
) -> PerExample:
    """Equation (3). A clean token that is itself the mask token has no finite NELBO and counts as zero.

    Args:
        logits: (b, l, v).
        clean_token_ids: (b, l).
        is_masked: (b, l), where the network saw a mask.
        t: (b,) in [eps, 1].
        mask_token_id: the absorbing state.

    Returns:
        (b,) nats, summed over the tokens of each example.
    """
    log_p = token_log_probs(logits, clean_token_ids, mask_token_id)
    counted = is_masked & (clean_token_ids != mask_token_id)
    return -jnp.where(counted, log_p, 0.0).sum(axis=-1) / t
