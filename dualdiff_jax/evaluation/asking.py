"""Asks a model the questions of a task, batch after batch, while the next batch's images are read.

Every answer is a function of the model, the settings, the seed and the question's id: each question has a seed of its
own, and all batches have one size, the last one filled up, so that one program serves them all.
"""

import dataclasses
import hashlib
import os
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np

from dualdiff_jax.config.data import Fit
from dualdiff_jax.data.benchmarks.question import Question, Questions
from dualdiff_jax.data.images import read_pixels
from dualdiff_jax.errors import UserError
from dualdiff_jax.evaluation.metrics.multiple_choice import LETTERS, best_letter
from dualdiff_jax.evaluation.tasks.task import Ask, TaskSettings
from dualdiff_jax.pipeline import inputs, text_choices
from dualdiff_jax.pipeline.pipeline import DualDiffusionPipeline
from dualdiff_jax.pipeline.text_inputs import UnknownWords
from dualdiff_jax.sampling.text_options import OWN_OPTIONS

THREADS = 16  # that read images
TOO_LONG = "the question leaves no room for an answer"


@dataclasses.dataclass(frozen=True)
class Sampling:
    """What is the same for all questions besides the task's settings; None is the model's own.

    Attributes:
        seed: of all draws, in [0, 2**64).
        height, width: of images, in pixels.
        fit: of images of another shape.
        order: in which tokens appear.
        options: other options of the text sampler, by name.
    """

    seed: int = 0
    height: int | None = None
    width: int | None = None
    fit: Fit = "crop"
    order: str | None = None
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def given(self) -> dict[str, Any]:
        """All of it that is given, in one mapping."""
        named = {name: getattr(self, name) for name in ("seed", "height", "width", "fit", "order")}
        return {name: value for name, value in (named | dict(self.options)).items() if value is not None}


class Asked(NamedTuple):
    """One question with its answer."""

    index: int
    question: Question
    prompt: str
    answer: str
    fault: str = ""  # why it was not asked, and has an empty answer
    scores: tuple[float, ...] = ()  # of its options, where these were compared


class _Read(NamedTuple):
    index: int
    question: Question
    prompt: str
    pixels: np.ndarray  # (h, w, 3) uint8
    fault: str


class Asker:
    """A model with the settings of a task.

    Args:
        pipeline: the model.
        ask: (question, settings) -> the prompt; "" asks for a caption.
        settings: of the task.
        sampling: the other settings.

    Attributes:
        batch: questions that are asked together.
        seconds: spent in the model so far.

    Raises:
        UserError: a size cannot be.
    """

    def __init__(self, pipeline: DualDiffusionPipeline, ask: Ask, settings: TaskSettings, sampling: Sampling):
        self._pipeline, self._prompt, self._settings, self._sampling = pipeline, ask, settings, sampling
        self._size = inputs.image_size(pipeline.config, sampling.height, sampling.width)
        parts = pipeline.batch_parts
        self.batch = -(-pipeline.config.sampling.batch_size // parts) * parts
        order = text_choices.text_order(pipeline.config.sampling, sampling.order)
        self._steps = settings.steps if "steps" in OWN_OPTIONS[order] else None
        self.seconds = 0.0

    def ask(self, questions: Questions, indexes: Sequence[int]) -> Iterator[list[Asked]]:
        """Yields the answers of a batch of ``questions`` at a time, in the order of ``indexes``.

        Raises:
            UserError: a question or its image cannot be read; the message names it.
        """
        batches = [indexes[start : start + self.batch] for start in range(0, len(indexes), self.batch)]
        with ThreadPoolExecutor(1) as ahead, ThreadPoolExecutor(THREADS) as readers:
            following = ahead.submit(self._read, questions, batches[0], readers) if batches else None
            for number in range(len(batches)):
                assert following is not None
                read = following.result()
                if number + 1 < len(batches):
                    following = ahead.submit(self._read, questions, batches[number + 1], readers)
                started = time.perf_counter()
                with warnings.catch_warnings(action="ignore", category=UnknownWords):  # there may be thousands
                    found = self._answers(read)
                self.seconds += time.perf_counter() - started
                yield found

    def _read(self, questions: Questions, indexes: Sequence[int], readers: ThreadPoolExecutor) -> list[_Read]:
        """The questions with their images, each image once."""
        found = list(readers.map(questions.__getitem__, indexes))
        images: dict[Any, tuple[Question, Any]] = {}
        for question in found:
            images.setdefault(_image_key(question), (question, question.image))
        pixels = dict(zip(images, readers.map(lambda each: self._pixels(*each), images.values()), strict=True))
        rows = []
        for index, question in zip(indexes, found, strict=True):
            prompt = self._prompt(question, self._settings)
            rows.append(_Read(index, question, prompt, pixels[_image_key(question)], self._fault(prompt, question)))
        return rows

    def _pixels(self, question: Question, image: Any) -> np.ndarray:
        return read_pixels(image, *self._size, f"the image of question {question.question_id}", fit=self._sampling.fit)

    def _fault(self, prompt: str, question: Question) -> str:
        if not prompt:
            return ""
        is_scored = self._settings.choose_by == "score" and question.options
        try:  # an answer needs a token to write; an option, a token and its end
            self._pipeline.tokenizer.question_ids(prompt, self._settings.length - bool(is_scored))
        except UserError:
            return TOO_LONG
        return ""

    def _answers(self, read: list[_Read]) -> list[Asked]:
        """Each row's answer by the rule of its own question, so that others in the batch do not matter."""
        scores, written = {}, []
        for place, row in enumerate(read):
            if self._settings.choose_by == "score" and row.question.options:
                scores[place] = () if row.fault else self._option_scores(row)
            else:
                written.append(place)
        answers = {place: best_letter(each) if each else "" for place, each in scores.items()}
        if written:
            answers |= zip(written, self._generated([read[place] for place in written]), strict=False)
        return [
            Asked(row.index, row.question, row.prompt, "" if row.fault else answers[n], row.fault, scores.get(n, ()))
            for n, row in enumerate(read)
        ]

    def _generated(self, rows: list[_Read]) -> list[str]:
        """The answers to rows, which fill up a batch; a question that is too long is left out of its prompt."""
        rows = rows + [rows[-1]] * (self.batch - len(rows))
        sampling, settings = self._sampling, self._settings
        images = [row.pixels for row in rows]
        given: dict[str, Any] = {
            "seed": [question_seed(sampling.seed, row.question.question_id) for row in rows],
            "height": sampling.height,
            "width": sampling.width,
            "order": sampling.order,
            "length": settings.length,
            "steps": self._steps,
            **sampling.options,
        }
        if any(row.prompt for row in rows):
            return self._pipeline.answer(images, ["" if row.fault else row.prompt for row in rows], **given)
        return self._pipeline.image_to_text(images, **given)

    def _option_scores(self, row: _Read) -> tuple[float, ...]:
        """Minus the nats of each option's letter."""
        letters = list(LETTERS[: len(row.question.options)])
        found = self._pipeline.score(
            [row.pixels],
            letters,
            questions=[row.prompt],
            seed=question_seed(self._sampling.seed, row.question.question_id),
            height=self._sampling.height,
            width=self._sampling.width,
            length=self._settings.length,
        )
        return tuple(-float(nats) for nats in found.nats[0])


def _image_key(question: Question) -> Any:
    """Equal for the same image."""
    image = question.image
    return str(image) if isinstance(image, os.PathLike) else image if isinstance(image, bytes) else id(image)


def question_seed(seed: int, question_id: str) -> int:
    """The seed of one question, in [0, 2**64)."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{question_id}".encode()).digest()[:8], "big")
