"""How tasks with options ask: MMMU and MMBench."""

from dualdiff_jax.data.benchmarks.question import Question
from dualdiff_jax.errors import quoted
from dualdiff_jax.evaluation.metrics.multiple_choice import LETTERS
from dualdiff_jax.evaluation.tasks.task import SINGLE_WORD, TaskSettings, suffixed, truth_fault


def ask(question: Question, settings: TaskSettings) -> str:
    """The question, a line for each option with its letter, and the suffix; an open question has ``SINGLE_WORD``."""
    if not question.options:
        return f"{question.text} {SINGLE_WORD}"
    options = [f"{letter}. {option}" for letter, option in zip(LETTERS, question.options, strict=False)]
    return suffixed("\n".join([question.text, *options]), settings)


def letter_fault(question: Question) -> str:
    """``truth_fault``, and whether there are more options than letters, or a right letter that no option has."""
    count = len(question.options)
    if count > len(LETTERS):
        return f"has {count} options, and {len(LETTERS)} can have a letter"
    if not count or not question.truths or question.truths[0] in list(LETTERS[:count]):
        return truth_fault(question)
    return f"has {count} options and the answer {quoted(question.truths[0])}"
