"""Laws of all scores: the order of annotators and of records changes nothing; errors are those of known samples."""

import random

import numpy as np
import pytest

from dualdiff_jax.errors import UserError
from dualdiff_jax.evaluation.metrics.exact_match import ExactMatch
from dualdiff_jax.evaluation.metrics.metric import standard_error
from dualdiff_jax.evaluation.metrics.multiple_choice import MultipleChoice
from dualdiff_jax.evaluation.metrics.vqa_accuracy import VqaAccuracy, vqa_accuracy
from dualdiff_jax.evaluation.metrics.yes_no import SPLITS, Mme, Pope

RNG = random.Random(0)
SAID = ["yes", "no", "A", "(B)", "red", "two"]


def vqa_record(number):
    return RNG.choice(SAID), [RNG.choice(SAID) for _ in range(10)], RNG.choice(["number", None])


RECORDS = {
    "vqa": (lambda: VqaAccuracy("vqav2"), [vqa_record(number) for number in range(99)]),
    "gqa": (ExactMatch, [(RNG.choice(SAID), RNG.choice(SAID), RNG.choice(SAID)) for _ in range(99)]),
    "pope": (Pope, [(RNG.choice(SAID), RNG.choice(SAID[:2]), RNG.choice(SPLITS)) for _ in range(99)]),
    "mme": (
        Mme,
        [(RNG.choice(SAID), SAID[n % 2], ("count", "OCR")[n % 3 // 2], f"{n // 6}/{n % 3}") for n in range(96)],
    ),
    "choice": (
        MultipleChoice,
        [
            (RNG.choice(SAID), RNG.choice("AB"), ["x", "y"], RNG.choice("st"), (n // 2 if n % 3 else None))
            for n in range(99)
        ],
    ),
}


def scored(make, records):
    metric = make()
    for record in records:
        metric.update(*record)
    return metric


@pytest.mark.parametrize("name", RECORDS)
def test_the_order_of_records_changes_no_result(name):
    make, records = RECORDS[name]
    whole = scored(make, records).result()
    assert scored(make, records[1::2] + records[::2]).result() == whole
    assert whole.score > 0 and whole.standard_error > 0


@pytest.mark.parametrize("name", RECORDS)
def test_a_metric_without_records_is_refused(name):
    make, _ = RECORDS[name]
    with pytest.raises(UserError, match="update it with"):
        make().result()


def test_the_order_of_annotators_changes_no_accuracy():
    for number in range(200):
        prediction, answers, _ = vqa_record(number)
        assert vqa_accuracy("vqav2", prediction, answers) == vqa_accuracy("vqav2", prediction, RNG.sample(answers, 10))


def test_the_standard_error_is_that_of_the_sample():
    values = np.random.default_rng(0).normal(size=50)
    assert standard_error([*values]) == pytest.approx(values.std(ddof=1) / np.sqrt(50), rel=1e-12)
    assert standard_error([1.0]) is None


def test_popes_bootstrap_agrees_with_fresh_samples_and_repeats_itself():
    """F1 of new draws from the same shares has the spread that the bootstrap finds in one draw."""
    rng, shares = np.random.default_rng(0), np.array([0.45, 0.1, 0.35, 0.1])

    def f1(true_yes, false_yes, true_no, false_no):
        return 2 * true_yes / (2 * true_yes + false_yes + false_no)

    spread = np.std([f1(*rng.multinomial(400, shares)) for _ in range(4000)])
    cells = [("yes", "yes"), ("yes", "no"), ("no", "no"), ("no", "yes")]
    records = [(*cell, "random") for cell, share in zip(cells, shares, strict=True) for _ in range(int(400 * share))]
    error = scored(Pope, records).result().standard_error
    assert error == pytest.approx(spread, rel=0.1)
    assert error == scored(Pope, records).result().standard_error


def test_rotations_of_one_question_are_right_only_together():
    metric = MultipleChoice()
    for said, answer, question in (("A", "A", 1), ("B", "B", 1), ("A", "A", 2), ("A", "B", 2)):
        metric.update(said, answer, ["x", "y"], question=question)
    assert (metric.result().score, metric.result().count) == (0.5, 2)


def test_mme_refuses_an_image_without_its_second_question():
    metric = Mme()
    metric.update("yes", "yes", "count", "7.jpg")
    with pytest.raises(UserError, match="7.jpg.*1 answers"):
        metric.result()
