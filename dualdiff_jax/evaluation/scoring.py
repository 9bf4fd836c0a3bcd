"""From predictions to the figures of a record."""

import math
import os
from collections.abc import Sequence
from typing import Any

from dualdiff_jax.data.benchmarks.question import Question
from dualdiff_jax.evaluation.asking import Asked
from dualdiff_jax.evaluation.metrics.metric import Metric, mean, standard_error
from dualdiff_jax.evaluation.predictions import Prediction
from dualdiff_jax.evaluation.tasks.task import Task, TaskSettings


class Scorer:
    """Scores predictions one by one, and all of them at the end.

    Args:
        task: whose rules hold.
        settings: of the task.
        is_answered: whether there are truths; without them nothing is scored.

    Raises:
        UserError: the metric's package is missing.
    """

    def __init__(self, task: Task, settings: TaskSettings, *, is_answered: bool):
        self._task, self._is_answered = task, is_answered
        self._metric: Metric = task.metric(settings)
        self._predictions: list[Prediction] = []

    def prediction(self, asked: Asked) -> Prediction:
        """The line of one answer, with its score; it counts from now on."""
        question = asked.question
        found: Prediction = {
            "id": question.question_id,
            "question": asked.prompt,
            "answer": asked.answer,
            "normalised": self._task.normalised(asked.answer, question),
            "truth": list(question.truths),
            "score": None,
            "types": dict(question.types),
            "image": str(question.image) if isinstance(question.image, os.PathLike) else None,
        }
        if asked.fault:
            found["fault"] = asked.fault
        if asked.scores:
            found["scores"] = list(asked.scores)
        self._add(found, question)
        return found

    def count(self, prediction: Prediction, question: Question) -> None:
        """Counts a prediction that an earlier run made."""
        self._add(prediction, question)

    def _add(self, prediction: Prediction, question: Question) -> None:
        if self._is_answered:
            prediction["score"] = self._task.update(self._metric, question, prediction["answer"])
        self._predictions.append(prediction)

    def figures(self) -> dict[str, Any]:
        """The fields of a record that depend on the answers, in the task's unit.

        Raises:
            UserError: nothing was answered, or the metric cannot score.
        """
        found: dict[str, Any] = {"score": None, "standard_error": None, "unit": self._task.unit, "parts": {}}
        if self._is_answered:
            result, scale = self._metric.result(), self._task.scale
            each = getattr(self._metric, "each", [])
            for prediction, score in zip(self._predictions, each, strict=False):
                prediction["score"] = score
            error = result.standard_error
            found["score"] = scale * result.score
            found["standard_error"] = None if error is None else scale * error
            found["count"] = result.count
            found["parts"] = {name: scale * value for name, value in result.parts.items()}
            found["by_type"] = by_type(self._predictions)
        found["too_long"] = sum("fault" in each for each in self._predictions)
        return found

    @property
    def predictions(self) -> Sequence[Prediction]:
        """All that counts, in the order in which it was added."""
        return self._predictions


def by_type(predictions: Sequence[Prediction]) -> dict[str, dict[str, dict[str, Any]]]:
    """Kind of question -> its names -> mean of the records' own scores, its standard error, and how many they are."""
    scores: dict[str, dict[str, list[float]]] = {}
    for prediction in predictions:
        score = prediction["score"]
        if score is None or not math.isfinite(score):
            continue
        for kind, name in prediction["types"].items():
            scores.setdefault(kind, {}).setdefault(name, []).append(score)
    return {
        kind: {
            name: {"score": mean(found), "standard_error": standard_error(found), "count": len(found)}
            for name, found in sorted(names.items())
        }
        for kind, names in sorted(scores.items())
    }
