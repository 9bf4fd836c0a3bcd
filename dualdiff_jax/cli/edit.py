"""``--mode=edit``, ``inpaint`` and ``variations``: images from images.

Each command raises ``UserError`` for a fault of its arguments, before the model is loaded where it can.
"""

from collections.abc import Callable, Sequence
from typing import Any

from dualdiff_jax.cli.loading import call_model
from dualdiff_jax.cli.results import image_names, results_folder, write_images
from dualdiff_jax.cli.sample import Drawn, check_files, check_prompts, drawn_rows, paired
from dualdiff_jax.errors import UserError
from dualdiff_jax.pipeline.edit_calls import VARIATIONS
from dualdiff_jax.pipeline.edit_inputs import as_strength, check_mask_count
from dualdiff_jax.pipeline.image_options import check_image_options
from dualdiff_jax.pipeline.image_requests import MOST_IMAGES
from dualdiff_jax.pipeline.inputs import Seed, check_settings, whole_number
from dualdiff_jax.pipeline.pipeline import DualDiffusionPipeline
from dualdiff_jax.progress import bar

Draw = Callable[..., Drawn]


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

    def draw(pipe: DualDiffusionPipeline, **given: Any) -> Drawn:
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

    def draw(pipe: DualDiffusionPipeline, **given: Any) -> Drawn:
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
    for row in drawn_rows(seed, pairs, count):
        place = row.pop("input")
        of_prompt = {"prompt": prompts[place if len(prompts) > 1 else 0]} if prompts else {}
        rows.append({"source": images[place if len(images) > 1 else 0], **row, **of_prompt})
    check_files(images)
    if prompts:
        options["prompts"] = list(prompts)

    def call(pipeline: DualDiffusionPipeline) -> Drawn:
        pipeline.tokenizer.check_words(*prompts, options.get("negative_prompt") or "")
        return draw(pipeline, seed=seed, progress=bar("generating"), **options)

    with results_folder(output, image_names(rows), overwrite) as folder:
        write_images(folder, call_model(model, dtype, t5_bits, call), rows, as_json, "{image}\t{source}")
