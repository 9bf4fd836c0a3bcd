"""``--mode=edit``, ``inpaint`` and ``variations``: images from images.

Each command raises ``UserError`` for a fault of its arguments, before the model is loaded where it can.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from PIL import Image

from dualdiff_jax.cli.sample import (
    check_files,
    check_prompts,
    image_names,
    load,
    paired,
    results_folder,
    seeds_of,
    write_images,
)
from dualdiff_jax.errors import UserError
from dualdiff_jax.pipeline.edit_calls import VARIATIONS
from dualdiff_jax.pipeline.edit_inputs import as_strength, check_mask_count
from dualdiff_jax.pipeline.image_options import check_image_options
from dualdiff_jax.pipeline.image_requests import MOST_IMAGES
from dualdiff_jax.pipeline.inputs import Seed, check_settings, whole_number
from dualdiff_jax.pipeline.pipeline import DualDiffusionPipeline
from dualdiff_jax.progress import bar

Draw = Callable[..., list[Image.Image] | np.ndarray]


def edit(model: str, images: Sequence[str], output: str, prompts: Sequence[str], **options: Any) -> None:
    """Changes each image towards its prompt.

    Args:
        model: a model folder, or a diffusers folder.
        images: files; a single one goes with every prompt.
        output: folder for the images, ``NNNN.png``, and their list, ``images.json``.
        prompts: a single one goes with every image.
        options: ``dtype``, ``t5_bits``, ``seed``, ``as_json`` and ``overwrite`` as in ``sample.generate``, and those of
            ``DualDiffusionPipeline.image_to_image``.
    """
    check_prompts(prompts)
    _draw(model, images, output, prompts, lambda pipe, **given: pipe.image_to_image(images, **given), **options)


def inpaint(
    model: str, images: Sequence[str], output: str, prompts: Sequence[str], *, masks: Sequence[str], **options: Any
) -> None:
    """Repaints the white part of each image's mask.

    Args:
        model: as in ``edit``, like ``images``, ``output`` and ``prompts``.
        images: files.
        output: folder.
        prompts: texts.
        masks: files; a single one goes with every image.
        options: as in ``edit``, and those of ``DualDiffusionPipeline.inpaint``.
    """
    if not masks:
        raise UserError("there is no mask; give --mask=FILE, white where the image is repainted")
    if images:
        check_mask_count(len(masks), len(images))
    check_prompts(prompts)
    check_files(masks)

    def draw(pipe: DualDiffusionPipeline, **given: Any) -> list[Image.Image] | np.ndarray:
        return pipe.inpaint(images, list(masks), **given)

    _draw(model, images, output, prompts, draw, **options)


def variations(model: str, images: Sequence[str], output: str, *, count: int | None, **options: Any) -> None:
    """Draws several images like each image.

    Args:
        model: as in ``edit``, like ``images`` and ``output``.
        images: files.
        output: folder.
        count: of images for each image; None for ``VARIATIONS``.
        options: as in ``edit``, and those of ``DualDiffusionPipeline.variations``.
    """
    count = whole_number("count", count, VARIATIONS, most=MOST_IMAGES)

    def draw(pipe: DualDiffusionPipeline, **given: Any) -> list[Image.Image] | np.ndarray:
        return pipe.variations(images, count=count, **given)

    _draw(model, images, output, [], draw, repeats=count, **options)


def _draw(
    model: str,
    images: Sequence[str],
    output: str,
    prompts: Sequence[str],
    draw: Draw,
    *,
    dtype: str | None,
    t5_bits: int | None = None,
    seed: Seed,
    as_json: bool,
    overwrite: bool,
    strength: float | None,
    repeats: int | None = None,
    **options: Any,
) -> None:
    """Draws, writes and reports ``repeats`` images for each pair of image and prompt."""
    if not images:
        raise UserError("there is no image; give --image=FILE")
    if prompts:
        paired(images, prompts, "prompts")
    check_settings(**options)
    check_image_options(options)
    if strength is not None:
        options["strength"] = as_strength(strength)
    pairs = max(len(images), len(prompts))
    count = repeats or whole_number("images_per_prompt", options.get("images_per_prompt"), 1, most=MOST_IMAGES)
    rows: list[dict[str, Any]] = []
    for index, each in enumerate(seeds_of(seed, pairs)):
        row: dict[str, Any] = {"source": images[index if len(images) > 1 else 0], "seed": each}
        if prompts:
            row["prompt"] = prompts[index if len(prompts) > 1 else 0]
        rows += [row] * count
    check_files(images)
    with results_folder(output, image_names(rows), overwrite) as folder:
        pipeline = load(model, dtype, t5_bits)
        pipeline.tokenizer.check_words(*prompts, options.get("negative_prompt") or "")
        if prompts:
            options["prompts"] = list(prompts)
        found = draw(pipeline, seed=seed, progress=bar("generating"), **options)
        write_images(folder, found, rows, as_json, "{image}\t{source}")
