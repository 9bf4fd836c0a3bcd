"""How tasks with options ask: MMMU and MMBench."""

from dualdiff_jax.data.benchmarks.question import Question
from dualdiff_jax.evaluation.metrics.multiple_choice import LETTERS
from dualdiff_jax.evaluation.tasks.task import SINGLE_WORD, TaskSettings, suffixed


def ask(question: Question, settings: TaskSettings) -> str:
    """The question, a line for each option with its letter, and the suffix; an open question has ``SINGLE_WORD``."""
    if not question.options:
        return f"{question.text} {SINGLE_WORD}"
    options = [f"{letter}. {option}" for letter, option in zip(LETTERS, question.options, strict=False)]
    return suffixed("\n".join([question.text, *options]), settings)
