"""The joint objective (arXiv 2501.00289, section 3.3).

(1)  L = w * mean over image batch of the flow loss + lambda * sum over text batch of the NELBO / N,  w = 1
(2)  N = b * l                 ``all_positions``, the released normalization
     N = number of answer tokens  ``answer_tokens``; with an anchor, of those that may be masked
The two terms have batches of their own: noisy latents with clean text (a caption is replaced by the empty one with
probability 0.1), and masked text with clean latents at timestep 0. One modality is corrupted at a time, never both.
A term of weight 0 is not computed, and its batch is not needed: aligning the mask's embedding takes the text alone
(lambda = 1, w = 0), tuning on images the images alone.

``corrupt`` makes every random draw; ``loss`` is then a function of the network alone. A batch can therefore be cut
into parts after it was corrupted, and the losses and gradients of the parts add up to those of the whole.

Captions are clean, so their embeddings may be known already; then the text encoder reads the masked texts alone. Both
batches still make one pass of the model.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from dualdiff_jax.arrays import (
    Denoiser,
    DenoiserOutput,
    Images,
    Key,
    Latents,
    PerExample,
    PerToken,
    TextEmbeddings,
    TokenIds,
)
from dualdiff_jax.config import ObjectiveConfig
from dualdiff_jax.objectives.flow_matching import add_noise, flow_loss, velocity_target
from dualdiff_jax.objectives.latents import clean_latents
from dualdiff_jax.objectives.masked_diffusion import is_padding, mask_tokens, masked_nelbo, without_anchor
from dualdiff_jax.objectives.time_sampling import TIMESTEPS, sample_sigma, sample_t

Number = jax.Array | int
CLOCK_BINS = 4  # equal parts of the clock's [0, 1] by which losses are reported

# Name -> the denominator of the text loss, equation (2), of the answer positions (b, l).
NORMALIZATIONS: Mapping[str, Callable[[PerToken], jax.Array | int]] = {
    "all_positions": lambda is_answer: is_answer.size,
    "answer_tokens": lambda is_answer: jnp.maximum(is_answer.sum(), 1),
}


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


class CorruptedImages(NamedTuple):
    """The image batch after the draws."""

    noisy_latents: Latents  # (b, h, w, c)
    velocity: Latents  # (b, h, w, c), the target
    sigma: PerExample  # (b,)
    token_ids: TokenIds  # (b, l), clean or the empty caption's
    share: PerExample  # (b,), 1 / b: an example's share in the image loss
    text_embeddings: TextEmbeddings | None = None  # (b, l, d), of token_ids, where they are known


class CorruptedTexts(NamedTuple):
    """The text batch after the draws."""

    latents: Latents | None  # (b, h, w, c), clean
    clean_token_ids: TokenIds  # (b, l)
    noisy_token_ids: TokenIds  # (b, l)
    is_masked: PerToken  # (b, l)
    t: PerExample  # (b,)
    share: PerExample  # (b,), 1 / N: an example's share in the text loss
    written_share: PerExample  # (b,), 1 / number of answer tokens that are no padding


class Corrupted(NamedTuple):
    """A step's two batches after the draws, all fields with the batch as leading dim; None for a stream left out."""

    image: CorruptedImages | None
    text: CorruptedTexts | None


