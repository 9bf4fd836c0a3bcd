"""What the pipeline does from images to texts."""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dualdiff_jax.arrays import Key, TokenIds
from dualdiff_jax.config.data import Fit
from dualdiff_jax.errors import UserError, quoted
from dualdiff_jax.pipeline import arrays_in, inputs, text_choices, text_programs
from dualdiff_jax.pipeline.arrays_in import ImageSources
from dualdiff_jax.pipeline.inputs import Seed, Texts
from dualdiff_jax.pipeline.loaded_model import LoadedModel, to_host
from dualdiff_jax.pipeline.text_inputs import masked_texts, warn_of_words
from dualdiff_jax.progress import Progress, report
from dualdiff_jax.sampling.text_options import TextOptions
from dualdiff_jax.sampling.token_rules import TokenRules


class TextSample(NamedTuple):
    """All sampled tokens of a call, on the host."""

    token_ids: np.ndarray  # (n, l), prompts in front, no masks left
    revealed_in: np.ndarray  # (n, l), the pass that revealed each token; -1 for the prompts', -2 behind an early stop
    passes: np.ndarray  # (n,), evaluations of the network that each text took part in


class StreamedTexts(NamedTuple):
    """The texts of one batch as they are after some of the passes."""

    sample: TextSample  # of the batch; tokens that are still masked are the tokenizer's ``mask_token_id``
    rows: range  # their places among all texts of the call
    is_finished: bool


