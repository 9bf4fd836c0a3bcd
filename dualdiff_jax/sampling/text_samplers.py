"""The samplers of text by name: the orders in which tokens appear."""

from collections.abc import Mapping

import jax

from dualdiff_jax.arrays import Key, TokenIds
from dualdiff_jax.sampling.ancestral_order import ancestral
from dualdiff_jax.sampling.certainty import confidence, entropy_bound, threshold
from dualdiff_jax.sampling.masked_sampler import MaskedSample, Order, fill_masks
from dualdiff_jax.sampling.text_network import TextNetwork
from dualdiff_jax.sampling.text_options import TextOptions

# By the names of ``SamplingConfig.text_order``; the options that each knows are in ``text_options.OWN_OPTIONS``.
TEXT_SAMPLERS: Mapping[str, Order] = {
    "ancestral": ancestral,
    "confidence": confidence,
    "threshold": threshold,
    "entropy_bound": entropy_bound,
}


def sample_text(
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
    """Replaces the masks in a batch of texts by tokens.

    Args:
        network: gives scores of the clean token at each position.
        rngs: (b,), a key for each example, so that an example does not depend on its neighbours.
        token_ids: (b, l), with masks.
        options: of the sampler; their ``order`` is a name in ``TEXT_SAMPLERS``.
        mask_token_id: the absorbing state, which is never written.
        end_token_id: ``</s>``.
        begin: as in ``fill_masks``, like ``most``.
        most: passes of this call.
    """
    return fill_masks(
        TEXT_SAMPLERS[options.order],
        network,
        rngs,
        token_ids,
        options,
        mask_token_id=mask_token_id,
        end_token_id=end_token_id,
        begin=begin,
        most=most,
    )
