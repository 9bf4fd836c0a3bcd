"""Small cases of each benchmark's rules; the expected values are what the official code printed for them."""

import sys

import pytest

from dualdiff_jax.errors import UserError
from dualdiff_jax.evaluation.metrics.caption_scores import CaptionScores
from dualdiff_jax.evaluation.metrics.exact_match import exact_match
from dualdiff_jax.evaluation.metrics.multiple_choice import best_letter, parse_letter
from dualdiff_jax.evaluation.metrics.vqa_accuracy import VqaAccuracy, vqa_accuracy
from dualdiff_jax.evaluation.metrics.vqa_answers import evalai_form, vizwiz_form, vqav2_form
from dualdiff_jax.evaluation.metrics.yes_no import Mme, Pope, mme_answer, pope_answer


@pytest.mark.parametrize(
    "answer, vqav2, evalai",
    [
        ("The Two dogs", "2 dogs", "2 dogs"),
        ("dont", "don't", "don't"),
        ("somebody'd", "somebodyd", "somebodyd"),
        ("1,000", "1000", "1000"),
        ("1,,000", "1 000", "1000"),
        ("red/blue", "red blue", "red blue"),
        ("red /blue", "red blue", "red blue"),
        ("3.5 u.s.", "3.5 us", "3.5 us"),
        ("dog's", "dog's", "dog 's"),
        ("none", "0", "0"),
        ("", "", ""),
        ("." * 40, "." * 8, "." * 8),
    ],
)
def test_answers_take_their_official_form(answer, vqav2, evalai):
    assert (vqav2_form(answer), evalai_form(answer)) == (vqav2, evalai)


@pytest.mark.parametrize(
    "prediction, answers, expected",
    [
        ("yes", ["yes"] * 10, 1.0),
        ("Yes", ["yes"] * 10, 0.0),  # all agree, so nothing is brought into a normal form
        ("Yes.", ["yes"] * 9 + ["no"], 1.0),
        ("a cat", ["cat"] * 3 + ["dog"] * 7, 0.9),
        ("cat", ["cat"] * 2 + ["dog"] * 8, 0.6),
        ("cat", ["cat"] + ["dog"] * 9, 0.3),
        ("cat", ["cat"], 0.0),
        ("\tcat\n", ["cat "] * 4, 1.0),
    ],
)
def test_vqav2_gives_its_official_accuracy(prediction, answers, expected):
    assert vqa_accuracy("vqav2", prediction, answers) == pytest.approx(expected, abs=1e-12)


def test_other_benchmarks_always_compare_normal_forms():
    assert vqa_accuracy("okvqa", "Yes", ["yes"] * 10) == vqa_accuracy("textvqa", "Yes", ["yes"] * 10) == 1.0
    assert vizwiz_form("Unanswerable question.") == "unanswerable"
    assert vqa_accuracy("vizwiz", "unanswered", ["unanswerable"] * 10) == 1.0
    assert vqa_accuracy("okvqa", "unanswered", ["unanswerable"] * 10) == 0.0


def test_gqa_ignores_case_and_punctuation_but_no_word():
    assert exact_match(" Red. ", "red") == 1.0
    assert exact_match("t-shirt", "tshirt") == 1.0
    assert exact_match("the red", "red") == 0.0


def test_pope_reads_the_first_sentence():
    said = [pope_answer(text) for text in ("No, there is not", "Yes. no", "there is not", "NO", "nothing", "")]
    assert said == ["no", "yes", "no", "yes", "yes", "yes"]


def test_pope_figures_of_known_counts():
    metric = Pope()
    for prediction, answer, times in (("yes", "yes", 6), ("yes", "no", 2), ("no", "no", 8), ("no", "yes", 4)):
        for _ in range(times):
            metric.update(prediction, answer, "random")
    result = metric.result()
    assert result.parts["random/accuracy"] == 0.7
    assert result.parts["precision"] == 0.75
    assert result.parts["recall"] == 0.6
    assert result.score == result.parts["f1"] == pytest.approx(2 / 3)
    assert result.parts["yes_share"] == 0.4


def test_mme_reads_the_first_four_characters():
    said = [mme_answer(text) for text in ("Yes.", "y", "n.", "no way", "I know", "  oh yes", "know", "a")]
    assert said == ["yes", "yes", "no", "no", None, None, "no", None]


def test_mme_points_of_two_images():
    metric = Mme()
    for image, answers in (("1", ("yes", "no")), ("2", ("yes", "yes"))):  # the right ones are yes, no
        for said, truth in zip(answers, ("Yes", "No"), strict=True):
            metric.update(said, truth, "count", image)
    parts = {"count": 125.0, "count/accuracy": 0.75, "count/accuracy+": 0.5, "perception": 125.0}
    assert metric.result().parts == parts
    assert metric.result().score == 125.0 and metric.result().count == 4
    assert metric.result().standard_error == pytest.approx(75.0)  # of 200 and 50


@pytest.mark.parametrize(
    "text, letter",
    [
        ("(B)", "B"),
        ("B.", "B"),
        ("(A) or (C)", "C"),
        ("A or C it is", "C"),
        ("I think it must be a big cat", "A"),
        ("a cat", None),
        ("", None),
        ("I rode to the USA with a dog", "A"),
    ],
)
def test_letters_are_parsed_as_mmmu_parses_them(text, letter):
    assert parse_letter(text, ["big cat", "dog", "bird"]) == letter


def test_the_highest_score_chooses_and_the_first_of_equals():
    assert best_letter([-3.0, -1.0, -1.0]) == "B"


def test_captions_say_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "pycocoevalcap", None)
    with pytest.raises(UserError, match="pip install pycocoevalcap"):
        CaptionScores(tokenized=True)


def test_captions_ask_for_java_where_they_need_it(monkeypatch):
    monkeypatch.setattr("dualdiff_jax.evaluation.metrics.caption_scores._load", lambda module: None)
    monkeypatch.setenv("PATH", "")
    CaptionScores(tokenized=True)
    for options in ({}, {"tokenized": True, "meteor": True}):
        with pytest.raises(UserError, match="Java"):
            CaptionScores(**options)


@pytest.mark.parametrize(
    "call, fault",
    [
        (lambda: VqaAccuracy("vqa"), "choose one of vqav2, okvqa"),
        (lambda: vqa_accuracy("vqav2", "yes", []), "at least one"),
        (lambda: vqa_accuracy("vqav2", "yes", "yes"), "give a list"),
        (lambda: vqa_accuracy("vqav2", "yes", ["yes", None]), "annotator 1"),
        (lambda: exact_match(3, "red"), "the prediction"),
        (lambda: Pope().update("yes", "maybe", "random"), "give yes or no"),
        (lambda: Pope().update("yes", "yes", "hard"), "random, popular"),
        (lambda: Mme().update("yes", "yes", "colour", "1"), "category of MME"),
        (lambda: Mme("both"), "group of MME"),
        (lambda: parse_letter("A", []), "1 to 26"),
        (lambda: best_letter([float("nan")]), "1 to 26"),
    ],
)
def test_a_fault_of_the_records_is_a_sentence(call, fault):
    with pytest.raises(UserError, match=fault):
        call()
