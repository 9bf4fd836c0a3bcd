"""Guidance: the velocity that leads towards a prompt and away from another one (the null prompt).

(1)  cfg            v = v_null + g (v_text - v_null), classifier-free guidance, arXiv 2207.12598
(2)  cfg_zero_star  v = s v_null + g (v_text - s v_null), s = <v_text, v_null> / |v_null|^2 of each example,
                    CFG-Zero*, arXiv 2503.18886; its zero-init of the first steps is in ``guidance_schedule``
Both velocities come from one pass over twice the batch.
"""

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp

from dualdiff_jax.arrays import Latents, TextEmbeddings

VelocityField = Callable[[Latents, jax.Array], Latents]  # (latents (b, h, w, c), k) -> velocity at ``sigmas[k]``

TINY = 1e-8  # keeps s finite where v_null is 0, as in the authors' code


def optimal_scale(text: Latents, null: Latents) -> jax.Array:
    """s of equation (2), which makes s v_null the projection of v_text on v_null: (b, 1, 1, 1) fp32."""
    text, null = text.astype(jnp.float32), null.astype(jnp.float32)
    axes = tuple(range(1, text.ndim))
    return jnp.sum(text * null, axes, keepdims=True) / (jnp.sum(null * null, axes, keepdims=True) + TINY)


def _classifier_free(text: Latents, null: Latents, scale: jax.Array | float) -> Latents:
    return null + scale * (text - null)


def _zero_star(text: Latents, null: Latents, scale: jax.Array | float) -> Latents:
    return _classifier_free(text, optimal_scale(text, null) * null, scale)


# The equations by the names of ``SamplingConfig.guidance_rule``: (v_text, v_null, g) -> v.
GUIDANCE_RULES: Mapping[str, Callable[[Latents, Latents, jax.Array | float], Latents]] = {
    "cfg": _classifier_free,
    "cfg_zero_star": _zero_star,
}


def guided_velocity(
    velocity: Callable[[Latents, jax.Array, TextEmbeddings], Latents],
    text_embeddings: TextEmbeddings,
    null_text_embeddings: TextEmbeddings | None,
    guidance_scale: jax.Array | float,
    rule: str = "cfg",
) -> VelocityField:
    """The velocity field that a sampler follows.

    Args:
        velocity: (latents (n, h, w, c), k, text embeddings (n, l, d)) -> velocity (n, h, w, c) at ``sigmas[k]``.
        text_embeddings: (b, l, d), of the prompts.
        null_text_embeddings: (b, l, d), of the prompts to lead away from; None is no guidance, at half the cost.
        guidance_scale: g; 1 gives v_text.
        rule: a name in ``GUIDANCE_RULES``.

    Returns:
        (latents (b, h, w, c), k) -> velocity (b, h, w, c).
    """
    if null_text_embeddings is None:
        return lambda latents, k: velocity(latents, k, text_embeddings)
    both, combine = jnp.concatenate([null_text_embeddings, text_embeddings]), GUIDANCE_RULES[rule]

    def field(latents: Latents, k: jax.Array) -> Latents:
        null, text = jnp.split(velocity(jnp.concatenate([latents, latents]), k, both), 2)
        return combine(text, null, guidance_scale)

    return field
