"""The jitted program that reads images; see ``programs`` for its conventions."""

from functools import partial

import jax
import jax.numpy as jnp

from dualdiff_jax.arrays import Images, Key, Latents, SeparatedWeights, TokenIds, Weights
from dualdiff_jax.config import ModelConfig
from dualdiff_jax.models import passes
from dualdiff_jax.models.bundle import DualDiffusionModel, bind
from dualdiff_jax.models.mmdit import MMDiT
from dualdiff_jax.sampling.masked_sampler import MaskedSample
from dualdiff_jax.sampling.text_guidance import guided_logits, without_prompt
from dualdiff_jax.sampling.text_network import TextNetwork
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
    network = with_rules(_guided(model, latents, token_ids, options, mask_token_id), rules)
    return sample_text(
        network,
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
) -> TextNetwork:
    """The network of the sampler: the logits given ``latents``, guided where ``options`` say so.

    Both halves of a guided pass share what they have in common: the null text is in one batch with the text; without
    an image, which has a sequence of another length, T5 reads the text once for both.
    """
    mmdit, scale, count = model.mmdit, options.guidance_scale, len(latents)
    clean = passes.clean_modulation(mmdit)

    if scale is not None and options.guidance_null == "text":
        twice = passes.image_side(mmdit, jnp.concatenate([latents, latents]), 2 * count, clean)

        def against_no_prompt(token_ids: TokenIds) -> tuple[jax.Array, ...]:
            both = jnp.concatenate([without_prompt(token_ids, start, mask_token_id), token_ids])
            return tuple(jnp.split(passes.text_stream(mmdit, twice, model.encode_text(both)), 2))

        return TextNetwork(against_no_prompt, partial(_guided_scores, mmdit, scale))
    image = passes.image_side(mmdit, latents, count, clean)
    if scale is None:
        return TextNetwork(
            lambda token_ids: passes.text_stream(mmdit, image, model.encode_text(token_ids)), mmdit.text_head
        )
    no_image = passes.image_side(mmdit, None, count, clean)

    def against_no_image(token_ids: TokenIds) -> tuple[jax.Array, ...]:
        text = model.encode_text(token_ids)
        return tuple(passes.text_stream(mmdit, side, text) for side in (no_image, image))

    return TextNetwork(against_no_image, partial(_guided_scores, mmdit, scale))


def _guided_scores(mmdit: MMDiT, scale: jax.Array | float, rows: tuple[jax.Array, jax.Array]) -> jax.Array:
    """Guided scores; one product with the head's weights serves the null and the conditional text."""
    null, conditional = jnp.split(mmdit.text_head(jnp.concatenate(rows)), 2)
    return guided_logits(null, conditional, scale)
