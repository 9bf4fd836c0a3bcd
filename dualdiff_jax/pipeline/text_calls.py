"""What the pipeline does from images to texts."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from dualdiff_jax.config.data import Fit
from dualdiff_jax.data.images import read_image
from dualdiff_jax.errors import UserError, quoted
from dualdiff_jax.pipeline import arrays_in, inputs, text_programs
from dualdiff_jax.pipeline.arrays_in import ImageSources
from dualdiff_jax.pipeline.inputs import Seed, Texts
from dualdiff_jax.pipeline.loaded_model import LoadedModel, to_host
from dualdiff_jax.pipeline.text_inputs import masked_texts
from dualdiff_jax.progress import Progress, report
from dualdiff_jax.sampling.text_samplers import TEXT_SAMPLERS


class TextSample(NamedTuple):
    """All sampled tokens of a call, on the host."""

    token_ids: np.ndarray  # (n, l), prompts in front, no masks left
    revealed_in: np.ndarray  # (n, l), the evaluation that revealed each token; -1 for those of the prompts


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
        **options: Any,
    ) -> list[str]:
        """One caption for each image, up to its first ``</s>``.

        Args:
            prompt: the beginning of every caption; it stays as it is and is not returned.
            like_original: as in the PyTorch pipeline, the prompt keeps its own ``</s>``, and all ``length`` tokens
                are returned, prompt in front, with every ``</s>`` left out.
            options: those of ``generate_text``.
        """
        images, default = arrays_in.as_images(images), self.config.sampling
        tokens = inputs.setting("length", length, "caption_length", default.caption_length)
        passes = inputs.setting("steps", steps, "caption_steps", default.caption_steps)
        if prompt is not None and not isinstance(prompt, str):
            raise UserError(f"prompt is {quoted(prompt)}; give one text, the beginning of every caption")
        prefix = np.asarray(self.tokenizer.tokens(prompt or ""), np.int32)
        if like_original and prompt is not None:
            prefix = np.append(prefix, np.int32(self.tokenizer.end_token_id))
        if len(prefix) >= tokens:
            raise UserError(f"the prompt takes {len(prefix)} of {tokens} tokens and leaves no room; shorten it")
        sample = self.generate_text(images, [prefix] * len(images), length=tokens, steps=passes, **options)
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
        **options: Any,
    ) -> list[str]:
        """One answer to each pair of image and question, up to its first ``</s>``; ``options`` of ``generate_text``."""
        images, questions = arrays_in.as_images(images), inputs.as_texts("questions", questions)
        if len(images) != len(questions):
            raise UserError(f"{len(images)} images, but {len(questions)} questions; give one question for each image")
        tokens = inputs.setting("length", length, "answer_length", self.config.sampling.answer_length)
        passes = inputs.setting("steps", steps, "answer_steps", self.config.sampling.answer_steps)
        prompts = [self.tokenizer.question_ids(question, tokens) for question in questions]
        sample = self.generate_text(images, prompts, length=tokens, steps=passes, **options)
        rows = zip(sample.token_ids, prompts, strict=True)
        return [self.tokenizer.decode(row[len(prompt) :]) for row, prompt in rows]

    def generate_text(
        self,
        images: ImageSources,
        prompts: Sequence[np.ndarray],
        *,
        length: int,
        steps: int,
        seed: Seed = 0,
        height: int | None = None,
        width: int | None = None,
        order: str | None = None,
        fit: Fit = "crop",
        progress: Progress | None = None,
    ) -> TextSample:
        """Samples the tokens that follow each prompt.

        Args:
            prompts: for each image an array of token ids (k,), k < length.
            order: in which tokens appear, a name in ``TEXT_SAMPLERS``.
            fit: of images of another shape: "crop" cuts the sides off, "letterbox" keeps all and adds grey borders.
        """
        images = arrays_in.as_images(images)
        default, keys = self.config.sampling, inputs.example_keys(seed, len(images))
        length = inputs.setting("length", length, "caption_length")
        steps = inputs.setting("steps", steps, "caption_steps")
        order = inputs.choice("order", default.text_order if order is None else order, TEXT_SAMPLERS)
        size = inputs.image_size(self.config, height, width)
        inputs.check_callable("progress", progress)
        token_ids = masked_texts(self.tokenizer, prompts, len(images), length)
        pixels = [read_image(image, *size, f"images[{index}]", fit=fit) for index, image in enumerate(images)]
        found: list[list[np.ndarray]] = []
        for rows, count, rngs in self.batches(keys):
            sample = self.run(
                text_programs.generate_text,
                self.place(np.stack([pixels[i] for i in rows])),
                self.place(token_ids[rows]),
                jax.random.wrap_key_data(self.place(jax.random.key_data(rngs))),  # keys themselves stay on one host
                mask_token_id=self.tokenizer.mask_token_id,
                steps=steps,
                order=order,
            )
            found.append([to_host(field)[:count] for field in sample])
            report(progress, int(rows[count - 1]) + 1, len(pixels))
        return TextSample(*(np.concatenate(field) for field in zip(*found, strict=True)))
