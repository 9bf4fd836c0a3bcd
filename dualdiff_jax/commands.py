"""The commands behind ``main.py --mode=...``: files in, files and lines out."""

import json
import os
from collections.abc import Sequence
from pathlib import Path

import jax

from dualdiff_jax.config import RunConfig
from dualdiff_jax.data.tokenizer import Tokenizer
from dualdiff_jax.distributed.process_group import first_goes_first, first_says
from dualdiff_jax.errors import UserError
from dualdiff_jax.evaluation.likelihood import Likelihood
from dualdiff_jax.evaluation.previews import Preview
from dualdiff_jax.pipeline.pipeline import DualDiffusionPipeline
from dualdiff_jax.planning import report
from dualdiff_jax.progress import bar
from dualdiff_jax.config.resolve import differences, resolve, to_dict
from dualdiff_jax.sharding import make_mesh
from dualdiff_jax.training.loop import train


def run_training(config: RunConfig, workdir: str) -> None:
    """Trains, with previews and validation where the config asks for them."""
    _check_same(config)
    mesh, tokenizer, hooks = make_mesh(config.mesh), Tokenizer(config.data.tokenizer), []
    if config.preview.every:
        preview = Preview(config.preview, config.model, tokenizer, Path(workdir) / "samples")
        hooks.append((config.preview.every, preview))
    if config.validation.every:
        with first_goes_first("validation"):
            hooks.append((config.validation.every, Likelihood(config, tokenizer, mesh)))
    folder = train(config, workdir, mesh, hooks)
    if folder is not None and jax.process_index() == 0:
        print(folder)


def _check_same(config: RunConfig) -> None:
    """Raises ``UserError`` where the processes were started with different configs: one would wait for another."""
    first = resolve(json.loads(first_says("config", json.dumps(to_dict(config)))))
    changed = list(differences(first, config))
    if changed:
        raise UserError(
            "this process was started with another config than process 0; start all with the same command. "
            "Process 0 -> this one:\n  " + "\n  ".join(changed)
        )


def plan(config: RunConfig, topology: str, of: str, *, is_search: bool, as_json: bool) -> None:
    """What ``of`` needs of a topology that is not here; with ``is_search``, the largest batch of each remat policy."""
    reports = report.search(config, topology) if is_search else [report.plan(config, topology, of)]
    print(json.dumps(reports if is_search else reports[0], indent=2) if as_json else _pages(reports))


def _pages(reports: Sequence[report.Report]) -> str:
    return "\n\n".join(report.table(page) for page in reports)


def generate(
    model: str, prompts: Sequence[str], output: str, *, dtype: str | None, seed: int, as_json: bool, **options
) -> None:
    """One PNG a prompt in ``output``; their names and prompts on stdout."""
    if not prompts:
        raise UserError('there is nothing to draw; give --prompt="..."')
    for prompt in prompts:
        if not prompt.strip():
            raise UserError("a prompt is empty; say what the image should show")
    folder = _writable(output)
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
    folder = _writable(output) if output else None
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
    folder = _writable(output) if output else None
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


def _writable(folder: str) -> Path:
    path = Path(folder)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{path}: cannot be made ({error.strerror}); choose another --output") from error
    if not os.access(path, os.W_OK):
        raise UserError(f"{path}: may not be written; choose another --output")
    return path


def _tell(rows: list[dict], file: Path | None, as_json: bool, line: str) -> None:
    text = json.dumps(rows, indent=2, ensure_ascii=False)
    if file:
        file.write_text(text + "\n", encoding="utf-8")
    print(text if as_json else "\n".join(line.format(**row) for row in rows))
