"""MME: two questions about each image, one to be answered with yes and one with no, in 14 categories."""

from dualdiff_jax.data.benchmarks.mme import mme_questions
from dualdiff_jax.data.benchmarks.question import Question
from dualdiff_jax.evaluation.metrics.yes_no import GROUPS, Mme, mme_answer
from dualdiff_jax.evaluation.tasks.task import Reported, Task, TaskSettings, suffixed
from dualdiff_jax.evaluation.tasks.yes_no import yes_no_fault

INSTRUCTION = "Please answer yes or no."  # at the end of every question, in place of which the suffix stands
PERCEPTION, COGNITION = GROUPS


def ask(question: Question, settings: TaskSettings) -> str:
    """The question with the suffix in the place of its own instruction."""
    return suffixed(question.text.strip().removesuffix(INSTRUCTION).strip(), settings)


def update(metric: Mme, question: Question, answer: str) -> float:
    """Adds one answer."""
    return metric.update(answer, question.truths[0], question.types["category"], question.unit)


def _task(name: str, title: str, group: str, reported: tuple[Reported, ...]) -> Task:
    return Task(
        name=name,
        title=title,
        splits=("all",),
        layout=f"the folders {', '.join(GROUPS[group])}, each with NAME.txt beside NAME.jpg or NAME.png, or "
        "questions_answers_YN/NAME.txt and images/NAME.jpg,",
        open=lambda root, split, cache: mme_questions(root, GROUPS[group]),
        metric=lambda settings: Mme(group),
        update=update,
        fault=yes_no_fault,
        normalised=lambda answer, question: mme_answer(answer) or "neither",
        ask=ask,
        unit="points",
        scale=1.0,
        reported=reported,
    )


TASK = _task(
    "mme",
    "MME perception",
    PERCEPTION,
    (
        Reported("D-DiT 2B, 256 px", 897.5, "arXiv 2505.23606, table 2"),
        Reported("D-DiT 2B, 512 px", 1124.7, "arXiv 2505.23606, table 2"),
    ),
)
COGNITION_TASK = _task("mme_cognition", "MME cognition", COGNITION, ())
