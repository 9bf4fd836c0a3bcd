"""``--mode=generate``, ``caption`` and ``answer``: a model folder, prompts and images in; images and texts out."""

import json
from collections.abc import Sequence
from pathlib import Path

from dualdiff_jax.data.tokenizer import Tokenizer
from dualdiff_jax.errors import UserError
from dualdiff_jax.files import make_folder
from dualdiff_jax.pipeline.pipeline import DualDiffusionPipeline
from dualdiff_jax.progress import bar


def generate(
    model: str, prompts: Sequence[str], output: str, *, dtype: str | None, seed: int, as_json: bool, **options
) -> None:
    """One PNG a prompt in ``output``; their names and prompts on stdout."""
    if not prompts:
        raise UserError('there is nothing to draw; give --prompt="..."')
    for prompt in prompts:
        if not prompt.strip():
            raise UserError("a prompt is empty; say what the image should show")
    folder = make_folder(Path(output), "--output")
    pipeline = DualDiffusionPipeline.from_pretrained(model, dtype=dtype)
    for prompt in prompts:
        _check_words(pipeline.tokenizer, prompt)
    images = pipeline.text_to_image(prompts, seed=seed, progress=bar("drawing"), **options)
    rows = []
    for index, (prompt, image) in enumerate(zip(prompts, images, strict=True)):
        file = folder / f"{index:04d}.png"
        image.save(file)
        rows.append({"image": str(file), "prompt": prompt, "seed": seed})
    _tell(rows, folder / "images.json", as_json, "{image}\t{prompt}")


def caption(
    model: str, images: Sequence[str], output: str | None, *, dtype: str | None, seed: int, as_json: bool, **options
) -> None:
    """One caption an image, on stdout and, with ``output``, in ``captions.json`` there."""
    if not images:
        raise UserError("there is nothing to read; give --image=FILE")
    folder = make_folder(Path(output), "--output") if output else None
    pipeline = DualDiffusionPipeline.from_pretrained(model, dtype=dtype)
    captions = pipeline.image_to_text(images, seed=seed, progress=bar("reading"), **options)
    rows = [{"image": i, "caption": c, "seed": seed} for i, c in zip(images, captions, strict=True)]
    _tell(rows, folder and folder / "captions.json", as_json, "{image}\t{caption}")


def answer(
    model: str,
    images: Sequence[str],
    questions: Sequence[str],
    output: str | None,
    *,
    dtype: str | None,
    seed: int,
    as_json: bool,
    **options,
) -> None:
    """One answer a pair; a single question is asked of every image, a single image gets every question."""
    if not images or not questions:
        raise UserError('a pair is missing; give --image=FILE and --question="..."')
    if len(questions) == 1:
        questions = list(questions) * len(images)
    elif len(images) == 1:
        images = list(images) * len(questions)
    folder = make_folder(Path(output), "--output") if output else None
    pipeline = DualDiffusionPipeline.from_pretrained(model, dtype=dtype)
    for question in questions:
        if not question.strip():
            raise UserError("a question is empty; say what you want to know")
        _check_words(pipeline.tokenizer, question)
    answers = pipeline.answer(images, questions, seed=seed, progress=bar("reading"), **options)
    rows = [
        {"image": i, "question": q, "answer": a, "seed": seed}
        for i, q, a in zip(images, questions, answers, strict=True)
    ]
    _tell(rows, folder and folder / "answers.json", as_json, "{image}\t{question}\t{answer}")


def _check_words(tokenizer: Tokenizer, text: str) -> None:
    unknown = tokenizer.unknown_words(text)
    if unknown:
        raise UserError(
            f"this model's tokenizer does not know {', '.join(map(repr, unknown))}; use other words in {text!r}"
        )


def _tell(rows: list[dict], file: Path | None, as_json: bool, line: str) -> None:
    text = json.dumps(rows, indent=2, ensure_ascii=False)
    if file:
        file.write_text(text + "\n", encoding="utf-8")
    print(text if as_json else "\n".join(line.format(**row) for row in rows))
