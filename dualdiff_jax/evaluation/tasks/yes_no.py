"""What the tasks of yes or no share: POPE and MME."""

from dualdiff_jax.data.benchmarks.question import Question
from dualdiff_jax.errors import quoted
from dualdiff_jax.evaluation.metrics.yes_no import is_yes_or_no
from dualdiff_jax.evaluation.tasks.task import truth_fault


def yes_no_fault(question: Question) -> str:
    """``truth_fault``, and whether the answer is neither yes nor no."""
    if question.truths and not is_yes_or_no(question.truths[0]):
        return f"has the answer {quoted(question.truths[0])}, which is neither yes nor no"
    return truth_fault(question)
