"""POPE: is there such an object in the image? Three ways of choosing objects that are not."""

from dualdiff_jax.data.benchmarks.official import OfficialQuestions
from dualdiff_jax.data.benchmarks.question import JoinedQuestions, Question, Questions
from dualdiff_jax.data.records.index import IndexCache
from dualdiff_jax.evaluation.metrics.yes_no import SPLITS, Pope, pope_answer
from dualdiff_jax.evaluation.tasks.task import Reported, Task
from dualdiff_jax.evaluation.tasks.yes_no import yes_no_fault

ALL = "all"


def opened(root: str, split: str, cache: IndexCache) -> Questions:
    """One split, or all of them."""
    names = SPLITS if split == ALL else (split,)
    return JoinedQuestions(f"pope/{split}", [OfficialQuestions("pope", root, name, cache) for name in names])


def update(metric: Pope, question: Question, answer: str) -> float:
    """Adds one answer, in the split that its id begins with."""
    return metric.update(answer, question.truths[0], question.question_id.split("/")[0])


TASK = Task(
    name="pope",
    title="POPE (F1)",
    splits=(ALL, *SPLITS),
    layout="coco_pope_random.json, coco_pope_popular.json, coco_pope_adversarial.json and val2014/",
    open=opened,
    metric=lambda settings: Pope(),
    update=update,
    fault=yes_no_fault,
    normalised=lambda answer, question: pope_answer(answer),
    reported=(Reported("D-DiT 2B, 512 px; accuracy or F1, it is not said which", 84.0, "arXiv 2505.23606, table 2"),),
)
