"""Two evaluations side by side: paired differences with their error.

Questions that both have answered are pairs. With d_i = the score of the second minus that of the first,

    difference      mean(d)                                              (1)
    standard error  sqrt(sum((d_i - mean)^2) / (n - 1) / n)              (2)

which is far below the error of the two scores apart where models agree on most questions. Questions of one unit are
not independent, so where a task counts them together (MME's pairs, MMBench's rotations) (2) is a lower bound. Scores of
questions are the metric's own; where the benchmark's score is no mean of them (POPE's F1, MME's points), both
benchmark scores are reported as they are, and (1) and (2) are over the questions.
"""

import dataclasses
from collections.abc import Mapping
from pathlib import Path

from dualdiff_jax.errors import UserError, quoted
from dualdiff_jax.evaluation.metrics.metric import mean, standard_error
from dualdiff_jax.evaluation.predictions import Prediction, Predictions
from dualdiff_jax.evaluation.record import Record, at, read_record
from dualdiff_jax.evaluation.tasks.registry import TASKS


@dataclasses.dataclass(frozen=True)
class Difference:
    """The second evaluation against the first, on one task.

    Attributes:
        task: its name.
        unit: of ``scores``.
        scores: of both, as recorded; None where there is none.
        questions: that both have answered and scored.
        difference: by (1), over questions; between scores of questions.
        standard_error: by (2); None for one question.
        better, worse: questions that the second scores higher, or lower.
        by_type: kind/name -> (difference, standard error, questions).
        settings: those that differ, as ``name: first -> second``.
    """

    task: str
    unit: str
    scores: tuple[float | None, float | None]
    questions: int
    difference: float
    standard_error: float | None
    better: int
    worse: int
    by_type: Mapping[str, tuple[float, float | None, int]]
    settings: tuple[str, ...]


def compare(first: Path, second: Path) -> list[Difference]:
    """Compares all tasks that both folders have.

    Args:
        first: an evaluation's folder.
        second: another one's.

    Raises:
        UserError: a folder has no evaluation, or both have no task or no scored question in common.
    """
    found = [{name: read_record(folder / f"{name}.json") for name in TASKS} for folder in (first, second)]
    for folder, records in zip((first, second), found, strict=True):
        if not any(records.values()):
            raise UserError(f"{folder}: has no evaluation; name a folder that --mode=evaluate wrote")
    both = [name for name in TASKS if all(records[name] for records in found)]
    if not both:
        raise UserError(f"{first} and {second} have no task in common; evaluate both on the same one")
    compared = []
    for name in both:
        before, now = (records[name] for records in found)
        difference = before and now and _difference(name, first, second, before, now)
        compared += [difference] if difference else []
    if not compared:
        raise UserError(f"{first} and {second} have no scored question in common; let both finish on an answered split")
    return compared


def _difference(name: str, first: Path, second: Path, before: Record, now: Record) -> Difference | None:
    """None where no question that both have answered has a score."""
    if any(at(before, part) != at(now, part) for part in ("split", "data.fingerprint")):
        raise UserError(f"{first} and {second}: {name} was evaluated on other data; evaluate both on the same split")
    answers = [Predictions(folder / f"{name}.predictions.jsonl").read(mends=False) for folder in (first, second)]
    pairs = [(answers[0][key], answers[1][key]) for key in answers[0] if key in answers[1]]
    scored = [pair for pair in pairs if None not in (pair[0]["score"], pair[1]["score"])]
    if not scored:
        return None
    differences = [_delta(pair) for pair in scored]
    by_type: dict[str, list[float]] = {}
    for pair in scored:
        for kind, value in pair[0]["types"].items():
            by_type.setdefault(f"{kind}/{value}", []).append(_delta(pair))
    settings = {**before["settings"], **now["settings"]}
    return Difference(
        name,
        now.get("unit") or TASKS[name].unit,
        (before.get("score"), now.get("score")),
        len(scored),
        mean(differences),
        standard_error(differences),
        sum(each > 0 for each in differences),
        sum(each < 0 for each in differences),
        {kind: (mean(each), standard_error(each), len(each)) for kind, each in sorted(by_type.items())},
        tuple(
            f"{key}: {quoted(before['settings'].get(key))} -> {quoted(now['settings'].get(key))}"
            for key in settings
            if before["settings"].get(key) != now["settings"].get(key)
        ),
    )


def _delta(pair: tuple[Prediction, Prediction]) -> float:
    return pair[1]["score"] - pair[0]["score"]
