"""What the tasks with short answers of annotators share: VQAv2, OKVQA, TextVQA, VizWiz."""

import json
from collections.abc import Callable, Sequence

from dualdiff_jax.data.benchmarks.official import OfficialQuestions
from dualdiff_jax.data.benchmarks.question import Question, Questions
from dualdiff_jax.data.records.index import IndexCache
from dualdiff_jax.evaluation.metrics.vqa_accuracy import VqaAccuracy
from dualdiff_jax.evaluation.tasks.task import Answer, WriteSubmission


def official(format_name: str) -> Callable[[str, str, IndexCache], Questions]:
    """Opens a split of one of ``OFFICIAL_FORMATS``."""
    return lambda root, split, cache: OfficialQuestions(format_name, root, split, cache)


def update(metric: VqaAccuracy, question: Question, answer: str) -> float:
    """Adds one answer, in the group of its ``answer_type``."""
    return metric.update(answer, question.truths, question.types.get("answer_type"))


def id_and_answer(id_name: str, answer_name: str = "answer", *, is_number: bool = False) -> WriteSubmission:
    """A submission that is a JSON list of ids and answers."""

    def write(answers: Sequence[Answer], root: str) -> tuple[str, str]:
        rows = [
            {id_name: int(answer.question_id) if is_number else answer.question_id, answer_name: answer.text}
            for answer in answers
        ]
        return "submission.json", json.dumps(rows)

    return write
