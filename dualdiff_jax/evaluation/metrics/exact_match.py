"""Exact match of short answers: GQA.

Source: the task ``gqa`` of lmms-eval 0.7.3, whose figures papers print: space around the prediction, case and ASCII
punctuation do not count. GQA's own ``eval.py`` compares the bare strings, which no free-text model meets; its answers
have neither capitals nor punctuation.
"""

import string

from dualdiff_jax.evaluation.metrics.metric import MeanMetric, check_text

_PUNCTUATION = str.maketrans("", "", string.punctuation)


def exact_match(prediction: str, answer: str) -> float:
    """1 if the prediction is the answer, else 0.

    Args:
        prediction: the generated answer.
        answer: the only right one.

    Raises:
        UserError: one of them is no text.
    """
    check_text(prediction, "the prediction")
    check_text(answer, "the answer")
    return float(bare_form(prediction.strip()) == bare_form(answer))


def bare_form(text: str) -> str:
    """``text`` in small letters without ASCII punctuation."""
    return text.lower().translate(_PUNCTUATION)


class ExactMatch(MeanMetric):
    """The share of predictions that are the answer; ``parts`` by group, such as GQA's question types."""

    def update(self, prediction: str, answer: str, group: str | None = None) -> float:
        """Adds a record and returns its score; arguments and faults as of ``exact_match``."""
        return self._record(exact_match(prediction, answer), group)
