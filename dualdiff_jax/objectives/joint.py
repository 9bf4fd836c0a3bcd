"""The joint objective (arXiv 2501.00289, section 3.3).

(1)  L = w * mean over image batch of the flow loss + lambda * sum over text batch of the NELBO / N,  w = 1
(2)  N = b * l                 ``all_positions``, the released normalization
     N = number of answer tokens  ``answer_tokens``
The two terms have batches of their own: noisy latents beside clean text (a caption is replaced by the
empty one with probability 0.1), and masked text beside clean latents at timestep 0. One modality is
corrupted at a time, never both. A term of weight 0 is not computed: aligning the mask's embedding needs the text
alone (lambda = 1, w = 0), tuning on images the images alone.

``corrupt`` draws everything random; ``joint_loss`` is then a function of the network alone. So a batch
can be cut into parts after it was corrupted, and their losses and gradients add up to the whole's.

Captions are clean, so their embeddings may have been computed ahead; then the text encoder reads the masked texts
alone. Both batches still make one pass of the model.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from dualdiff_jax.arrays import Denoiser, Images, Key, Latents, PerExample, PerToken, TextEmbeddings, TokenIds
from dualdiff_jax.config import ObjectiveConfig
from dualdiff_jax.objectives.flow_matching import add_noise, flow_loss, velocity_target
from dualdiff_jax.objectives.latents import clean_latents
from dualdiff_jax.objectives.masked_diffusion import mask_tokens, masked_nelbo
from dualdiff_jax.objectives.time_sampling import TIMESTEPS, sample_sigma, sample_t

CLOCK_BINS = 4  # parts of [0, 1] that losses are told by


class ImageExamples(NamedTuple):
    """Latents to generate, from text that is clean."""

    latents: Latents  # (b, h, w, c), clean
    token_ids: TokenIds  # (b, l)
    text_embeddings: TextEmbeddings | None = None  # (b, l, d), those of token_ids, where they are known


class TextExamples(NamedTuple):
    """Tokens to predict, from latents that are clean, or from none: text without images."""

    latents: Latents | None  # (b, h, w, c)
    token_ids: TokenIds  # (b, l), clean
    is_answer: PerToken  # (b, l), True where a token may be masked


class Corrupted(NamedTuple):
    """A step's two batches after the draws; every field has the batch as its leading dim."""

    noisy_latents: Latents
    velocity: Latents  # the target
    sigma: PerExample
    image_token_ids: TokenIds
    image_share: PerExample  # 1 / b: an example's share in the image loss
    text_latents: Latents | None
    clean_token_ids: TokenIds
    noisy_token_ids: TokenIds
    is_masked: PerToken
    t: PerExample
    text_share: PerExample  # 1 / N: an example's share in the text loss
    image_text_embeddings: TextEmbeddings | None = None  # of image_token_ids, where they are known


def encode_and_corrupt(
    encode: Callable[[Images, Key], Latents],
    batch: Any,
    rng: Key,
    config: ObjectiveConfig,
    *,
    null_token_ids: jax.Array,
    mask_token_id: int,
    null_text_embeddings: jax.Array | None = None,
) -> Corrupted:
    """``corrupt`` of a batch as the data gives it: ``image`` and ``text``, each with ``token_ids`` and images.

    Images come as ``clean_latents`` reads them, ``encode`` makes latents of pixels; ``image`` may have
    ``text_embeddings``, and ``text`` also has ``is_answer``.
    """
    rng_image, rng_text, rng_corrupt = jax.random.split(rng, 3)
    return corrupt(
        rng_corrupt,
        ImageExamples(
            clean_latents(batch.image, encode, rng_image),
            batch.image["token_ids"],
            batch.image.get("text_embeddings"),
        ),
        TextExamples(
            clean_latents(batch.text, encode, rng_text),
            batch.text["token_ids"],
            batch.text["is_answer"],
        ),
        config,
        null_token_ids=null_token_ids,
        mask_token_id=mask_token_id,
        null_text_embeddings=null_text_embeddings,
    )


