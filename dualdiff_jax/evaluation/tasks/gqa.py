"""GQA: questions made of scene graphs, with one answer each."""

from dualdiff_jax.evaluation.metrics.exact_match import ExactMatch, bare_form
from dualdiff_jax.evaluation.tasks import short_answers
from dualdiff_jax.evaluation.tasks.task import Reported, Task

TASK = Task(
    name="gqa",
    title="GQA",
    splits=("testdev", "val", "train", "test"),
    layout="testdev_balanced_questions.json and images/",
    open=short_answers.official("gqa"),
    metric=lambda settings: ExactMatch(),
    update=lambda metric, question, answer: metric.update(answer, question.truths[0], question.types.get("structural")),
    normalised=lambda answer, question: bare_form(answer.strip()),
    reported=(
        Reported("D-DiT 2B, 256 px", 55.1, "arXiv 2505.23606, table 2"),
        Reported("D-DiT 2B, 512 px", 59.2, "arXiv 2505.23606, table 2"),
    ),
    submission=short_answers.id_and_answer("questionId", "prediction"),
)
