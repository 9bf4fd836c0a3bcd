"""The jitted program that draws an image and its text together; see ``programs`` for its conventions.

In each of n steps the two conditionals take turns:
(1)  the image takes an Euler step, given the text as it is, masks and all; x - sigma v is its clean estimate
(2)  the text reveals the tokens whose step this is, a 1/n of them on average, given that estimate as if it were clean
The network is trained on clean texts beside noisy images and on clean images beside masked texts. Here each modality
sees the other unfinished, which the training never showed, so the result is a heuristic, no draw from a joint law.
"""

from functools import partial

import jax
import jax.numpy as jnp

from dualdiff_jax.arrays import Key, Latents, SeparatedWeights, TextEmbeddings, TokenIds, Weights
from dualdiff_jax.config import ModelConfig
from dualdiff_jax.models import passes
from dualdiff_jax.models.bundle import bind
from dualdiff_jax.objectives.masked_diffusion import masked_log_probs
from dualdiff_jax.objectives.time_sampling import TIMESTEPS
from dualdiff_jax.sampling.guidance import guided_velocity
from dualdiff_jax.sampling.text_network import at_chosen, width_of
from dualdiff_jax.sampling.text_options import TextOptions
from dualdiff_jax.sampling.token_draws import draw_tokens, keys_at


@partial(jax.jit, static_argnames=("config", "mask_token_id"))
def draw_together(
    config: ModelConfig,
    weights: Weights | SeparatedWeights,
    noise: Latents,
    token_ids: TokenIds,
    null_text: TextEmbeddings | None,
    rngs: Key,
    sigmas: jax.Array,
    guidance_scale: jax.Array,
    options: TextOptions,
    *,
    mask_token_id: int,
) -> tuple[Latents, TokenIds]:
    """From noise and masks to latents and tokens, one batch. Equations (1), (2).

    Args:
        config: the model's; static.
        weights: of the MMDiT and T5.
        noise: (b, h, w, c).
        token_ids: (b, l), with masks.
        null_text: T5's output for the prompt that the image is led away from, (1, l, d); None is no guidance.
        rngs: (b,), a key for each example.
        sigmas: (n + 1,) levels of n steps, falling to 0.
        guidance_scale: a scalar; unused without ``null_text``.
        options: how tokens are drawn.
        mask_token_id: the absorbing state; static.

    Returns:
        Latents (b, h, w, c) in fp32, and tokens (b, l) without masks.
    """
    model, steps = bind(config, weights), sigmas.shape[0] - 1
    mmdit, (batch, length) = model.mmdit, token_ids.shape
    modulation, clean = passes.modulation_at(mmdit, TIMESTEPS * sigmas), passes.clean_modulation(mmdit)
    positions = mmdit.position_window(*noise.shape[1:3])
    null = None if null_text is None else jnp.broadcast_to(null_text, (batch, length, null_text.shape[-1]))
    keys = jax.vmap(jax.random.split)(rngs)
    step_of = jax.vmap(lambda key: jax.random.randint(key, (length,), 0, steps))(keys[:, 0])

    def velocity(latents: Latents, k: jax.Array, text: TextEmbeddings) -> Latents:
        return passes.velocity(mmdit, latents, mmdit.embed_text(text), modulation.at(k), positions)

    def body(k: jax.Array, state: tuple[Latents, TokenIds]) -> tuple[Latents, TokenIds]:
        latents, token_ids = state
        text = model.encode_text(token_ids)
        guided = guided_velocity(velocity, text, null, guidance_scale)(latents, k)
        image = passes.image_side(mmdit, latents - sigmas[k] * guided, batch, clean)
        is_revealed = (token_ids == mask_token_id) & (step_of == k)

        def draws(rows: jax.Array, positions: jax.Array) -> TokenIds:
            log_probs = masked_log_probs(mmdit.text_head(rows), mask_token_id)
            return draw_tokens(keys_at(keys[:, 1], k, positions), log_probs, options).astype(token_ids.dtype)

        drawn = at_chosen(draws, passes.text_stream(mmdit, image, text), is_revealed, width_of(length, steps))
        return latents + (sigmas[k + 1] - sigmas[k]) * guided, jnp.where(is_revealed, drawn, token_ids)

    return jax.lax.fori_loop(0, steps, body, (noise.astype(jnp.float32), token_ids))
