"""``--mode=generate``, ``caption`` and ``answer``: images and texts from a model folder.

Each command raises ``UserError`` for a fault of its arguments, before the model is loaded where it can.
"""

import contextlib
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from dualdiff_jax.data.records.unicode import mend_text
from dualdiff_jax.errors import UserError, quoted, reason
from dualdiff_jax.files import as_path, is_bucket, is_there, locked_folder, new_file, write_text
from dualdiff_jax.files.matching import names_in
from dualdiff_jax.pipeline.devices import in_words
from dualdiff_jax.pipeline.image_options import check_image_options
from dualdiff_jax.pipeline.image_requests import MOST_IMAGES
from dualdiff_jax.pipeline.inputs import Seed, check_settings, whole_number
from dualdiff_jax.pipeline.pipeline import DualDiffusionPipeline
from dualdiff_jax.progress import bar


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
    rows = [
        {"prompt": prompt, "seed": each}
        for prompt, each in zip(prompts, seeds_of(seed, len(prompts)), strict=True)
        for _ in range(repeats)
    ]
    with results_folder(output, image_names(rows), overwrite) as folder:
        pipeline = load(model, dtype, t5_bits)
        pipeline.tokenizer.check_words(*prompts, options.get("negative_prompt") or "")
        images = pipeline.text_to_image(prompts, seed=seed, progress=bar("generating"), **options)
        write_images(folder, images, rows, as_json, "{image}\t{prompt}")


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
    check_files(images)
    with results_file(output, "captions.json", overwrite) as file:
        pipeline = load(model, dtype, t5_bits)
        captions = pipeline.image_to_text(images, seed=seed, progress=bar("reading"), **options)
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
    if not all(question.strip() for question in questions):
        raise UserError("a question is empty; ask something in --question")
    images, questions = paired(images, questions, "questions")
    seeds = seeds_of(seed, len(images))
    check_settings(**options)
    check_files(images)
    with results_file(output, "answers.json", overwrite) as file:
        pipeline = load(model, dtype, t5_bits)
        pipeline.tokenizer.check_words(*questions)
        answers = pipeline.answer(images, questions, seed=seed, progress=bar("reading"), **options)
        rows = [
            {"image": i, "question": q, "answer": a, "seed": each}
            for i, q, a, each in zip(images, questions, answers, seeds, strict=True)
        ]
        report_rows(rows, file, as_json, "{image}\t{question}\t{answer}")


def load(model: str, dtype: str | None, t5_bits: int | None) -> DualDiffusionPipeline:
    """The model on all devices of all processes; says on stderr how it lies on them where there are several."""
    pipeline = DualDiffusionPipeline.from_pretrained(model, dtype=dtype, t5_bits=t5_bits)
    if jax.device_count() > 1 and is_first_host():
        print(in_words(pipeline.mesh), file=sys.stderr)
    return pipeline


def is_first_host() -> bool:
    """Whether this process writes and prints the results, which all processes have."""
    return jax.process_index() == 0


def check_prompts(prompts: Sequence[str]) -> None:
    """Raises ``UserError`` unless there are prompts, none of them empty."""
    if not prompts:
        raise UserError('there is no prompt; give --prompt="..."')
    if not all(prompt.strip() for prompt in prompts):
        raise UserError("a prompt is empty; describe the image in --prompt")


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


def image_names(rows: Sequence[Any]) -> list[str]:
    """The files that ``write_images`` writes for ``rows``."""
    return [*(f"{index:04d}.png" for index in range(len(rows))), "images.json"]


def write_images(
    folder: Path, images: Sequence[Any] | np.ndarray, rows: Sequence[dict[str, Any]], as_json: bool, line: str
) -> None:
    """Writes PIL images and their list: ``rows`` with the files added. Prints that list."""
    *names, listed = image_names(rows)
    found = []
    for name, image, row in zip(names, images, rows, strict=True):
        if is_first_host():
            with _writing(folder / name), new_file(folder / name) as partial:
                image.save(partial, "PNG")
        found.append({"image": str(folder / name), **row})
    report_rows(found, folder / listed, as_json, line)


@contextlib.contextmanager
def results_folder(output: str, names: Sequence[str], overwrite: bool) -> Iterator[Path]:
    """A context in which this command alone writes results into a folder, which is made if necessary.

    Args:
        output: the folder.
        names: the files that will be written.
        overwrite: whether they may be replaced.

    Yields:
        The folder.

    Raises:
        UserError: another command writes there, the folder cannot be written, or one of the files exists.
    """
    folder = as_path(output)
    with locked_folder(folder, "--output"):
        if not overwrite:
            for name in _existing(folder, names):
                raise UserError(f"{folder / name}: exists; name another --output, or give --overwrite to replace it")
        yield folder


@contextlib.contextmanager
def results_file(output: str | None, name: str, overwrite: bool) -> Iterator[Path | None]:
    """The same for one file: yields its path, or None where ``output`` is None and the command only prints."""
    if not output:
        yield None
        return
    with results_folder(output, [name], overwrite) as folder:
        yield folder / name


def _existing(folder: Path, names: Sequence[str]) -> list[str]:
    """The ``names`` that ``folder`` has already."""
    if not is_bucket(folder):
        return [name for name in names if is_there(folder / name)]
    try:
        found = names_in(folder)
    except OSError as error:
        raise UserError(f"{folder}: cannot be read ({error.strerror}); choose another --output") from error
    return [name for name in names if name in found]


@contextlib.contextmanager
def _writing(file: Path) -> Iterator[None]:
    """Turns a failure to write ``file`` into a ``UserError``."""
    try:
        yield
    except OSError as error:
        raise UserError(f"{file}: cannot be written ({reason(error)}); make room, or name another --output") from error


def report_rows(rows: list[dict[str, Any]], file: Path | None, as_json: bool, line: str) -> None:
    """Writes ``rows`` to ``file`` and prints them, as JSON or each as ``line``; the first host does."""
    if not is_first_host():
        return
    text = mend_text(json.dumps(rows, indent=2, ensure_ascii=False))  # a prompt's bytes may be no UTF-8
    if file:
        with _writing(file):
            write_text(file, text + "\n")
    print(text if as_json else mend_text("\n".join(line.format(**row) for row in rows)))
