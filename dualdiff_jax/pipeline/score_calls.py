"""What the pipeline does from images and texts to numbers: how well a text fits an image."""

from collections.abc import Sequence
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from dualdiff_jax.arrays import key_of
from dualdiff_jax.config.data import Fit
from dualdiff_jax.data.records.record import DataError, Turn
from dualdiff_jax.data.texts import Tokens, caption_tokens, dialogue_tokens
from dualdiff_jax.data.tokenizer import Tokenizer
from dualdiff_jax.errors import UserError, quoted
from dualdiff_jax.objectives.any_order import MaskDraws, bound_terms, draw_masks, stratified_mean
from dualdiff_jax.pipeline import arrays_in, inputs, score_programs
from dualdiff_jax.pipeline.arrays_in import ImageSources
from dualdiff_jax.pipeline.inputs import Texts
from dualdiff_jax.pipeline.loaded_model import LoadedModel, to_host
from dualdiff_jax.pipeline.text_inputs import warn_of_words
from dualdiff_jax.progress import Progress, report

SAMPLES = 32
MOST_SAMPLES = 1 << 16


class Scores(NamedTuple):
    """Estimates for n images with m texts each, (n, m) fp64; less is better.

    ``nats`` bounds -log p(text | image) from above, up to ``standard_error``. ``behind`` is how much more that is than
    for the image's best text; its error is smaller than that of two estimates, because all texts have the same draws.
    """

    nats: np.ndarray
    standard_error: np.ndarray
    behind: np.ndarray
    behind_error: np.ndarray
    tokens: np.ndarray  # (n, m) int, of each text and its </s>


class ScoreCalls(LoadedModel):
    """Numbers from images and texts."""

    @inputs.checks_names
    def score(
        self,
        images: ImageSources,
        texts: Texts | Sequence[Sequence[str]],
        *,
        questions: Texts | None = None,
        samples: int | None = None,
        seed: int = 0,
        per_token: bool = False,
        anchor_end: bool | None = None,
        length: int | None = None,
        height: int | None = None,
        width: int | None = None,
        fit: Fit = "crop",
        progress: Progress | None = None,
    ) -> Scores:
        """The NELBO of each text given each image (``objectives/any_order``), for ranking, retrieval and choice.

        A score depends on the image, the text and the seed alone, not on the others in the call.

        Args:
            images: one or several (``arrays_in.as_images``).
            texts: captions of all images, or a list of as many for each image. What they spell is text, as in training
                data.
            questions: one, or one for each image: then the texts are answers, and only their tokens count.
            samples: evaluations of the model for each pair; even. The error falls with their root, or faster.
            seed: in [0, 2**64).
            per_token: divides all by ``tokens``, so that texts of different lengths compare.
            anchor_end: whether the last token is given as ``</s>``, and costs nothing; None for the model's own, and
                for no where there are ``questions``: training masks the end of an answer.
            length: tokens of a text, its question included; None for ``caption_length`` or ``answer_length``.
            height: that the images get, in pixels; None for the model's own.
            width: as ``height``.
            fit: as in ``complete_text``.
            progress: called after each batch with (evaluations finished, evaluations in all).

        Returns:
            Arrays (n, m) for n images and m texts each.

        Raises:
            UserError: an argument or an image cannot be used, or a text is too long, which is never cut.
        """
        sources = arrays_in.as_images(images)
        candidates = _candidates(texts, len(sources))
        asked = _questions(questions, len(sources))
        count = inputs.whole_number("samples", samples, SAMPLES, 4, MOST_SAMPLES)
        if count % 2:
            raise UserError(f"samples is {count}; give an even number, for two draws of each part of the clock")
        seed, is_normalised = inputs.check_seed("seed", seed), inputs.yes_or_no("per_token", per_token)
        default = self.config.sampling
        name = "caption_length" if questions is None else "answer_length"
        tokens = inputs.setting("length", length, name, getattr(default, name))
        is_anchored = inputs.yes_or_no("anchor_end", anchor_end, default.anchor_end and questions is None)
        size = inputs.image_size(self.config, height, width)
        inputs.check_callable("progress", progress)
        token_ids, is_answer, sizes, text_of = _texts(self.tokenizer, asked, candidates, tokens, is_anchored)
        pixels = arrays_in.image_pixels(sources, size, fit)
        draws = [draw_masks(seed, each, count) for each in is_answer]
        terms = self._terms(self._latents(pixels, seed), token_ids, draws, text_of, progress)
        return _scores(terms / sizes[..., None] if is_normalised else terms, sizes)

    def _latents(self, pixels: list[np.ndarray], seed: int) -> np.ndarray:
        """(n, h, w, c): of each image a draw from its posterior, which depends on its pixels and the seed alone."""
        found = []
        for rows, count, _ in self.batches(jnp.arange(len(pixels))):
            batch = self.place(np.stack([pixels[i] for i in rows]))
            found.append(to_host(self.run(score_programs.encode_images, batch, key_of(seed)))[:count])
        return np.concatenate(found)

    def _terms(
        self,
        latents: np.ndarray,
        token_ids: np.ndarray,
        draws: list[MaskDraws],
        text_of: np.ndarray,
        progress: Progress | None,
    ) -> np.ndarray:
        """(n, m, samples): the terms of each estimate, equation (3) of ``objectives/any_order``.

        ``token_ids`` and ``draws`` are of each distinct text, and ``text_of`` (n, m) are indexes of these.
        """
        samples = len(draws[0].share)
        found, total = [], text_of.size * samples
        for rows, count, _ in self.batches(jnp.arange(total)):
            pair, sample = np.divmod(rows, samples)
            image, text = pair // text_of.shape[1], text_of.reshape(-1)[pair]
            costs = self.run(
                score_programs.score_texts,
                self.place(latents[image]),
                self.place(token_ids[text]),
                self.place(np.stack([draws[t].is_masked[s] for t, s in zip(text, sample, strict=True)])),
                mask_token_id=self.tokenizer.mask_token_id,
            )
            found.append(to_host(costs)[:count])
            report(progress, int(rows[count - 1]) + 1, total)
        costs = np.concatenate(found).reshape(*text_of.shape, samples, -1)
        is_masked, share = (np.stack(each) for each in zip(*draws, strict=True))
        return bound_terms(costs, is_masked[text_of], share[text_of])