class TextCalls(LoadedModel):
    """Texts from images."""

    def image_to_text(
        self,
        images: ImageSources,
        *,
        prompt: str | None = None,
        length: int | None = None,
        steps: int | None = None,
        like_original: bool = False,
        anchor_end: bool | None = None,
        early_stop: bool | None = None,
        **options: Any,
    ) -> list[str]:
        """One caption for each image, up to its first ``</s>``.

        Args:
            images: one or several (``arrays_in.as_images``).
            prompt: the beginning of every caption; it stays as it is and is not returned.
            length: tokens of the prompt and the caption together; None for the model's ``caption_length``.
            steps: passes over the text; None for the model's ``caption_steps``, where the order takes steps.
            like_original: as in the PyTorch pipeline, the prompt keeps its own ``</s>``, no end is given, and all
                ``length`` tokens are returned, prompt in front, with every ``</s>`` left out.
            anchor_end: whether the last token is given as ``</s>`` (``text_inputs``); None for the model's own, and
                for no with ``like_original``.
            early_stop: whether passes end once all that is decoded is there; None for yes, where that changes no text.
            options: those of ``complete_text``.

        Returns:
            A text for each image.

        Raises:
            UserError: an argument or an image cannot be used, or the prompt leaves no room.
        """
        text_choices.known(options, "prompt")
        images, default = arrays_in.as_images(images), self.config.sampling
        like_original = inputs.yes_or_no("like_original", like_original)
        tokens = inputs.setting("length", length, "caption_length", default.caption_length)
        passes = text_choices.text_steps(default, options.get("order"), steps, default.caption_steps)
        if prompt is not None and not isinstance(prompt, str):
            raise UserError(f"prompt is {quoted(prompt)}; give one text, the beginning of every caption")
        warn_of_words(self.tokenizer, [prompt or ""])
        prefix = np.asarray(self.tokenizer.tokens(prompt or ""), np.int32)
        if like_original and prompt is not None:
            prefix = np.append(prefix, np.int32(self.tokenizer.end_token_id))
        is_anchored = inputs.yes_or_no("anchor_end", anchor_end, default.anchor_end and not like_original)
        if len(prefix) >= tokens - is_anchored:
            raise UserError(f"the prompt takes {len(prefix)} of {tokens} tokens and leaves no room; shorten it")
        options["early_stop"] = text_choices.stops_early(
            early_stop, [prefix], self.tokenizer.mask_token_id, options, like_original=like_original
        )
        sample = self.generate_text(
            images, [prefix] * len(images), length=tokens, steps=passes, anchor_end=is_anchored, **options
        )
        if like_original:
            return [self.tokenizer.decode_all(row) for row in sample.token_ids]
        return [self.tokenizer.decode(row[len(prefix) :]) for row in sample.token_ids]

    def answer(
        self,
        images: ImageSources,
        questions: Texts,
        *,
        length: int | None = None,
        steps: int | None = None,
        early_stop: bool | None = None,
        **options: Any,
    ) -> list[str]:
        """One answer to each pair of image and question, up to its first ``</s>``.

        Args:
            images: one or several (``arrays_in.as_images``).
            questions: as many as images.
            length: tokens of a question and its answer together; None for the model's ``answer_length``.
            steps: passes over the text; None for the model's ``answer_steps``, where the order takes steps.
            early_stop: as in ``image_to_text``.
            options: those of ``generate_text``.

        Returns:
            A text for each image.

        Raises:
            UserError: an argument or an image cannot be used, or there are not as many questions as images.
        """
        text_choices.known(options, "questions", "anchor_end")
        images, questions = arrays_in.as_images(images), inputs.as_texts("questions", questions)
        default = self.config.sampling
        if len(images) != len(questions):
            raise UserError(f"{len(images)} images, but {len(questions)} questions; give one question for each image")
        tokens = inputs.setting("length", length, "answer_length", default.answer_length)
        passes = text_choices.text_steps(default, options.get("order"), steps, default.answer_steps)
        warn_of_words(self.tokenizer, questions)
        prompts = [self.tokenizer.question_ids(question, tokens) for question in questions]
        options["early_stop"] = text_choices.stops_early(early_stop, prompts, self.tokenizer.mask_token_id, options)
        sample = self.generate_text(images, prompts, length=tokens, steps=passes, **options)
        rows = zip(sample.token_ids, prompts, strict=True)
        return [self.tokenizer.decode(row[len(prompt) :]) for row, prompt in rows]

    def generate_text(
        self,
        images: ImageSources,
        prompts: Sequence[np.ndarray],
        *,
        length: int,
        steps: int | None,
        anchor_end: bool | None = None,
        **options: Any,
    ) -> TextSample:
        """Samples the tokens that follow each prompt.

        Args:
            images: one or several (``arrays_in.as_images``).
            prompts: for each image an array of token ids (k,), k < length.
            length: tokens l of the prompt and what follows it together.
            steps: as in ``complete_text``.
            anchor_end: whether the last token is given as ``</s>`` (``text_inputs``); None for the model's own where
                a prompt is empty, and for no where there is one.
            options: those of ``complete_text``.

        Returns:
            The tokens (n, l), prompts in front.

        Raises:
            UserError: an argument or an image cannot be used, or a prompt leaves no room.
        """
        images = arrays_in.as_images(images)
        length = inputs.setting("length", length, "caption_length")
        anchor = None if anchor_end is None else inputs.yes_or_no("anchor_end", anchor_end)
        default = self.config.sampling.anchor_end
        token_ids = masked_texts(self.tokenizer, prompts, len(images), length, anchor_end=anchor, default=default)
        return self.complete_text(images, token_ids, steps=steps, **text_choices.known(options))

    def complete_text(
        self, images: ImageSources, token_ids: TokenIds | np.ndarray, *, steps: int | None, **options: Any
    ) -> TextSample:
        """Replaces the masks of each text by tokens.

        Args:
            images: one or several (``arrays_in.as_images``).
            token_ids: (n, l), a text for each image, with masks anywhere.
            steps: passes over the text; None for the orders ``threshold`` and ``entropy_bound``, which need no number.
            options: ``seed``, ``height``, ``width`` and ``progress``;
                ``order``: in which tokens appear, a name in ``TEXT_SAMPLERS``;
                ``fit``: "crop" cuts the sides off images of another shape, "letterbox" keeps all, with grey borders;
                ``rules``: which tokens may be written where, for all texts; None rules out nothing;
                and the other fields of ``TextOptions``: ``certainty``, ``threshold``, ``entropy_bound``,
                ``block_length``, ``remask``, ``temperature``, ``top_p``, ``repetition_penalty``, ``guidance_scale``
                (up to 1 is none), ``guidance_null``, ``exit_margin``, ``early_stop``. None is the model's own.

        Returns:
            The tokens (n, l) without masks.

        Raises:
            UserError: an argument or an image cannot be used, or two options do not go together.
        """
        pieces = self._completions(images, token_ids, None, steps=steps, **text_choices.known(options))
        return TextSample(*(np.concatenate(field) for field in zip(*(piece.sample for piece in pieces), strict=True)))

    def stream_text(
        self,
        images: ImageSources,
        prompts: Sequence[np.ndarray] | None = None,
        *,
        every: int = 1,
        length: int | None = None,
        steps: int | None = None,
        anchor_end: bool | None = None,
        **options: Any,
    ) -> Iterator[StreamedTexts]:
        """The texts of ``generate_text`` as they are after every few passes, and at the end.

        Args:
            images: one or several (``arrays_in.as_images``).
            prompts: token ids (k,) for each image, k < length; None for captions.
            every: passes between two results.
            length: tokens of a text; None for the model's ``caption_length``.
            steps: as in ``image_to_text``.
            anchor_end: as in ``generate_text``.
            options: those of ``complete_text``.

        Yields:
            Batch after batch, each until its texts are finished.

        Raises:
            UserError: an argument or an image cannot be used.
        """
        text_choices.known(options, "prompts", "every")
        images, default = arrays_in.as_images(images), self.config.sampling
        every = inputs.whole_number("every", every, 1)
        tokens = inputs.setting("length", length, "caption_length", default.caption_length)
        passes = text_choices.text_steps(default, options.get("order"), steps, default.caption_steps)
        anchor = None if anchor_end is None else inputs.yes_or_no("anchor_end", anchor_end)
        given = [np.zeros(0, np.int32)] * len(images) if prompts is None else prompts
        token_ids = masked_texts(
            self.tokenizer, given, len(images), tokens, anchor_end=anchor, default=default.anchor_end
        )
        return self._completions(images, token_ids, every, steps=passes, **options)

    def _completions(
        self,
        images: ImageSources,
        token_ids: TokenIds | np.ndarray,
        every: int | None,
        *,
        steps: int | None,
        seed: Seed = 0,
        height: int | None = None,
        width: int | None = None,
        order: str | None = None,
        fit: Fit = "crop",
        progress: Progress | None = None,
        rules: TokenRules | None = None,
        **choices: Any,
    ) -> Iterator[StreamedTexts]:
        """The batches of ``complete_text``, whose arguments it takes: finished, or also after ``every`` passes."""
        images = arrays_in.as_images(images)
        default, keys = self.config.sampling, inputs.example_keys(seed, len(images))
        options = text_choices.text_options(default, order, {"steps": steps, **choices})
        size = inputs.image_size(self.config, height, width)
        inputs.check_callable("progress", progress)
        token_ids = arrays_in.token_array("token_ids", token_ids, self.tokenizer.vocab_size, 2)
        if len(token_ids) != len(images):
            raise UserError(f"token_ids has {len(token_ids)} texts for {len(images)} images; give one for each image")
        text_choices.check_texts(options, token_ids, self.tokenizer.mask_token_id, rules)
        pixels = arrays_in.image_pixels(images, size, fit)
        most = None if every is None else jnp.int32(every)
        return self._pieces(pixels, token_ids, keys, options, rules, most, progress)

    def _pieces(
        self,
        pixels: list[np.ndarray],
        token_ids: np.ndarray,
        keys: Key,
        options: TextOptions,
        rules: TokenRules | None,
        most: jax.Array | None,
        progress: Progress | None,
    ) -> Iterator[StreamedTexts]:
        """What ``_completions`` yields, whose arguments are checked."""
        mask, end = self.tokenizer.mask_token_id, self.tokenizer.end_token_id
        for rows, count, rngs in self.batches(keys):
            arguments = (
                self.place(np.stack([pixels[i] for i in rows])),
                self.place(token_ids[rows]),
                jax.random.wrap_key_data(self.place(jax.random.key_data(rngs))),  # keys themselves stay on one host
                options,
                rules and TokenRules(rules.kinds, self.place(rules.ruled_out[rows])),
            )
            state, is_finished = None, False
            while not is_finished:
                state = self.run(
                    text_programs.generate_text, *arguments, state, most, mask_token_id=mask, end_token_id=end
                )
                sample = TextSample(*(to_host(field)[:count] for field in state))
                is_finished = most is None or not (to_host(state.token_ids) == mask).any()
                if is_finished:
                    report(progress, int(rows[count - 1]) + 1, len(pixels))
                first = int(rows[0])
                yield StreamedTexts(sample, range(first, first + count), is_finished)
