"""``--mode=generate``, ``caption`` and ``answer``: images and texts from a model folder.

Each command raises ``UserError`` for a fault of its arguments, before the model is loaded where it can.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

from dualdiff_jax.cli.loading import call_model
from dualdiff_jax.cli.results import image_names, report_rows, results_file, results_folder, write_images
from dualdiff_jax.errors import UserError, quoted
from dualdiff_jax.files import as_path, is_bucket, is_there
from dualdiff_jax.pipeline.image_options import check_image_options
from dualdiff_jax.pipeline.image_requests import MOST_IMAGES
from dualdiff_jax.pipeline.inputs import Seed, check_settings, whole_number
from dualdiff_jax.pipeline.pipeline import DualDiffusionPipeline
from dualdiff_jax.progress import bar

Drawn = list[Image.Image] | np.ndarray  # what the pipeline's calls return that draw images


def generate(
    model: str,
    prompts: Sequence[str],
    output: str,
    *,
    dtype: str | None,
    t5_bits: int | None = None,
    seed: Seed,
    as_json: bool,
    overwrite: bool,
    **options: Any,
) -> None:
    """Writes images for each prompt, and prints their files and prompts.

    Args:
        model: a model folder, or a diffusers folder.
        prompts: one image is made of each.
        output: folder for the images, ``NNNN.png``, and their list, ``images.json``.
        dtype: "float32", "bfloat16", or None for the model's own.
        t5_bits: 8 for T5's kernels in 8 bits, or None for T5 as it is.
        seed: of all random draws, or a list of one for each prompt.
        as_json: prints JSON in place of lines.
        overwrite: whether to replace such files where they exist.
        options: those of ``DualDiffusionPipeline.generate_images``.
    """
    check_prompts(prompts)
    check_settings(**options)
    check_image_options(options)
    repeats = whole_number("images_per_prompt", options.get("images_per_prompt"), 1, most=MOST_IMAGES)
    rows = [{"prompt": prompts[row.pop("input")], **row} for row in drawn_rows(seed, len(prompts), repeats)]

    def call(pipeline: DualDiffusionPipeline) -> Drawn:
        pipeline.tokenizer.check_words(*prompts, options.get("negative_prompt") or "")
        return pipeline.text_to_image(prompts, seed=seed, progress=bar("generating"), **options)

    with results_folder(output, image_names(rows), overwrite) as folder:
        write_images(folder, call_model(model, dtype, t5_bits, call), rows, as_json, "{image}\t{prompt}")


def caption(
    model: str,
    images: Sequence[str],
    output: str | None,
    *,
    dtype: str | None,
    t5_bits: int | None = None,
    seed: Seed,
    as_json: bool,
    overwrite: bool,
    **options: Any,
) -> None:
    """Prints a caption for each image file.

    Args:
        model: as in ``generate``, like ``dtype``, ``t5_bits``, ``seed``, ``as_json`` and ``overwrite``.
        images: files.
        output: folder for ``captions.json``; None writes none.
        options: those of ``DualDiffusionPipeline.image_to_text``.
    """
    if not images:
        raise UserError("there is no image; give --image=FILE")
    seeds = seeds_of(seed, len(images))
    check_settings(**options)
    if options.get("guidance_null") == "text":
        raise UserError("--guidance_null=text masks a prompt, and a caption has none; leave it out")
    check_files(images)

    def call(pipeline: DualDiffusionPipeline) -> list[str]:
        return pipeline.image_to_text(images, seed=seed, progress=bar("reading"), **options)

    with results_file(output, "captions.json", overwrite) as file:
        captions = call_model(model, dtype, t5_bits, call)
        rows = [{"image": i, "caption": c, "seed": s} for i, c, s in zip(images, captions, seeds, strict=True)]
        report_rows(rows, file, as_json, "{image}\t{caption}")


def answer(
    model: str,
    images: Sequence[str],
    questions: Sequence[str],
    output: str | None,
    *,
    dtype: str | None,
    t5_bits: int | None = None,
    seed: Seed,
    as_json: bool,
    overwrite: bool,
    **options: Any,
) -> None:
    """Prints an answer for each pair of image and question.

    Args:
        model: as in ``generate``, like ``dtype``, ``t5_bits``, ``seed``, ``as_json`` and ``overwrite``.
        images: files; a single one is paired with every question.
        questions: a single one is asked about every image.
        output: folder for ``answers.json``; None writes none.
        options: those of ``DualDiffusionPipeline.answer``.
    """
    if not images or not questions:
        raise UserError('an image or a question is missing; give --image=FILE and --question="..."')
    check_questions(questions)
    images, questions = paired(images, questions, "questions")
    seeds = seeds_of(seed, len(images))
    check_settings(**options)
    check_files(images)

    def call(pipeline: DualDiffusionPipeline) -> list[str]:
        pipeline.tokenizer.check_words(*questions)
        return pipeline.answer(images, questions, seed=seed, progress=bar("reading"), **options)

    with results_file(output, "answers.json", overwrite) as file:
        answers = call_model(model, dtype, t5_bits, call)
        rows = [
            {"image": i, "question": q, "answer": a, "seed": each}
            for i, q, a, each in zip(images, questions, answers, seeds, strict=True)
        ]
        report_rows(rows, file, as_json, "{image}\t{question}\t{answer}")


def check_prompts(prompts: Sequence[str]) -> None:
    """Raises ``UserError`` unless there are prompts, none of them empty."""
    if not prompts:
        raise UserError('there is no prompt; give --prompt="..."')
    if not all(prompt.strip() for prompt in prompts):
        raise UserError("a prompt is empty; describe the image in --prompt")


def check_questions(questions: Sequence[str]) -> None:
    """Raises ``UserError`` where a question is empty."""
    if not all(question.strip() for question in questions):
        raise UserError("a question is empty; ask something in --question")


def check_files(files: Sequence[str]) -> None:
    """Raises ``UserError`` unless all ``files``, which are images, are there; those in a bucket are found later."""
    for file in files:
        path = as_path(file)
        if not file or not (is_bucket(path) or is_there(path)):
            raise UserError(f"{file or quoted(file)}: there is no such file")


def paired(images: Sequence[str], texts: Sequence[str], name: str) -> tuple[list[str], list[str]]:
    """Both as long as each other; a single entry of one goes with all of the other. ``name`` is that of the texts.

    Raises ``UserError`` where that cannot be.
    """
    if len(images) != len(texts) and 1 not in (len(images), len(texts)):
        raise UserError(f"{len(images)} images, but {len(texts)} {name}; give one of either, or as many of each")
    if len(texts) == 1:
        texts = list(texts) * len(images)
    elif len(images) == 1:
        images = list(images) * len(texts)
    return list(images), list(texts)


def seeds_of(seed: Seed, count: int) -> list[int]:
    """The seed of each of ``count`` prompts or images. Raises ``UserError`` where there are neither 1 nor ``count``."""
    if isinstance(seed, int):
        return [seed] * count
    if len(seed) != count:
        raise UserError(f"--seed has {len(seed)} numbers for {count} prompts or images; give one, or one for each")
    return list(seed)


def drawn_rows(seed: Seed, count: int, repeats: int = 1) -> list[dict[str, Any]]:
    """A row for each image of a call, in their order: what it was drawn with.

    Args:
        seed: one, or a list of one for each input.
        count: inputs: prompts, images, or pairs of both.
        repeats: images of each input.

    Returns:
        "input", the place of its input; "seed"; and "index", its place among the images of that seed, which its draws
        depend on too: a call with this seed alone draws it as its image number "index", from 0.

    Raises:
        UserError: there are neither 1 nor ``count`` seeds.
    """
    is_shared = isinstance(seed, int)
    return [
        {"input": place, "seed": each, "index": place * repeats + repeat if is_shared else repeat}
        for place, each in enumerate(seeds_of(seed, count))
        for repeat in range(repeats)
    ]
