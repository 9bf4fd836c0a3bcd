"""``--mode=evaluate``: the scores of a model on benchmarks, from the publishers' files."""

import dataclasses
import functools
import json
from collections.abc import Mapping, Sequence
from typing import Any

from dualdiff_jax.cli.loading import is_first_host, load, local_model, rehearse
from dualdiff_jax.errors import UserError
from dualdiff_jax.evaluation.asking import Asker, Sampling
from dualdiff_jax.evaluation.model_fingerprint import model_fingerprint
from dualdiff_jax.evaluation.record import Record
from dualdiff_jax.evaluation.report import write_report
from dualdiff_jax.evaluation.runner import Evaluation, OpenedTask
from dualdiff_jax.evaluation.runner import evaluate as run
from dualdiff_jax.evaluation.tasks.registry import task_of
from dualdiff_jax.evaluation.tasks.task import Task
from dualdiff_jax.files import as_path, locked_folder
from dualdiff_jax.pipeline.inputs import Seed, check_settings
from dualdiff_jax.pipeline.pipeline import DualDiffusionPipeline
from dualdiff_jax.progress import bar
from dualdiff_jax.sampling.text_options import OWN_OPTIONS


def evaluate(
    model: str,
    tasks: Sequence[str],
    data: str,
    output: str,
    *,
    settings: Mapping[str, Any],
    sampling: Mapping[str, Any],
    split: str | None,
    limit: int | None,
    sampling_batch: int | None,
    dtype: str | None,
    t5_bits: int | None,
    seed: Seed,
    as_json: bool,
    overwrite: bool,
) -> None:
    """Evaluates task after task, and prints a line for each.

    Args:
        model: as in ``sample.generate``, like ``dtype`` and ``t5_bits``.
        tasks: names in the registry, each once.
        data: folder of the publishers' files; of a task with a folder of its name in there, that one.
        output: folder for the records, the predictions and the report. What is there goes on.
        settings: of the tasks, where they are not None.
        sampling: ``height``, ``width``, ``fit``, ``order`` and the options of the text sampler; None is the model's.
        split: of every task; None for each task's default.
        limit: about how many questions of each task; None for all.
        sampling_batch: questions that are asked together; None for the model's.
        seed: of all random draws.
        as_json: prints the records in place of lines.
        overwrite: begins anew.

    Raises:
        UserError: something cannot be used; before the model is loaded where it can be seen before.
    """
    evaluations = _evaluations(tasks, data, settings, sampling, split, limit, seed)
    weights = {"dtype": dtype, "t5_bits": t5_bits}
    with locked_folder(as_path(output), "--output"):
        opened = [dataclasses.replace(each, weights=weights).open() for each in evaluations]
        path = local_model(model)
        rehearse(path, dtype, *(functools.partial(_ask_first, each) for each in opened))
        pipeline = with_batch(load(path, dtype, t5_bits), sampling_batch)
        facts = {"path": model, "fingerprint": model_fingerprint(pipeline)}
        records = []
        for each in opened:
            records.append(_evaluate(each, pipeline, facts, output, overwrite))
            if is_first_host() and not as_json:
                print(_line(records[-1]), flush=True)
    if is_first_host() and as_json:
        print(json.dumps(records, indent=2))


def _ask_first(opened: OpenedTask, pipeline: DualDiffusionPipeline) -> None:
    """Asks the first question of a task."""
    evaluation = opened.evaluation
    asker = Asker(pipeline, evaluation.task.ask, evaluation.settings, evaluation.sampling)
    next(asker.ask(opened.questions, opened.chosen.indexes[:1]), None)


def _evaluate(
    opened: OpenedTask, pipeline: DualDiffusionPipeline, facts: dict[str, str], output: str, overwrite: bool
) -> Record:
    name, folder = opened.evaluation.task.name, as_path(output)
    progress = bar(name) if is_first_host() else None
    found = run(opened, pipeline, facts, folder, overwrite=overwrite, progress=progress)
    if is_first_host():
        write_report(folder, found, opened)
    return found


def _evaluations(
    tasks: Sequence[str],
    data: str,
    settings: Mapping[str, Any],
    sampling: Mapping[str, Any],
    split: str | None,
    limit: int | None,
    seed: Seed,
) -> list[Evaluation]:
    seed = one_seed(seed)
    _check_used(list(map(task_of, tasks)), settings)
    order = sampling["order"]
    if settings["steps"] is not None and order is not None and "steps" not in OWN_OPTIONS[order]:
        raise UserError(f"--steps is given, but --order={order} takes as many as a text needs; leave one out")
    named = {name: sampling[name] for name in ("height", "width", "fit", "order")}
    options = {name: value for name, value in sampling.items() if name not in named and value is not None}
    check_settings(**{name: value for name, value in named.items() if value is not None}, **options)
    found = []
    for task in map(task_of, tasks):
        root = as_path(data) / task.name
        found.append(
            Evaluation(
                task,
                task.with_settings({name: settings[name] for name in task.used(settings)}),
                Sampling(seed=seed, options=options, **named),
                str(root) if root.is_dir() else data,
                split,
                limit,
            )
        )
    return found


def _check_used(tasks: Sequence[Task], settings: Mapping[str, Any]) -> None:
    """Raises ``UserError`` that names the flags which none of the tasks uses."""
    used = {name for task in tasks for name in task.used(settings)}
    unused = [f"--{name}" for name, value in settings.items() if value is not None and name not in used]
    if unused:
        raise UserError(
            f"--task={'|'.join(task.name for task in tasks)} does not use {', '.join(unused)}; leave "
            f"{'it' if len(unused) == 1 else 'them'} out"
            + ("" if "--suffix" not in unused else ", or give a --question, which the suffix follows")
        )


def one_seed(seed: Seed) -> int:
    """The only seed. Raises ``UserError`` where there are several."""
    if not isinstance(seed, int):
        raise UserError(f"--seed has {len(seed)} numbers; an evaluation takes one")
    return seed


def with_batch(pipeline: DualDiffusionPipeline, sampling_batch: int | None) -> DualDiffusionPipeline:
    """The same model, whose calls take so many examples together; None keeps its own number."""
    if sampling_batch is None:
        return pipeline
    sampling = dataclasses.replace(pipeline.config.sampling, batch_size=sampling_batch)
    config = dataclasses.replace(pipeline.config, sampling=sampling)
    return DualDiffusionPipeline(config, pipeline.weights, pipeline.tokenizer)


def _line(found: Record) -> str:
    name = f"{found['title']}, {found['split']}, {found['questions']['asked']} questions"
    if found["score"] is None:
        return f"{name}: {found['state']}; the answers are in {found.get('submission', 'the predictions')}"
    error = "" if found["standard_error"] is None else f" +- {found['standard_error']:.2f}"
    return f"{name}: {found['score']:.2f}{error} {found['unit']}"