def _scores(terms: np.ndarray, tokens: np.ndarray) -> Scores:
    """The scores of n images and m texts from their terms (n, m, samples)."""
    nats, error = stratified_mean(terms)
    best = np.take_along_axis(terms, nats.argmin(axis=1)[:, None, None], axis=1)
    return Scores(nats, error, *stratified_mean(terms - best), tokens)


def _candidates(texts: Texts | Sequence[Sequence[str]], count: int) -> list[list[str]]:
    """The texts of each of ``count`` images."""
    is_nested = isinstance(texts, list | tuple) and texts and all(isinstance(each, list | tuple) for each in texts)
    if not is_nested:
        return [inputs.as_texts("texts", texts)] * count  # pyright: ignore[reportArgumentType]  # not nested
    if len(texts) != count:
        raise UserError(f"texts has {len(texts)} lists for {count} images; give a list for each image, or one for all")
    found = [inputs.as_texts(f"texts[{index}]", each) for index, each in enumerate(texts)]
    for index, each in enumerate(found):
        if len(each) != len(found[0]):
            raise UserError(
                f"texts[{index}] has {len(each)} entries and texts[0] {len(found[0])}; give as many of each"
            )
    return found


def _questions(questions: Texts | None, count: int) -> list[str | None]:
    if questions is None:
        return [None] * count
    found = inputs.as_texts("questions", questions)
    if len(found) not in (1, count):
        raise UserError(f"questions has {len(found)} entries for {count} images; give one, or one for each image")
    return [*found] * (count // len(found))


def _texts(
    tokenizer: Tokenizer, asked: list[str | None], candidates: list[list[str]], length: int, is_anchored: bool
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """The distinct texts of a call.

    Returns:
        ``token_ids`` (k, l), and ``is_answer`` (k, l), the tokens that count, without the anchor;
        ``sizes`` (n, m), how many each text has, with the anchor; and ``text_of`` (n, m), the place of each among k.
    """
    pairs = [[(question, text) for text in row] for question, row in zip(asked, candidates, strict=True)]
    known = {pair: _tokens(tokenizer, *pair, length) for row in pairs for pair in row}
    warn_of_words(tokenizer, (text for pair in known for text in pair if text))
    which = {pair: number for number, pair in enumerate(known)}
    text_of = np.array([[which[pair] for pair in row] for row in pairs])
    token_ids = np.stack([found.token_ids for found in known.values()])
    is_answer = np.stack([found.is_answer for found in known.values()])
    sizes = _sizes(token_ids, is_answer, tokenizer.end_token_id)[text_of]
    if is_anchored:
        is_answer[:, -1] &= token_ids[:, -1] != tokenizer.end_token_id
    return token_ids, is_answer, sizes, text_of


def _tokens(tokenizer: Tokenizer, question: str | None, text: str, length: int) -> Tokens:
    """A caption, or an answer to ``question``, as training data has it."""
    if question is None:
        found = caption_tokens(tokenizer, text, length)
    else:
        try:
            found = dialogue_tokens(tokenizer, [Turn(question, text)], length, np.random.default_rng(0))
        except DataError as error:
            raise UserError(f"questions: {quoted(question)}: {error}; shorten it, or give a larger length") from error
    if found.cut:
        raise UserError(f"texts: {quoted(text)} has {found.cut} tokens too many for length {length}; raise it")
    return found


def _sizes(token_ids: np.ndarray, is_answer: np.ndarray, end_token_id: int) -> np.ndarray:
    """(n, l) and (n, l) -> (n,): the tokens that are to be predicted, up to the first ``</s>``."""
    is_end = is_answer & (token_ids == end_token_id)
    ends_in_front = is_end.cumsum(axis=1) - is_end
    return (is_answer & (ends_in_front == 0)).sum(axis=1)
