"""Which tokens a sampler may write where: kinds of tokens, and by position the kinds that are ruled out."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dualdiff_jax.arrays import TokenIds
from dualdiff_jax.objectives.masked_diffusion import NEVER
from dualdiff_jax.sampling.text_network import Rows, TextNetwork


class TokenRules(NamedTuple):
    """Kinds are bits, so a token may be of several; none of those of a position is written there."""

    kinds: jax.Array | np.ndarray  # (v,) uint8, of each token of the vocabulary
    ruled_out: jax.Array | np.ndarray  # (b, l) uint8


def with_rules(network: TextNetwork, rules: TokenRules | None) -> TextNetwork:
    """``network`` where a token that ``rules`` rule out has no probability; None rules out nothing."""
    if rules is None:
        return network

    def features(token_ids: TokenIds) -> Rows:
        return network.features(token_ids), jnp.asarray(rules.ruled_out)

    def scores(rows: Rows) -> jax.Array:
        of_network, ruled_out = rows
        return jnp.where((ruled_out[..., None] & rules.kinds) != 0, NEVER, network.scores(of_network))

    return TextNetwork(features, scores)
