"""MMMU: college questions of 30 subjects, most of them multiple choice."""

import json
from collections.abc import Sequence

from dualdiff_jax.data.benchmarks.mmmu import MMMUQuestions
from dualdiff_jax.data.benchmarks.question import Question
from dualdiff_jax.evaluation.metrics.multiple_choice import MultipleChoice, parse_letter
from dualdiff_jax.evaluation.metrics.open_answers import open_candidates
from dualdiff_jax.evaluation.tasks.choices import ask, letter_fault
from dualdiff_jax.evaluation.tasks.task import LETTER, Answer, Task, TaskSettings

BETWEEN = " | "  # candidates


def update(metric: MultipleChoice, question: Question, answer: str) -> float:
    """Adds one answer, in the group of its subject."""
    subject = question.types["subject"]
    if question.options:
        return metric.update(answer, question.truths[0], question.options, subject)
    return metric.update_open(answer, question.truths, subject)


def normalised(answer: str, question: Question) -> str:
    """The letter; of an open question all that the answer may mean."""
    if question.options:
        return parse_letter(answer, question.options) or ""
    return BETWEEN.join(map(str, open_candidates(answer)))


def submission(answers: Sequence[Answer], root: str) -> tuple[str, str]:
    """The object of ids and answers that MMMU's server takes: letters, and of open questions the first candidate."""
    found = {answer.question_id: answer.normalised.split(BETWEEN)[0] for answer in answers}
    return "submission.json", json.dumps(found)


TASK = Task(
    name="mmmu",
    title="MMMU",
    splits=("validation", "dev", "test"),
    layout="SUBJECT/validation-00000-of-00001.parquet for each subject",
    open=lambda root, split, cache: MMMUQuestions(root, split),
    metric=lambda settings: MultipleChoice("mmmu"),
    update=update,
    normalised=normalised,
    settings=TaskSettings(suffix=LETTER, length=256),
    ask=ask,
    uses=("suffix", "choose_by"),
    fault=letter_fault,
    submission=submission,
)