def corrupt(
    rng: Key,
    image: ImageExamples,
    text: TextExamples,
    config: ObjectiveConfig,
    *,
    null_token_ids: jax.Array,
    mask_token_id: int,
    null_text_embeddings: jax.Array | None = None,
) -> Corrupted:
    """All draws of one step. ``null_token_ids`` (l,) is the empty caption at the captions' length.

    ``null_text_embeddings`` (l, d) are needed where the captions' are known and some captions are dropped.
    """
    rng_noise, rng_sigma, rng_drop, rng_t, rng_mask = jax.random.split(rng, 5)
    b_image, b_text = image.latents.shape[0], text.token_ids.shape[0]
    noise = jax.random.normal(rng_noise, image.latents.shape)
    sigma = sample_sigma(rng_sigma, b_image, config.sigma_distribution)
    dropped = jax.random.bernoulli(rng_drop, config.caption_dropout, (b_image, 1))
    t = sample_t(rng_t, b_text)
    noisy_token_ids, is_masked = mask_tokens(rng_mask, text.token_ids, t, text.is_answer, mask_token_id)
    embeddings = image.text_embeddings
    if embeddings is not None and config.caption_dropout:
        embeddings = jnp.where(dropped[..., None], null_text_embeddings.astype(embeddings.dtype), embeddings)
    every_token = config.text_normalization == "all_positions"
    tokens = text.token_ids.size if every_token else jnp.maximum(text.is_answer.sum(), 1)
    return Corrupted(
        noisy_latents=add_noise(image.latents, noise, sigma),
        velocity=velocity_target(image.latents, noise),
        sigma=sigma,
        image_token_ids=jnp.where(dropped, null_token_ids, image.token_ids),
        image_share=jnp.full((b_image,), 1.0 / b_image),
        text_latents=text.latents,
        clean_token_ids=text.token_ids,
        noisy_token_ids=noisy_token_ids,
        is_masked=is_masked,
        t=t,
        text_share=jnp.full((b_text,), 1.0 / tokens),
        image_text_embeddings=embeddings,
    )


def joint_loss(
    denoiser: Denoiser, batch: Corrupted, config: ObjectiveConfig, *, mask_token_id: int
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Equation (1), and what it is made of, by name: each entry adds up over parts of a batch, like the loss.

    ``image_loss``, and ``text_loss`` before lambda, of the terms that count; both also by the clock, as the
    ``by_clock`` of their examples: ``image_loss_by_sigma`` and ``text_loss_by_t``.
    """
    velocity, logits = _predict(denoiser, batch, config)
    terms, told = [], {}
    if velocity is not None:
        image_losses = flow_loss(velocity, batch.velocity, batch.sigma, config.image_weighting)
        told["image_loss"] = (batch.image_share * image_losses).sum()
        told["image_loss_by_sigma"] = by_clock(batch.image_share * image_losses, batch.sigma)
        terms.append(config.image_weight * told["image_loss"])
    if logits is not None:
        nelbo = masked_nelbo(logits, batch.clean_token_ids, batch.is_masked, batch.t, mask_token_id)
        told["text_loss"] = (batch.text_share * nelbo).sum()
        told["text_loss_by_t"] = by_clock(batch.text_share * nelbo, batch.t)
        terms.append(config.text_weight * told["text_loss"])
    loss = terms[0] if len(terms) == 1 else terms[0] + terms[1]
    return loss, {"loss": loss, **told}


def by_clock(losses: PerExample, clock: PerExample) -> jax.Array:
    """(2, CLOCK_BINS): the sum of the losses, and the number of examples, in equal parts of the clock's [0, 1]."""
    index = jnp.minimum((CLOCK_BINS * clock).astype(jnp.int32), CLOCK_BINS - 1)
    inside = index[:, None] == jnp.arange(CLOCK_BINS)
    return jnp.stack([jnp.where(inside, losses[:, None], 0.0).sum(0), inside.sum(0).astype(losses.dtype)])


def _predict(denoiser: Denoiser, batch: Corrupted, config: ObjectiveConfig) -> tuple[Latents | None, jax.Array | None]:
    """(velocity of the image batch, logits of the text batch), from one pass of the model or from two.

    One pass needs both batches in one shape, so text without images takes two. It wastes the unused head of each
    half, but runs every matrix once over twice the tokens. A half without weight is None.
    """
    timestep = TIMESTEPS * batch.sigma
    clean = jnp.zeros_like(batch.t)
    known = batch.image_text_embeddings
    is_joint = config.single_forward and config.image_weight and config.text_weight
    if not is_joint or batch.text_latents is None:
        velocity = logits = None
        if config.image_weight:
            text = (batch.image_token_ids,) if known is None else (None, known)
            velocity = denoiser(batch.noisy_latents, timestep, *text).velocity
        if config.text_weight:
            logits = denoiser(batch.text_latents, clean, batch.noisy_token_ids).logits
        return velocity, logits
    both = jnp.concatenate([batch.image_token_ids, batch.noisy_token_ids])
    output = denoiser(
        jnp.concatenate([batch.noisy_latents, batch.text_latents]),
        jnp.concatenate([timestep, clean]),
        *((both,) if known is None else (batch.noisy_token_ids, known)),
    )
    b_image = batch.sigma.shape[0]
    return output.velocity[:b_image], output.logits[b_image:]
