"""Classifier-free guidance for text: logits = null + g (conditional - null) (arXiv 2207.12598; for masked text
2410.18514, where the null text's prompt is masked)."""

import jax
import jax.numpy as jnp

from dualdiff_jax.arrays import TokenIds


def guided_logits(null: jax.Array, conditional: jax.Array, guidance_scale: jax.Array | float) -> jax.Array:
    """(b, l, v) each -> (b, l, v) fp32; a ``guidance_scale`` of 1 gives ``conditional``."""
    return null + guidance_scale * (conditional.astype(jnp.float32) - null)


def without_prompt(token_ids: TokenIds, start: TokenIds, mask_token_id: int) -> TokenIds:
    """Texts in which the prompt, what ``start`` gives in front of its first mask, is masked; all (b, l)."""
    is_prompt = jnp.cumsum(start == mask_token_id, axis=1) == 0
    return jnp.where(is_prompt, mask_token_id, token_ids)
