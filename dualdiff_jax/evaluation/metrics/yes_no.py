"""Yes-or-no benchmarks: POPE and MME.

POPE   source: ``evaluate.py`` of AoiDragon/POPE at f3ec604. An answer is "no" if its first sentence without commas has
       the word "No", "no" or "not", else "yes". Where the original divides by zero, the figure is 0.
MME    source: ``mme/utils.py`` of lmms-eval 0.7.3. An answer is the "yes" or "no" of its first four characters, in
       small letters and without points; any other answer is wrong. Each image has two questions. With a the share of
       right answers of an image, and b whether both are:

    points of a category  mean over images of 100 (a + b)     (1)
    points of a group     sum over its categories             (2)
"""

import math
from collections.abc import Mapping

import numpy as np

from dualdiff_jax.errors import UserError, quoted
from dualdiff_jax.evaluation.metrics.metric import (
    Metric,
    MetricResult,
    check_records,
    check_text,
    mean,
    standard_error,
)

ANSWERS = ("yes", "no")
SPLITS = ("random", "popular", "adversarial")  # of POPE
GROUPS = {  # of MME
    "perception": (
        "existence",
        "count",
        "position",
        "color",
        "posters",
        "celebrity",
        "scene",
        "landmark",
        "artwork",
        "OCR",
    ),
    "cognition": ("commonsense_reasoning", "numerical_calculation", "text_translation", "code_reasoning"),
}
RESAMPLES = 2000  # of the bootstrap
SEED = 0


def pope_answer(text: str) -> str:
    """POPE's reading of a generated answer: "yes" or "no"."""
    check_text(text, "the prediction")
    words = text.split(".")[0].replace(",", "").split(" ")
    return "no" if {"No", "no", "not"} & {*words} else "yes"


def mme_answer(text: str) -> str | None:
    """MME's reading of a generated answer: "yes", "no", or None if it is neither."""
    check_text(text, "the prediction")
    text = text.lower().strip().replace(".", "")
    if len(text) == 1:
        return {"y": "yes", "n": "no"}.get(text)
    return next((answer for answer in ANSWERS if answer in text[:4]), None)


def _truth(answer: str) -> str:
    """The right answer of a record, which files write in several ways."""
    check_text(answer, "the right answer")
    if not is_yes_or_no(answer):
        raise UserError(f"the right answer is {quoted(answer)}; give yes or no")
    return _bare(answer)


def is_yes_or_no(answer: str) -> bool:
    """Whether a file's right answer is one, in any of the ways in which files write it."""
    return _bare(answer) in ANSWERS


def _bare(answer: str) -> str:
    return answer.lower().strip().replace(".", "")


def _check_choice(value: str, choices: tuple[str, ...], name: str) -> None:
    if value not in choices:
        raise UserError(f"{name} is {quoted(value)}; choose one of {', '.join(choices)}")


class Pope(Metric):
    """F1 of "yes", as the mean over the splits that have records.

    ``parts`` has accuracy, precision, recall, f1 and yes_share, as means over splits and of each split under
    ``random/f1``, ... The standard error is that of a bootstrap within splits.
    """

    def __init__(self):
        self._counts = {split: np.zeros(4, int) for split in SPLITS}  # true yes, false yes, true no, false no

    def update(self, prediction: str, answer: str, split: str) -> float:
        """Adds a record and returns 1 if its answer is right, else 0.

        Args:
            prediction: the generated answer.
            answer: yes or no.
            split: a name of ``SPLITS``.

        Raises:
            UserError: a text or a name that cannot be.
        """
        _check_choice(split, SPLITS, "the split of POPE")
        said, truth = pope_answer(prediction), _truth(answer)
        self._counts[split][2 * ANSWERS.index(said) + (said != truth)] += 1
        return float(said == truth)

    def result(self) -> MetricResult:
        counts = {split: found for split, found in self._counts.items() if found.any()}
        check_records(len(counts), self)
        by_split = {split: yes_figures(found) for split, found in counts.items()}
        parts = {name: mean([float(by_split[split][name]) for split in counts]) for name in by_split[[*counts][0]]}
        for split, figures in by_split.items():
            parts |= {f"{split}/{name}": float(value) for name, value in figures.items()}
        records = sum(int(found.sum()) for found in counts.values())
        return MetricResult(parts["f1"], _bootstrap_error(counts) if records > 1 else None, records, parts)


