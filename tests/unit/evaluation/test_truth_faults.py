"""What keeps an answer from being scored is found in the question."""

import pytest
from PIL import Image

from dualdiff_jax.data.benchmarks.question import ListedQuestions, Question
from dualdiff_jax.errors import UserError
from dualdiff_jax.evaluation.subset import choose
from dualdiff_jax.evaluation.tasks.choices import letter_fault
from dualdiff_jax.evaluation.tasks.yes_no import yes_no_fault

IMAGE = Image.new("RGB", (8, 8))


def question(*truths, options=(), name="q"):
    return Question(name, IMAGE, "which?", truths, options)


@pytest.mark.parametrize(
    "fault, asked, expected",
    [
        (letter_fault, question("B", options=("x", "y")), ""),
        (letter_fault, question("C", options=("x", "y")), "has 2 options and the answer 'C'"),
        (letter_fault, question("AB", options=("x", "y")), "has 2 options and the answer 'AB'"),
        (letter_fault, question(options=("x", "y")), "has no answer"),
        (letter_fault, question("A", options=("x",) * 27), "has 27 options, and 26 can have a letter"),
        (letter_fault, question("5"), ""),
        (letter_fault, question(), "has no answer"),
        (yes_no_fault, question("Yes."), ""),
        (yes_no_fault, question("maybe"), "has the answer 'maybe', which is neither yes nor no"),
        (yes_no_fault, question(), "has no answer"),
    ],
)
def test_a_truth_that_cannot_be_compared(fault, asked, expected):
    assert fault(asked) == expected


def test_every_question_of_an_answered_split_is_looked_at():
    asked = [question("A", options=("x", "y"), name="a"), question(options=("x", "y"), name="b")]
    with pytest.raises(UserError, match="question 'b' has no answer"):
        choose(ListedQuestions("mmmu", "root", asked, []), 1, letter_fault)
    assert choose(ListedQuestions("mmmu", "root", asked[1:], []), 1, letter_fault).ids == ["b"]  # of a test split
