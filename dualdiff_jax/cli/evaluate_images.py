"""``--mode=evaluate`` of generated images: draws a benchmark's images, and scores folders of images.

Each command raises ``UserError`` for a fault of its arguments, before the model is loaded where it can.
"""

import functools
import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dualdiff_jax.cli.evaluate import one_seed, with_batch
from dualdiff_jax.cli.loading import is_first_host, load, local_model, rehearse
from dualdiff_jax.cli.results import results_folder
from dualdiff_jax.errors import UserError
from dualdiff_jax.evaluation import record
from dualdiff_jax.evaluation.fid.score import SUFFIX, Fid
from dualdiff_jax.evaluation.fid.statistics import write_statistics
from dualdiff_jax.evaluation.generation.clip_score import ClipScore
from dualdiff_jax.evaluation.generation.drawing import Drawing, OpenedDrawing, draw
from dualdiff_jax.evaluation.generation.geneval_results import geneval_figures
from dualdiff_jax.evaluation.generation.image_files import check_apart, listing_file, results_file
from dualdiff_jax.evaluation.generation.registry import IMAGE_TASKS
from dualdiff_jax.evaluation.metrics.metric import mean, standard_error
from dualdiff_jax.evaluation.model_fingerprint import model_fingerprint
from dualdiff_jax.evaluation.runner import FINISHED
from dualdiff_jax.files import as_path, locked_folder
from dualdiff_jax.pipeline.image_options import check_image_options
from dualdiff_jax.pipeline.inputs import Seed, check_settings
from dualdiff_jax.pipeline.pipeline import DualDiffusionPipeline
from dualdiff_jax.progress import bar


def draw_tasks(
    model: str,
    tasks: Sequence[str],
    data: str,
    output: str,
    *,
    seed: Seed,
    limit: int | None,
    sampling_batch: int | None,
    images_per_prompt: int | None,
    dtype: str | None,
    t5_bits: int | None,
    as_json: bool,
    overwrite: bool,
    **options: Any,
) -> None:
    """Draws the images of task after task, and prints a line for each.

    Args:
        model: as in ``sample.generate``, like ``dtype`` and ``t5_bits``.
        tasks: names in ``IMAGE_TASKS``, each once.
        data: folder of the publishers' files; of a task with a folder of its name in there, that one.
        output: folder for the images and records. What is there goes on.
        seed: of all random draws.
        limit: prompts of each task; None for all.
        sampling_batch: images that are drawn together; None for the model's.
        images_per_prompt: None for each task's own.
        as_json: prints the records in place of lines.
        overwrite: begins anew, and removes images that were drawn before.
        options: others of ``ImageOptions``; None is the model's own.

    Raises:
        UserError: something cannot be used, such as an output in the folder of the publisher's data.
    """
    seed = one_seed(seed)
    check_settings(**options)
    check_image_options(options)
    weights = {"dtype": dtype, "t5_bits": t5_bits}
    drawings = []
    for task in (IMAGE_TASKS[name] for name in tasks):
        root, images = _root(data, task.name, as_path(output)), as_path(output) / task.name
        check_apart(images, as_path(root))
        drawings.append(Drawing(task, root, seed, limit, images_per_prompt, options, weights))
    folder = as_path(output)
    with locked_folder(folder, "--output"):
        opened = [each.open() for each in drawings]
        path = local_model(model)
        rehearse(path, dtype, *(functools.partial(_draw_first, each) for each in opened))
        pipeline = with_batch(load(path, dtype, t5_bits), sampling_batch)
        facts = {"path": model, "fingerprint": model_fingerprint(pipeline)}
        records = []
        for each in opened:
            progress = bar(each.drawing.task.name) if is_first_host() else None
            found = draw(each, pipeline, facts, folder, overwrite=overwrite, progress=progress)
            records.append(_scored(each, found, folder))
            _print(_drawn_line(records[-1], folder), as_json)
    _print_json(records, as_json)


def _draw_first(opened: OpenedDrawing, pipeline: DualDiffusionPipeline) -> None:
    """Draws the first image of a task."""
    given = {name: value for name, value in opened.drawing.options.items() if value is not None}
    for image in opened.images[:1]:
        pipeline.text_to_image([image.prompt], seed=image.seed, **given)


def _root(data: str, task: str, output: Path) -> str:
    """The folder of the task's data: DATA/TASK where there is one, unless the task drew its images into it."""
    own, images = as_path(data) / task, output / task
    is_drawn = own.resolve() == images.resolve() and listing_file(images).is_file()
    return str(own) if own.is_dir() and not is_drawn else data


def _scored(opened: OpenedDrawing, found: record.Record, folder: Path) -> record.Record:
    """The record with GenEval's score, where its scorer has left results."""
    task = opened.drawing.task.name
    file = results_file(folder / task)
    if task == "geneval" and file.is_file():
        found = found | geneval_figures(file, [image.image for image in opened.images])
        if is_first_host():
            record.write_record(folder / f"{task}.json", found)
    return found


