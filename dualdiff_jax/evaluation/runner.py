"""Evaluates a model on one task, from where an earlier run was stopped.

    open the questions -> compare with what is in the folder -> ask what is left, a batch at a time -> score
All processes ask the same batches, split over all devices; process 0 keeps the files.
"""

import dataclasses
import hashlib
import json
import time
from pathlib import Path
from typing import Any, NamedTuple

import jax

from dualdiff_jax.config.resolve import to_dict
from dualdiff_jax.data.benchmarks.question import Questions
from dualdiff_jax.data.fingerprint import source_fingerprint
from dualdiff_jax.data.records.index import IndexCache
from dualdiff_jax.distributed.process_group import broadcast_from_first, first_host_first
from dualdiff_jax.errors import UserError
from dualdiff_jax.evaluation import record
from dualdiff_jax.evaluation.agreement import left_over
from dualdiff_jax.evaluation.asking import Asker, Sampling
from dualdiff_jax.evaluation.predictions import Prediction, Predictions
from dualdiff_jax.evaluation.scoring import Scorer
from dualdiff_jax.evaluation.subset import Subset, choose
from dualdiff_jax.evaluation.tasks.task import Answer, Task, TaskSettings
from dualdiff_jax.files import write_text
from dualdiff_jax.pipeline.pipeline import DualDiffusionPipeline
from dualdiff_jax.progress import Progress, report

UNFINISHED, FINISHED, NO_SCORE = "unfinished", "finished", "no score: the answers of this split are not published"


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """One task as it is asked of one model.

    Attributes:
        task: the benchmark.
        settings: of the task.
        sampling: the other settings.
        root: folder of the publisher's files.
        split: of the benchmark; None for the task's default.
        limit: about how many questions; None for all.
        weights: how the weights were loaded, for the settings: such as {"dtype": "bfloat16"}.
    """

    task: Task
    settings: TaskSettings
    sampling: Sampling
    root: str
    split: str | None = None
    limit: int | None = None
    weights: dict[str, Any] = dataclasses.field(default_factory=dict)

    def open(self, *, is_scored: bool = False) -> "OpenedTask":
        """Finds all that can be found wrong before the model is asked.

        Args:
            is_scored: whether a score is all that the caller wants, so that a split without answers has no use.

        Raises:
            UserError: the data or the metric cannot be used.
        """
        cache = IndexCache()
        with first_host_first("questions"):
            questions = self.task.questions(self.root, self.split, cache)
            if is_scored and not questions.is_answered:
                raise UserError(f"the answers of {questions.name} are not published; choose another split")
            if not questions.is_answered and self.task.check_submission is not None:
                self.task.check_submission(questions.root)
            chosen = choose(questions, self.limit, self.task.fault)
        scorer = Scorer(self.task, self.settings, is_answered=questions.is_answered)
        return OpenedTask(self, questions, chosen, scorer, cache)


class OpenedTask(NamedTuple):
    """An evaluation whose questions have been looked at."""

    evaluation: Evaluation
    questions: Questions
    chosen: Subset
    scorer: Scorer
    cache: IndexCache