class Objective:
    """Equation (1), with all that stays fixed while a run trains.

    Args:
        config: weights and choices by name.
        null_token_ids: (l,) the empty caption at the captions' length, which is all ``</s>``.
        mask_token_id: the absorbing state.
        null_text_embeddings: (l, d) T5's output for ``null_token_ids``; needed where the captions' embeddings are
            known and some captions are dropped.

    Raises:
        ValueError: ``config`` names a normalization that does not exist.
    """

    def __init__(
        self,
        config: ObjectiveConfig,
        *,
        null_token_ids: jax.typing.ArrayLike,
        mask_token_id: int,
        null_text_embeddings: jax.typing.ArrayLike | None = None,
    ):
        if config.text_normalization not in NORMALIZATIONS:
            raise ValueError(f"text_normalization is {config.text_normalization!r}; give one of {list(NORMALIZATIONS)}")
        self.config = config
        self.mask_token_id = mask_token_id
        self._null_token_ids = null_token_ids
        self._null_text_embeddings = null_text_embeddings

    def corrupt_batch(
        self, rng: Key, batch: Any, encode: Callable[[Images, Key], Latents], *, part: Number = 0, parts: int = 1
    ) -> Corrupted:
        """``corrupt`` of a batch as the data gives it.

        Args:
            rng: one key; it is split by purpose.
            batch: has ``image`` and ``text`` (``data/batch.py``), each arrays by name: ``token_ids``, and images as
                ``clean_latents`` reads them; ``image`` may have ``text_embeddings``, ``text`` has ``is_answer``. None
                for a stream that is not read.
            encode: makes latents of images; the key draws from the posterior.
            part: the number of this batch among those that cover the texts' clock together (``sample_t``).
            parts: how many these are.
        """
        rng_image, rng_text, rng_corrupt = jax.random.split(rng, 3)
        image = text = None
        if batch.image is not None:
            latents = clean_latents(batch.image, encode, rng_image)
            if latents is None:
                raise ValueError("an image batch needs images or latents")
            image = ImageExamples(latents, batch.image["token_ids"], batch.image.get("text_embeddings"))
        if batch.text is not None:
            latents = clean_latents(batch.text, encode, rng_text)
            text = TextExamples(latents, batch.text["token_ids"], batch.text["is_answer"])
        return self.corrupt(rng_corrupt, image, text, part=part, parts=parts)

    def corrupt(
        self, rng: Key, image: ImageExamples | None, text: TextExamples | None, *, part: Number = 0, parts: int = 1
    ) -> Corrupted:
        """Makes all draws of one step; None for a stream that has no weight."""
        rng_noise, rng_sigma, rng_drop, rng_t, rng_mask = jax.random.split(rng, 5)
        images = texts = None
        if image is not None:
            images = self._corrupt_images(rng_noise, rng_sigma, rng_drop, image)
        if text is not None:
            texts = self._corrupt_texts(sample_t(rng_t, len(text.token_ids), part, parts), rng_mask, text)
        return Corrupted(images, texts)

    def _corrupt_images(self, rng_noise: Key, rng_sigma: Key, rng_drop: Key, image: ImageExamples) -> CorruptedImages:
        batch, dropout = image.latents.shape[0], self.config.caption_dropout
        noise = jax.random.normal(rng_noise, image.latents.shape)
        sigma = sample_sigma(rng_sigma, batch, self.config.sigma_distribution)
        is_dropped = jax.random.bernoulli(rng_drop, dropout, (batch, 1))
        embeddings = image.text_embeddings
        if embeddings is not None and dropout:
            if self._null_text_embeddings is None:
                raise ValueError("captions with known embeddings can be dropped only with null_text_embeddings")
            null = jnp.asarray(self._null_text_embeddings).astype(embeddings.dtype)
            embeddings = jnp.where(is_dropped[..., None], null, embeddings)
        return CorruptedImages(
            noisy_latents=add_noise(image.latents, noise, sigma),
            velocity=velocity_target(image.latents, noise),
            sigma=sigma,
            token_ids=jnp.where(is_dropped, jnp.asarray(self._null_token_ids), image.token_ids),
            share=jnp.full((batch,), 1.0 / batch),
            text_embeddings=embeddings,
        )

    def _corrupt_texts(self, t: PerExample, rng_mask: Key, text: TextExamples) -> CorruptedTexts:
        batch, is_answer = text.token_ids.shape[0], text.is_answer
        end_token_id = jnp.asarray(self._null_token_ids)[-1]
        written = is_answer & ~is_padding(text.token_ids, end_token_id)
        if self.config.anchor_end:
            is_answer = without_anchor(is_answer, text.token_ids, end_token_id)
        noisy_token_ids, is_masked = mask_tokens(rng_mask, text.token_ids, t, is_answer, self.mask_token_id)
        tokens = NORMALIZATIONS[self.config.text_normalization](is_answer)
        return CorruptedTexts(
            latents=text.latents,
            clean_token_ids=text.token_ids,
            noisy_token_ids=noisy_token_ids,
            is_masked=is_masked,
            t=t,
            share=jnp.full((batch,), 1.0 / tokens),
            written_share=jnp.full((batch,), 1.0 / jnp.maximum(written.sum(), 1)),
        )

    def loss(self, denoiser: Denoiser, batch: Corrupted) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Equation (1).

        Args:
            denoiser: the network.
            batch: of ``corrupt``, or a part of one.

        Returns:
            The loss () and its metrics by name, each of which adds up over the parts of a batch: ``loss``,
            ``image_loss``, and ``text_loss`` before lambda, of the terms with weight; both also by the clock, as
            ``by_clock`` gives them: ``image_loss_by_sigma`` and ``text_loss_by_t``; and ``nats_per_token``, the NELBO
            over the answer tokens that are no padding, which compares runs of different lengths and normalizations.
        """
        velocity, logits = self._predict(denoiser, batch)
        terms, metrics = [], {}
        if velocity is not None and batch.image is not None:
            image_losses = flow_loss(velocity, batch.image.velocity, batch.image.sigma, self.config.image_weighting)
            metrics["image_loss"] = (batch.image.share * image_losses).sum()
            metrics["image_loss_by_sigma"] = by_clock(batch.image.share * image_losses, batch.image.sigma)
            terms.append(self.config.image_weight * metrics["image_loss"])
        if logits is not None and batch.text is not None:
            text = batch.text
            nelbo = masked_nelbo(logits, text.clean_token_ids, text.is_masked, text.t, self.mask_token_id)
            metrics["text_loss"] = (text.share * nelbo).sum()
            metrics["nats_per_token"] = (text.written_share * nelbo).sum()
            metrics["text_loss_by_t"] = by_clock(text.share * nelbo, text.t)
            terms.append(self.config.text_weight * metrics["text_loss"])
        loss = terms[0] if len(terms) == 1 else terms[0] + terms[1]
        return loss, {"loss": loss, **metrics}

    def _predict(self, denoiser: Denoiser, batch: Corrupted) -> tuple[Latents | None, jax.Array | None]:
        """(velocity of the image batch, logits of the text batch), from one pass of the model or from two.

        One pass runs every matrix of the blocks once over twice the tokens. It needs both batches in one shape, so
        text without images takes two. A stream without weight gives None.
        """
        image = batch.image if self.config.image_weight else None
        text = batch.text if self.config.text_weight else None
        if self.config.single_forward and image is not None and text is not None and text.latents is not None:
            return _predict_both(denoiser, image, text, text.latents)
        velocity = logits = None
        if image is not None:
            velocity = _predict_images(denoiser, image).velocity
        if text is not None:
            logits = denoiser(text.latents, jnp.zeros_like(text.t), text.noisy_token_ids).logits
        return velocity, logits


def _predict_images(denoiser: Denoiser, image: CorruptedImages) -> DenoiserOutput:
    timestep = TIMESTEPS * image.sigma
    if image.text_embeddings is None:
        return denoiser(image.noisy_latents, timestep, image.token_ids)
    return denoiser.denoise(image.noisy_latents, timestep, image.text_embeddings)


def _predict_both(
    denoiser: Denoiser, image: CorruptedImages, text: CorruptedTexts, text_latents: Latents
) -> DenoiserOutput:
    latents = _interleaved(image.noisy_latents, text_latents)
    timestep = _interleaved(TIMESTEPS * image.sigma, jnp.zeros_like(text.t))
    if image.text_embeddings is None:
        return denoiser(latents, timestep, _interleaved(image.token_ids, text.noisy_token_ids), in_pairs=True)
    masked = denoiser.encode_text(text.noisy_token_ids)
    embeddings = _interleaved(image.text_embeddings.astype(masked.dtype), masked)
    return denoiser.denoise(latents, timestep, embeddings, in_pairs=True)


def _interleaved(image: jax.Array, text: jax.Array) -> jax.Array:
    """(b, ...) and (b, ...) -> (2b, ...), image, text, image, ...

    Both halves of a pair then lie on the device that holds them. One half after the other would send every example,
    and every logit back, to another device.
    """
    return jnp.stack([image, text], axis=1).reshape(-1, *image.shape[1:])


def by_clock(losses: PerExample, clock: PerExample) -> jax.Array:
    """Losses by equal parts of the clock.

    Args:
        losses: (b,).
        clock: (b,) in [0, 1]; 1 belongs to the last part.

    Returns:
        (2, CLOCK_BINS): the sum of the losses in each part, and the number of examples.
    """
    index = jnp.minimum((CLOCK_BINS * clock).astype(jnp.int32), CLOCK_BINS - 1)
    is_inside = index[:, None] == jnp.arange(CLOCK_BINS)
    return jnp.stack([jnp.where(is_inside, losses[:, None], 0.0).sum(0), is_inside.sum(0).astype(losses.dtype)])
