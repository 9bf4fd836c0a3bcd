"""Scaled dot-product attention, full and unmasked."""

import jax
import jax.numpy as jnp


def attention(q: jax.Array, k: jax.Array, v: jax.Array, *, scale: float, bias: jax.Array | None = None) -> jax.Array:
    """softmax(scale * q k + bias) v, with the softmax in fp32.

    q, k, v: (b, s, h, k); bias, where given, broadcasts to (b, h, s, s). Returns (b, s, h, k) in q's dtype.
    No mask: padding tokens are ordinary tokens everywhere in this model.
    """
    with jax.named_scope("attention"):
        scores = scale * jnp.einsum("bqhk,bshk->bhqs", q, k, preferred_element_type=jnp.float32)
        if bias is not None:
            scores = scores + bias
        weights = jax.nn.softmax(scores, axis=-1).astype(q.dtype)
        return jnp.einsum("bhqs,bshk->bqhk", weights, v)
