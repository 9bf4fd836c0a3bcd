"""The jitted program that reads images; see ``programs`` for its conventions."""

from functools import partial

import jax
import jax.numpy as jnp

from dualdiff_jax.arrays import Images, Key, Latents, SeparatedWeights, TokenIds, Weights
from dualdiff_jax.config import ModelConfig
from dualdiff_jax.models import passes
from dualdiff_jax.models.bundle import DualDiffusionModel, bind
from dualdiff_jax.sampling.masked_sampler import LogitsFunction, MaskedSample
from dualdiff_jax.sampling.text_guidance import guided_logits, without_prompt
from dualdiff_jax.sampling.text_options import TextOptions
from dualdiff_jax.sampling.text_samplers import sample_text
from dualdiff_jax.sampling.token_rules import TokenRules, with_rules


@partial(jax.jit, static_argnames=("config", "mask_token_id", "end_token_id"))
def generate_text(
    config: ModelConfig,
    weights: Weights | SeparatedWeights,
    images: Images,
    token_ids: TokenIds,
    rngs: Key,
    options: TextOptions,
    rules: TokenRules | None = None,
    begin: MaskedSample | None = None,
    most: jax.Array | None = None,
    *,
    mask_token_id: int,
    end_token_id: int,
) -> MaskedSample:
    """From masks to tokens, one batch, given clean images.

    Args:
        config: the model's; static.
        weights: of all three networks.
        images: (b, h, w, 3) in [-1, 1]; each example's latents are a draw from its posterior.
        token_ids: (b, l), prompts and masks.
        rngs: (b,), a key for each example.
        options: of the sampler; its numbers are traced, its choices static.
        rules: which tokens may be written where.
        begin: what a call with the same arguments returned after ``most`` passes; this one goes on from there.
        most: passes of this call; None for as many as the texts need.
        mask_token_id: the absorbing state; static.
        end_token_id: ``</s>``; static.
    """
    model, keys = bind(config, weights), jax.vmap(jax.random.split)(rngs)
    latents = model.autoencoder.encode(images, keys[:, 0])
    logits = with_rules(_guided(model, latents, token_ids, options, mask_token_id), rules)
    return sample_text(
        logits,
        keys[:, 1],
        token_ids,
        options,
        mask_token_id=mask_token_id,
        end_token_id=end_token_id,
        begin=begin,
        most=most,
    )


def _guided(
    model: DualDiffusionModel, latents: Latents, start: TokenIds, options: TextOptions, mask_token_id: int
) -> LogitsFunction:
    """The network of the sampler: the logits given ``latents``, guided where ``options`` say so.

    Both halves of a guided pass share what they have in common: the null text is in one batch with the text; without
    an image, which has a sequence of another length, T5 reads the text once for both.
    """
    mmdit, scale, count = model.mmdit, options.guidance_scale, len(latents)
    clean = passes.clean_modulation(mmdit)
    if scale is not None and options.guidance_null == "text":
        twice = passes.image_side(mmdit, jnp.concatenate([latents, latents]), 2 * count, clean)

        def against_no_prompt(token_ids: TokenIds) -> jax.Array:
            both = jnp.concatenate([without_prompt(token_ids, start, mask_token_id), token_ids])
            null, conditional = jnp.split(passes.logits(mmdit, twice, model.encode_text(both)), 2)
            return guided_logits(null, conditional, scale)

        return against_no_prompt
    image = passes.image_side(mmdit, latents, count, clean)
    if scale is None:
        return lambda token_ids: passes.logits(mmdit, image, model.encode_text(token_ids))
    no_image = passes.image_side(mmdit, None, count, clean)

    def against_no_image(token_ids: TokenIds) -> jax.Array:
        text = model.encode_text(token_ids)
        return guided_logits(passes.logits(mmdit, no_image, text), passes.logits(mmdit, image, text), scale)

    return against_no_image
