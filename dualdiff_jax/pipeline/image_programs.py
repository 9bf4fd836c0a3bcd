"""The jitted program that draws images; see ``programs`` for its conventions."""

from functools import partial

import jax
import jax.numpy as jnp

from dualdiff_jax.arrays import Latents, SeparatedWeights, TextEmbeddings, Weights
from dualdiff_jax.config import ModelConfig
from dualdiff_jax.models import passes
from dualdiff_jax.models.bundle import bind
from dualdiff_jax.objectives.time_sampling import TIMESTEPS
from dualdiff_jax.sampling.flow_sampler import SamplerState, follow, image_sampler
from dualdiff_jax.sampling.guidance import guided_velocity
from dualdiff_jax.sampling.known_region import KnownRegion


@partial(jax.jit, static_argnames=("config", "sampler", "rule"))
def generate_images(
    config: ModelConfig,
    weights: Weights | SeparatedWeights,
    text: TextEmbeddings,
    null_text: TextEmbeddings | None,
    state: SamplerState,
    sigmas: jax.Array,
    guidance_scale: jax.Array,
    known: KnownRegion | None = None,
    *,
    sampler: str,
    rule: str = "cfg",
) -> tuple[SamplerState, Latents]:
    """From noise to latents, or a piece of that way, one batch (``flow_sampler.follow``).

    Args:
        config: the model's; static.
        weights: of the MMDiT at least.
        text: T5's output for the prompts (b, l, d).
        null_text: T5's output for the prompts that guidance leads away from, (b, l, d), or (1, l, d) for all examples;
            None is no guidance.
        state: of the sampler; latents (b, h, w, c).
        sigmas: (n + 1,) levels of n steps, falling.
        guidance_scale: a scalar; unused without ``null_text``.
        known: what inpainting keeps.
        sampler: a name in ``IMAGE_SAMPLERS``; static.
        rule: a name in ``GUIDANCE_RULES``; static.

    Returns:
        The state at the last of ``sigmas``, and the clean estimate of each step (n, b, h, w, c) in fp32.
    """
    mmdit = bind(config, weights).mmdit
    texts = mmdit.embed_text(text)
    null = None if null_text is None else jnp.broadcast_to(mmdit.embed_text(null_text), texts.shape)

    modulation = passes.modulation_at(mmdit, TIMESTEPS * sigmas)
    positions = mmdit.position_window(*state.latents.shape[1:3])

    def velocity(latents: Latents, k: jax.Array, text: jax.Array) -> Latents:
        return passes.velocity(mmdit, latents, text, modulation.at(k), positions)

    field = guided_velocity(velocity, texts, null, guidance_scale, rule)
    return follow(image_sampler(sampler), field, state, sigmas, None if known is None else known.settle)
