"""Previews during training: images for fixed prompts, and texts for fixed images, always with the same seed."""

import json
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

import jax
from PIL import Image

from dualdiff_jax.arrays import Weights
from dualdiff_jax.config import ModelConfig, PreviewConfig
from dualdiff_jax.data.images import read_image
from dualdiff_jax.data.tokenizer import Tokenizer
from dualdiff_jax.errors import UserError
from dualdiff_jax.files import new_file, write_text
from dualdiff_jax.pipeline.image_options import ImageOptions, image_settings
from dualdiff_jax.pipeline.pipeline import DualDiffusionPipeline

TILE = 64  # pixels; smaller images are enlarged by the largest whole factor up to this height
GAP = 2  # pixels between images
COLUMNS = 8  # images a row, at most


class Preview:
    """A training hook, ``(step, weights) -> None``. Writes ``step_N.png``, one image a prompt, and ``step_N.json``.

    Args:
        config: prompts, images and the question.
        model: sizes, and the settings of the samplers.
        tokenizer: the run's.
        folder: where the files go; it is made when the first preview is written.

    Raises:
        UserError: a preview could not be made, now or after the first steps.
    """

    def __init__(self, config: PreviewConfig, model: ModelConfig, tokenizer: Tokenizer, folder: Path):
        for test in preview_tests(config, model, tokenizer).values():
            test()
        self._config, self._model, self._tokenizer, self._folder = config, model, tokenizer, folder

    def __call__(self, step: int, weights: Weights) -> None:
        """Samples on every host; the first host writes.

        Args:
            step: number in the file names.
            weights: of all networks, on the mesh.
        """
        pipeline = DualDiffusionPipeline(self._model, weights, self._tokenizer)
        images = list(pipeline.text_to_image(self._config.prompts)) if self._config.prompts else []
        texts = []
        if self._config.images:
            captions = pipeline.image_to_text(self._config.images)
            texts = [{"image": i, "caption": c} for i, c in zip(self._config.images, captions, strict=True)]
            if self._config.question:
                answers = pipeline.answer(self._config.images, [self._config.question] * len(texts))
                texts = [text | {"answer": answer} for text, answer in zip(texts, answers, strict=True)]
        if jax.process_index() == 0:
            self._folder.mkdir(parents=True, exist_ok=True)
            name = f"step_{step:07d}"
            if images:
                with new_file(self._folder / f"{name}.png") as file:
                    grid(images).save(file, "PNG")
            record = {"step": step, "prompts": self._config.prompts, "texts": texts}
            write_text(self._folder / f"{name}.json", json.dumps(record, indent=2) + "\n")


def preview_tests(
    config: PreviewConfig, model: ModelConfig, tokenizer: Tokenizer | None
) -> Mapping[str, Callable[[], str]]:
    """What can be known of a run's previews before there are weights, by what is looked at.

    Args:
        config: prompts, images and the question.
        model: sizes, and the settings of the samplers.
        tokenizer: the run's; without one the question is not looked at.

    Returns:
        Tests that say what they found, and raise ``UserError`` where a preview could not be made.
    """
    tests: dict[str, Callable[[], str]] = {}
    if config.prompts:
        tests["preview.prompts"] = partial(_prompts, config, model)
    if config.images:
        tests["preview.images"] = partial(_images, config, model)
    if config.images and config.question and tokenizer is not None:
        tests["preview.question"] = partial(_question, config, model, tokenizer)
    return tests


def _prompts(config: PreviewConfig, model: ModelConfig) -> str:
    try:
        image_settings(model.sampling, (model.sampling.height, model.sampling.width), ImageOptions())
    except UserError as error:
        raise UserError(f"model.sampling: {error}") from error
    return f"{len(config.prompts)} texts"


def _images(config: PreviewConfig, model: ModelConfig) -> str:
    faults = []
    for image in config.images:
        try:
            read_image(image, model.sampling.height, model.sampling.width)
        except UserError as error:
            faults.append(str(error))
    if faults:
        raise UserError("\n".join(f"preview.images: {fault}; give a file that can be read" for fault in faults))
    return f"{len(config.images)} files"


def _question(config: PreviewConfig, model: ModelConfig, tokenizer: Tokenizer) -> str:
    length = model.sampling.answer_length
    try:
        tokens = tokenizer.question_ids(config.question, length)
    except UserError as error:
        raise UserError(f"preview.question: {error}, or raise model.sampling.answer_length") from error
    return f"{len(tokens)} of {length} tokens"


def grid(images: Sequence[Image.Image]) -> Image.Image:
    """A contact sheet.

    Args:
        images: of one size, at least one; small ones are enlarged without smoothing.
    """
    factor = max(1, TILE // images[0].height)
    width, height = images[0].width * factor, images[0].height * factor
    columns = min(COLUMNS, len(images))
    rows = -(-len(images) // columns)
    sheet = Image.new("RGB", (columns * (width + GAP) + GAP, rows * (height + GAP) + GAP), "white")
    for index, image in enumerate(images):
        row, column = divmod(index, columns)
        tile = image.resize((width, height), Image.Resampling.NEAREST)
        sheet.paste(tile, (GAP + column * (width + GAP), GAP + row * (height + GAP)))
    return sheet
