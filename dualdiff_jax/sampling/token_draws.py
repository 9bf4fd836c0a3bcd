"""From scores of tokens to a token at each position, (b, l, v) -> (b, l), in fp32.

(1)  repetition penalty (CTRL, arXiv 1909.05858, section 4.1): a token that is written already has its score s replaced
     by s / penalty where s > 0, and by s penalty elsewhere
(2)  SUBS: log p = log-softmax of the scores without the mask token's. All orders rank positions by this p.
(3)  temperature T: a draw has q proportional to p^(1/T); T = 0 is the arg-max
(4)  nucleus (arXiv 1904.09751, section 3.1): q is kept where q >= c, and renormalised, with the largest c for which
     these tokens have probability top_p together; so tokens of equal probability stay or go together
(5)  a draw is the arg-max of log q + Gumbel noise. Noise from 23 random bits has no value above 16, so improbable
     tokens are drawn too rarely, as at a lower temperature (arXiv 2409.02908, section 4); JAX's mode "high" reaches 32.
"""

import jax
import jax.numpy as jnp

from dualdiff_jax.arrays import Key, PerToken, TokenIds
from dualdiff_jax.objectives.masked_diffusion import NEVER, masked_log_probs
from dualdiff_jax.sampling.text_options import TextOptions

FLOAT32_BITS = 31  # of a number that is not negative; as an integer, they have the same order


def penalized(logits: jax.Array, token_ids: TokenIds, is_written: PerToken, penalty: jax.Array | float) -> jax.Array:
    """Equation (1).

    Args:
        logits: (b, n, v), at n of the positions.
        token_ids: (b, l).
        is_written: (b, l), which of them count.
        penalty: at least 1, which is none.

    Returns:
        (b, n, v) fp32; the penalty holds at every position of an example.
    """
    scores, vocabulary = logits.astype(jnp.float32), logits.shape[-1]

    def seen(token_ids: jax.Array, is_written: jax.Array) -> jax.Array:
        return jnp.zeros(vocabulary, bool).at[jnp.where(is_written, token_ids, vocabulary)].set(True, mode="drop")

    lowered = jnp.where(scores > 0.0, scores / penalty, scores * penalty)
    return jnp.where(jax.vmap(seen)(token_ids, is_written)[:, None], lowered, scores)


def nucleus(log_probs: jax.Array, top_p: jax.Array | float) -> jax.Array:
    """Equation (4): (..., v) normalised log-probabilities -> (..., v), ``NEVER`` where a token is left out.

    The largest c is found bit by bit, without sorting a vocabulary.
    """
    probs = jnp.exp(log_probs)

    def add_bit(i: jax.Array, cutoff: jax.Array) -> jax.Array:
        tried = cutoff | (1 << (FLOAT32_BITS - 1 - i))
        is_kept = probs >= jax.lax.bitcast_convert_type(tried, jnp.float32)[..., None]
        return jnp.where(jnp.where(is_kept, probs, 0.0).sum(axis=-1) >= top_p, tried, cutoff)

    cutoff = jax.lax.fori_loop(0, FLOAT32_BITS, add_bit, jnp.zeros(probs.shape[:-1], jnp.int32))
    return jnp.where(probs >= jax.lax.bitcast_convert_type(cutoff, jnp.float32)[..., None], log_probs, NEVER)


def draw_tokens(rngs: Key, log_probs: jax.Array, options: TextOptions) -> jax.Array:
    """Equations (3) to (5), or the arg-max where the options' order takes that.

    Args:
        rngs: (b, l), a key for each position.
        log_probs: (b, l, v), of equation (2).
        options: their order, ``temperature`` and ``top_p``.

    Returns:
        (b, l) token ids.
    """
    best = log_probs.argmax(axis=-1)
    if not options.draws:
        return best
    temperature = 1.0 if options.temperature is None else options.temperature
    scores = log_probs
    if options.temperature is not None:
        scores = (scores - scores.max(axis=-1, keepdims=True)) / jnp.where(temperature > 0.0, temperature, 1.0)
    if options.top_p is not None:
        scores = nucleus(jax.nn.log_softmax(scores, axis=-1), options.top_p)
    drawn = jax.vmap(jax.vmap(lambda key, p: jax.random.categorical(key, p, mode="high")))(rngs, scores)
    return jnp.where(temperature > 0.0, drawn, best)


def keys_at(rngs: Key, k: jax.Array | int, positions: jax.Array) -> Key:
    """Keys (b,) of examples, the number of a pass and positions (b, n) -> keys (b, n), whatever else is computed."""
    of_pass = jax.vmap(jax.random.fold_in, in_axes=(0, None))(rngs, k)
    return jax.vmap(jax.vmap(jax.random.fold_in, in_axes=(None, 0)))(of_pass, positions)


def subs_scores(
    logits: jax.Array, token_ids: TokenIds, is_written: PerToken, options: TextOptions, mask_token_id: int
) -> jax.Array:
    """Equations (1) and (2): log-probabilities (b, n, v) fp32, by which positions are ranked.

    Args:
        logits: (b, n, v), at n of the positions.
        token_ids: (b, l).
        is_written: (b, l), the tokens that a ``repetition_penalty`` counts.
        options: their ``repetition_penalty``.
        mask_token_id: has probability 0.
    """
    if options.repetition_penalty is not None:
        logits = penalized(logits, token_ids, is_written, options.repetition_penalty)
    return masked_log_probs(logits, mask_token_id)


def second_log_prob(log_probs: jax.Array) -> jax.Array:
    """(..., v) -> (...), of the second most probable token."""
    is_best = jnp.arange(log_probs.shape[-1]) == log_probs.argmax(axis=-1, keepdims=True)
    return jnp.where(is_best, NEVER, log_probs).max(axis=-1)