def evaluate(
    opened: OpenedTask,
    pipeline: DualDiffusionPipeline,
    model: dict[str, str],
    folder: Path,
    *,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> record.Record:
    """Asks all questions that have no answer in ``folder`` yet, and scores all.

    Args:
        opened: what to ask; its scorer is used up.
        pipeline: the model.
        model: its ``path`` and ``fingerprint``, for the record.
        folder: exists, and is locked.
        overwrite: begins anew.
        progress: called after each batch with (questions answered, questions in all).

    Returns:
        The record, as it was written to ``TASK.json``; on all processes.

    Raises:
        UserError: the data cannot be used; or the folder has answers by another model, of other data or by other
            settings, with what differs.
    """
    evaluation, questions, chosen, scorer, _ = opened
    files = _Files(evaluation.task.name, folder)
    found = _record(opened, pipeline, model)
    done = files.begin(found, chosen, overwrite) if jax.process_index() == 0 else {}
    left = [chosen.indexes[place] for place in left_over("questions", chosen.ids, done)]
    asker = Asker(pipeline, evaluation.task.ask, evaluation.settings, evaluation.sampling)
    places = dict(zip(chosen.ids, chosen.indexes, strict=True))
    for name, prediction in done.items():
        scorer.count(prediction, questions[places[name]])
    started, count = time.perf_counter(), len(chosen.ids) - len(left)
    try:
        for asked in asker.ask(questions, left):
            if jax.process_index() == 0:
                files.predictions.append([scorer.prediction(each) for each in asked])
            count += len(asked)
            report(progress, count, len(chosen.ids))
    finally:
        files.predictions.close()
    seconds = {"all": time.perf_counter() - started, "model": asker.seconds, "questions": len(left)}
    if jax.process_index() == 0:
        files.end(found, opened, seconds)
    return json.loads(broadcast_from_first("record", json.dumps(found)))


def _record(opened: OpenedTask, pipeline: DualDiffusionPipeline, model: dict[str, str]) -> record.Record:
    """All of the record that is known before a question is asked. All hosts must find the same data."""
    evaluation, questions, chosen, _, cache = opened
    data = source_fingerprint(questions, questions.root, cache)
    digest = hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()[:16]
    if digest != broadcast_from_first("questions", digest):
        raise UserError(
            f"{questions.root}: {questions.name} of this host differs from the first host's; give all hosts the same "
            "data"
        )
    task = evaluation.task
    return {
        "task": task.name,
        "title": task.title,
        "split": evaluation.split or task.splits[0],
        "state": UNFINISHED,
        "score": None,
        "reported": [each._asdict() for each in task.reported],
        "questions": {"in_split": len(questions), "asked": len(chosen.ids), "limit": evaluation.limit},
        "settings": dataclasses.asdict(evaluation.settings) | evaluation.sampling.given() | evaluation.weights,
        "model": model | {"sampling": to_dict(pipeline.config.sampling)},
        "data": {"root": questions.root, "fingerprint": data},
        "versions": record.versions(),
        "devices": record.devices(),
        "command": record.command(),
    }


class _Files:
    """The files of one task in the folder."""

    def __init__(self, task: str, folder: Path):
        self._task, self._folder, self._record = task, folder, folder / f"{task}.json"
        self.predictions = Predictions(folder / f"{task}.predictions.jsonl")

    def begin(self, found: record.Record, chosen: Subset, overwrite: bool) -> dict[str, Prediction]:
        """The answers that count already, of ``chosen``. Raises ``UserError`` where they are of something else."""
        before = None if overwrite else record.read_record(self._record)
        done: dict[str, Prediction] = {}
        if before is not None:
            if changed := record.differences(before, found):
                raise UserError(
                    f"{self._record}: has answers by another model, of other data or by other settings; choose another "
                    "--output, or give --overwrite to replace them. There -> here:\n  " + "\n  ".join(changed)
                )
            done = self.predictions.read()
        elif self.predictions.exist():
            if not overwrite:
                raise UserError(
                    f"{self._folder}: has answers to {self._task}, but no {self._record.name} that says what gave "
                    "them; choose another --output, or give --overwrite to replace them"
                )
            self.predictions.replace([])
        record.write_record(self._record, found)
        return {name: done[name] for name in chosen.ids if name in done}

    def end(self, found: record.Record, opened: OpenedTask, seconds: dict[str, float]) -> None:
        """Completes the record and writes it, and the submission of a split without answers."""
        evaluation, questions, _, scorer, _ = opened
        found |= scorer.figures()
        found["state"] = FINISHED if questions.is_answered else NO_SCORE
        found["seconds"] = seconds
        kept = self.predictions.read()
        scores = {each["id"]: each["score"] for each in scorer.predictions}
        if any(kept[name]["score"] != score for name, score in scores.items() if name in kept):
            self.predictions.replace(
                [each | {"score": scores.get(each["id"], each["score"])} for each in kept.values()]
            )
        if not questions.is_answered and evaluation.task.submission is not None:
            answers = [Answer(each["id"], each["answer"], each["normalised"]) for each in scorer.predictions]
            ending, text = evaluation.task.submission(answers, questions.root)
            file = self._folder / f"{self._task}.{ending}"
            write_text(file, text)
            found["submission"] = str(file)
        record.write_record(self._record, found)
