"""The samplers of text by name: the orders in which tokens appear."""

from collections.abc import Mapping
from typing import Protocol

from dualdiff_jax.arrays import Key, TokenIds
from dualdiff_jax.sampling.masked_sampler import LogitsFunction, MaskedSample, ancestral, confidence


class TextSampler(Protocol):
    """Replaces the masks in ``token_ids`` (b, l) by tokens.

    ``rngs`` (b,) has a key for each example, so that an example does not depend on its neighbours.
    """

    def __call__(
        self, logits: LogitsFunction, rngs: Key, token_ids: TokenIds, *, mask_token_id: int, steps: int
    ) -> MaskedSample: ...


def _confidence(
    logits: LogitsFunction, rngs: Key, token_ids: TokenIds, *, mask_token_id: int, steps: int
) -> MaskedSample:
    """``confidence`` as a ``TextSampler``: it is deterministic, so it needs no keys."""
    return confidence(logits, token_ids, mask_token_id=mask_token_id, steps=steps)


# The orders in which tokens appear, by the names of ``SamplingConfig.text_order``.
TEXT_SAMPLERS: Mapping[str, TextSampler] = {"ancestral": ancestral, "confidence": _confidence}


def text_sampler(order: str) -> TextSampler:
    """The sampler named ``order``. Raises ``ValueError`` that names the choices where there is none."""
    if order not in TEXT_SAMPLERS:
        raise ValueError(f"order is {order!r}; give one of {', '.join(TEXT_SAMPLERS)}")
    return TEXT_SAMPLERS[order]
