"""MMBench: multiple choice, right only if it is right for every rotation of the options."""

import csv
import io
from collections.abc import Sequence

from dualdiff_jax.data.benchmarks.mmbench import MMBenchQuestions
from dualdiff_jax.data.benchmarks.question import Question
from dualdiff_jax.evaluation.metrics.multiple_choice import MultipleChoice, infer_letter
from dualdiff_jax.evaluation.tasks.choices import ask, letter_fault
from dualdiff_jax.evaluation.tasks.task import LETTER, Answer, Task, TaskSettings

FILES = {
    "dev_en": ("MMBench_DEV_EN.tsv", "mmbench_dev_en_20231003.tsv", "mmbench_dev_20230712.tsv"),
    "dev_cn": ("MMBench_DEV_CN.tsv", "mmbench_dev_cn_20231003.tsv"),
    "test_en": ("MMBench_TEST_EN.tsv", "mmbench_test_en_20231003.tsv"),
    "test_cn": ("MMBench_TEST_CN.tsv", "mmbench_test_cn_20231003.tsv"),
    "dev_en_v11": ("MMBench_DEV_EN_V11.tsv",),
    "test_en_v11": ("MMBench_TEST_EN_V11.tsv",),
}


def update(metric: MultipleChoice, question: Question, answer: str) -> float:
    """Adds one answer, in the group of its category."""
    group = question.types.get("category")
    return metric.update(answer, question.truths[0], question.options, group, question.unit)


def submission(answers: Sequence[Answer], root: str) -> tuple[str, str]:
    """Indexes and predictions as CSV; the server takes them as columns of an Excel file."""
    stream = io.StringIO()
    writer = csv.writer(stream)
    writer.writerow(["index", "prediction"])
    writer.writerows([answer.question_id, answer.normalised] for answer in answers)
    return "submission.csv", stream.getvalue()


TASK = Task(
    name="mmbench",
    title="MMBench (circular)",
    splits=tuple(FILES),
    layout=" or ".join(FILES["dev_en"]),
    open=lambda root, split, cache: MMBenchQuestions(root, FILES[split], split, cache),
    metric=lambda settings: MultipleChoice("mmbench"),
    update=update,
    normalised=lambda answer, question: infer_letter(answer, question.options) or "",
    settings=TaskSettings(suffix=LETTER, length=256),
    ask=ask,
    uses=("suffix", "choose_by"),
    fault=letter_fault,
    submission=submission,
)
