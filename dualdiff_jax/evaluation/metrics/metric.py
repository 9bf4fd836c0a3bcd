"""What all scores of benchmarks have in common: records in, one value with its uncertainty out.

With n records of scores s_i:

    score           mean(s)                                              (1)
    standard error  sqrt(sum((s_i - mean)^2) / (n - 1) / n)              (2)

Sums are exact before they are rounded once (``math.fsum``), so no order of records changes the last digit.
"""

import abc
import dataclasses
import math
from collections.abc import Mapping, Sequence

from dualdiff_jax.errors import UserError, quoted


@dataclasses.dataclass(frozen=True)
class MetricResult:
    """The score of all records.

    Attributes:
        score: the benchmark's main figure, in its own units.
        standard_error: of ``score``, in its units; None where one record cannot tell.
        count: the records behind ``score``.
        parts: other figures by name, such as those of categories.
    """

    score: float
    standard_error: float | None
    count: int
    parts: Mapping[str, float]


class Metric(abc.ABC):
    """Collects records.

    A subclass adds ``update(prediction, truth, ...)``, which returns the score of that record, or None where a record
    has no score of its own.
    """

    @abc.abstractmethod
    def result(self) -> MetricResult:
        """The score of all records so far.

        Raises:
            UserError: there are no records, or they are incomplete.
        """


class MeanMetric(Metric):
    """A score that is the mean over records; ``parts`` holds the mean of each group."""

    def __init__(self):
        self._scores: dict[str | None, list[float]] = {}

    def _record(self, score: float, group: str | None) -> float:
        self._scores.setdefault(group, []).append(score)
        return score

    def result(self) -> MetricResult:
        scores = [score for group in self._scores.values() for score in group]
        check_records(len(scores), self)
        parts = {group: mean(self._scores[group]) for group in sorted(filter(None, self._scores))}
        return MetricResult(mean(scores), standard_error(scores), len(scores), parts)


def mean(scores: Sequence[float]) -> float:
    """Equation (1) over at least one score."""
    return math.fsum(scores) / len(scores)


def standard_error(scores: Sequence[float]) -> float | None:
    """Equation (2); None for a single score."""
    if len(scores) < 2:
        return None
    centre = mean(scores)
    return math.sqrt(math.fsum((score - centre) ** 2 for score in scores) / (len(scores) - 1) / len(scores))


def check_records(count: int, metric: Metric) -> None:
    """Raises UserError if there is nothing to score."""
    if not count:
        raise UserError(f"{type(metric).__name__} has no records to score; update it with at least one")


def check_text(value: object, name: str) -> None:
    """Raises UserError if ``value``, which the message calls ``name``, is no string."""
    if not isinstance(value, str):
        raise UserError(f"{name} is {quoted(value)}, which is no text; give a string")
