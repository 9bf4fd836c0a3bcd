"""Which tokens a sampler may write where: kinds of tokens, and by position the kinds that are ruled out."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dualdiff_jax.objectives.masked_diffusion import NEVER
from dualdiff_jax.sampling.masked_sampler import LogitsFunction


class TokenRules(NamedTuple):
    """Kinds are bits, so a token may be of several; none of those of a position is written there."""

    kinds: jax.Array | np.ndarray  # (v,) uint8, of each token of the vocabulary
    ruled_out: jax.Array | np.ndarray  # (b, l) uint8


def with_rules(logits: LogitsFunction, rules: TokenRules | None) -> LogitsFunction:
    """``logits`` where a token that ``rules`` rule out has no probability; None rules out nothing."""
    if rules is None:
        return logits

    def ruled(token_ids: jax.Array) -> jax.Array:
        return jnp.where((rules.ruled_out[..., None] & rules.kinds) != 0, NEVER, logits(token_ids))

    return ruled