def _drawn_line(found: record.Record, folder: Path) -> str:
    name = f"{found['title']}, {found['prompts']['drawn']} prompts, {found['images']} images"
    if found["score"] is not None:
        error = "" if found["standard_error"] is None else f" +- {found['standard_error']:.3f}"
        parts = ", ".join(f"{tag} {score:.2f}" for tag, score in found["parts"].items())
        return f"{name}: {found['score']:.3f}{error} ({parts})"
    images = folder / found["task"]
    if found["task"] == "geneval":
        script = f"evaluate_images.py {images} --outfile={results_file(images)}"
        return f"{name} in {images}; score them with GenEval's {script}"
    return f"{name} in {images}; score them with --mode=evaluate --task=fid --images={images} --data=REFERENCE"


def fid(
    images: str,
    data: str,
    weights: str,
    output: str,
    *,
    resize: str,
    limit: int | None,
    as_json: bool,
    overwrite: bool,
) -> None:
    """Prints the FID of images against a reference, and keeps the statistics of both.

    Args:
        images: folder of images, or an ``.npz`` of statistics.
        data: the reference: the same.
        weights: Inception's file.
        output: folder for ``fid.json``, ``fid.images.npz`` and ``fid.reference.npz``.
        resize: a name in ``RESIZES``.
        limit: images of each folder, the first by name; None is all.
        as_json: prints the record in place of a line.
        overwrite: whether to replace such files where they exist.
    """
    if limit is not None and images.endswith(SUFFIX):
        raise UserError(
            f"--task=fid does not use --limit where --images={images} is a file of statistics; leave it out, or give "
            "the folder of the images"
        )
    names = ["fid.json", "fid.images.npz", "fid.reference.npz"]
    with results_folder(output, names, overwrite) as folder:
        asked = Fid(as_path(images), as_path(data), as_path(weights), resize, limit=limit)
        started = time.perf_counter()
        found = asked.score(bar("fid") if is_first_host() else None)
        counts = {"images": found.images.count or None, "reference": found.reference.count or None}
        written = _score_record("fid", "FID", found.distance, None, started) | {
            "settings": {"resize": resize, "limit": limit, "weights": asked.weights_hash},
            "data": {"images": images, "reference": data},
            "counts": counts,
        }
        if is_first_host():
            for name, statistics in zip(names[1:], (found.images, found.reference), strict=True):
                write_statistics(folder / name, statistics)
            record.write_record(folder / names[0], written)
        shown = " against ".join("statistics" if count is None else f"{count} images" for count in counts.values())
        _print(f"FID, {shown}, resized as {resize}: {found.distance:.4f}", as_json)
        _print_json([written], as_json)


def clip_score(images: str, weights: str, output: str, *, as_json: bool, overwrite: bool) -> None:
    """Prints the mean CLIP score of images that a benchmark's task drew, and keeps that of each.

    Args:
        images: folder of the images, ``OUTPUT/TASK`` of the drawing.
        weights: folder of a CLIP.
        output: folder for ``clip-score.json`` and ``clip-score.images.json``.
        as_json: prints the record in place of a line.
        overwrite: whether to replace such files where they exist.
    """
    names = ["clip-score.json", "clip-score.images.json"]
    with results_folder(output, names, overwrite) as folder:
        if not is_first_host():
            return
        asked, started = ClipScore(as_path(images), as_path(weights)), time.perf_counter()
        scores = asked.scores(bar("clip-score"))
        values = list(scores.values())
        written = _score_record("clip-score", "CLIP score", max(mean(values), 0.0), standard_error(values), started) | {
            "settings": {"clip": weights},
            "data": {"images": images},
            "counts": {"images": len(values)},
        }
        record.write_record(folder / names[1], scores)
        record.write_record(folder / names[0], written)
        error = "" if written["standard_error"] is None else f" +- {written['standard_error']:.3f}"
        _print(f"CLIP score, {len(values)} images: {written['score']:.3f}{error}", as_json)
        _print_json([written], as_json)


def _score_record(task: str, title: str, score: float, error: float | None, started: float) -> record.Record:
    return {
        "task": task,
        "title": title,
        "split": None,
        "state": FINISHED,
        "score": score,
        "standard_error": error,
        "unit": "",
        "seconds": {"all": time.perf_counter() - started},
        "versions": record.versions(),
        "devices": record.devices(),
        "command": record.command(),
    }


def _print(line: str, as_json: bool) -> None:
    if is_first_host() and not as_json:
        print(line, flush=True)


def _print_json(records: Sequence[Mapping[str, Any]], as_json: bool) -> None:
    if is_first_host() and as_json:
        print(json.dumps(records, indent=2))
