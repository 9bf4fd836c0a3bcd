"""MMBench's letters and MMMU's open answers by hand; tests/peers compares them with the code they follow."""

import pytest

from dualdiff_jax.errors import UserError
from dualdiff_jax.evaluation.metrics.multiple_choice import MultipleChoice, infer_letter
from dualdiff_jax.evaluation.metrics.open_answers import is_open_answer_right

OPTIONS = ("a red ball", "a dog", "the sea", "snow")


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        ("B", "B"),
        ("B.", "B"),
        ("(C)", "C"),
        ("the answer is :D", "D"),
        ("It shows A DOG.", "B"),
        ("A dog in a car", "B"),  # this A is an article
        ("A or B", None),
        ("", None),
        ("E", "E"),
        ("a dog by the sea", None),
    ],
)
def test_mmbench_infers_a_letter(text, letter):
    assert infer_letter(text, OPTIONS) == letter


def test_the_rules_of_a_benchmark_are_not_anothers():
    mmmu, mmbench = MultipleChoice(), MultipleChoice("mmbench")
    assert mmmu.update("a dog", "B", OPTIONS) == 0.0
    assert mmbench.update("a dog", "B", OPTIONS) == 1.0
    with pytest.raises(UserError, match="choose one of mmmu, mmbench"):
        MultipleChoice("seed")


@pytest.mark.parametrize(
    ("text", "answers", "is_right"),
    [
        ("The answer is 3.14159", ["3.14"], True),
        ("so x = 1,000", ["1000"], True),
        ("it is 7.", ["8"], False),
        ("Thus, a Parallel circuit", ["parallel"], True),
        ("box", ["x"], False),  # one letter needs a space beside it
        ("the result is x or y", ["x"], True),
        ("12", ["1", "12.004"], True),
        ("", ["5"], False),
    ],
)
def test_open_answers(text, answers, is_right):
    assert is_open_answer_right(text, answers) is is_right


def test_open_answers_need_a_list_of_texts():
    with pytest.raises(UserError, match="give a list of texts"):
        is_open_answer_right("5", "5")
    with pytest.raises(UserError, match="answer 1 is 5"):
        is_open_answer_right("5", ["4", 5])