def yes_figures(counts: np.ndarray) -> dict[str, np.ndarray]:
    """Figures of the answer "yes".

    Args:
        counts: (..., 4): true yes, false yes, true no, false no.

    Returns:
        (...) each; 0 where a figure's denominator is 0.
    """
    true_yes, false_yes, true_no, false_no = np.moveaxis(np.asarray(counts, float), -1, 0)
    total = true_yes + false_yes + true_no + false_no
    precision, recall = _ratio(true_yes, true_yes + false_yes), _ratio(true_yes, true_yes + false_no)
    return {
        "accuracy": _ratio(true_yes + true_no, total),
        "precision": precision,
        "recall": recall,
        "f1": _ratio(2 * precision * recall, precision + recall),
        "yes_share": _ratio(true_yes + false_yes, total),
    }


def _ratio(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    return np.divide(above, below, out=np.zeros_like(below), where=below != 0)


def _bootstrap_error(counts: Mapping[str, np.ndarray]) -> float:
    """Records drawn with replacement are counts drawn from a multinomial distribution."""
    rng = np.random.default_rng(SEED)
    draws = [rng.multinomial(found.sum(), found / found.sum(), size=RESAMPLES) for found in counts.values()]
    return float(np.mean([yes_figures(drawn)["f1"] for drawn in draws], axis=0).std(ddof=1))


class Mme(Metric):
    """Points of one group of categories, by (2); papers print perception, of at most 2000.

    ``parts`` has the points of both groups and of each category, and each category's shares ``count/accuracy`` and
    ``count/accuracy+``.

    Args:
        group: a name of ``GROUPS``, whose points are the score.

    Raises:
        UserError: an unknown group.
    """

    def __init__(self, group: str = "perception"):
        _check_choice(group, tuple(GROUPS), "the group of MME")
        self._group = group
        self._right: dict[str, dict[str, list[float]]] = {}

    def update(self, prediction: str, answer: str, category: str, image: str) -> float:
        """Adds a record and returns 1 if its answer is right, else 0.

        Args:
            prediction: the generated answer.
            answer: yes or no.
            category: one of the 14 names in ``GROUPS``.
            image: the image's name, the same in both of its records.

        Raises:
            UserError: a text or a name that cannot be.
        """
        _check_choice(category, tuple(name for names in GROUPS.values() for name in names), "the category of MME")
        right = float(mme_answer(prediction) == _truth(answer))
        self._right.setdefault(category, {}).setdefault(image, []).append(right)
        return right

    def result(self) -> MetricResult:
        parts, points = {}, {}
        for category, images in self._right.items():
            for image, right in images.items():
                if len(right) != 2:
                    raise UserError(f"image {quoted(image)} of MME's {category} has {len(right)} answers; give two")
            both = [float(sum(right) == 2) for right in images.values()]
            points[category] = [50 * sum(right) + 100 * all(right) for right in images.values()]
            parts[category] = mean(points[category])
            parts[f"{category}/accuracy"] = mean([sum(right) / 2 for right in images.values()])
            parts[f"{category}/accuracy+"] = mean(both)
        for group, names in GROUPS.items():
            if points.keys() & set(names):
                parts[group] = math.fsum(parts[name] for name in names if name in parts)
        if self._group not in parts:
            raise UserError(f"MME has no record of {self._group}; update it with some, or score the other group")
        scored = [points[name] for name in GROUPS[self._group] if name in points]
        errors = [standard_error(found) for found in scored]
        error = None if None in errors else math.hypot(*(found for found in errors if found is not None))
        return MetricResult(parts[self._group], error, 2 * sum(len(found) for found in scored), parts)
