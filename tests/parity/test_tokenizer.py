"""The tokenizer that comes with the project against T5's sentencepiece model.

The expected ids are those of sentencepiece 0.2.3 with T5's ``spiece.model``.
"""

from pathlib import Path

import numpy as np
import pytest

from dualdiff_jax import data
from dualdiff_jax.data.records.record import Turn
from dualdiff_jax.data.texts import dialogue_tokens
from dualdiff_jax.data.tokenizer import Tokenizer

pytestmark = pytest.mark.parity

FOLDER = Path(data.__file__).parent / "t5_tokenizer"
LENGTH = 40
END, MASK, SIZE = 1, 32099, 32100
TEXTS = {
    "": "",
    "a handwritten three": "3 9 609 14973 386",
    "A photo of a red car parked next to a fire hydrant.": (
        "71 1202 13 3 9 1131 443 3 16669 416 12 3 9 1472 3 10656 288 5"
    ),
    "two  spaces   and a\ttab\nnew line ": "192 4856 11 3 9 3808 126 689",
    " leading and trailing ": "1374 11 5032 53",
    "don't stop: it's 100% \"quoted\" (really)!?": (
        "278 31 17 1190 10 34 31 7 2349 96 14460 1054 121 41 60 1427 61 55 58"
    ),
    "Café Müller, São Paulo – naïve façade": "18131 25391 6 180 2 32 1838 32 3 104 3 29 9 2 162 24369",
    "東京 の 夜景 🌃 neon": "3 2 3 2 3 2 3 2 22432",
    "½ cup of H₂O costs €3.50": "209 2 357 4119 13 454 357 667 1358 3416 9285 632",
    "supercalifragilisticexpialidocious antidisestablishmentarianism": (
        "1355 15534 20791 173 3040 994 102 23 4288 7171 2936 1181 26 159 222 15403 1273 297 6286 14378"
    ),
    "ﬁne ﬂowers Ⅳ ①": "1399 3652 10869 209",
    "UPPER lower MiXeD_case-with/slashes\\and<angle>": (
        "3 6880 8742 1364 2133 4 15 308 834 6701 18 4065 87 7 22188 2 232 2 13247 3155"
    ),
    "yes.": "4273 5",
}
SPELLED = {  # control tokens as sentencepiece reads them in a text
    "a </s> b": "3 9 3 2 87 7 3155 3 115",
    "a <pad> b": "3 9 3 2 5612 3155 3 115",
    "＜／ｓ＞": "3 2 87 7 3155",
    "<extra_id_0>": "3 2 25666 834 23 26 834 632 3155",
}
QUESTIONS = {  # the ids are of "Q: {question} A: "
    "what is in the image?": "1593 10 125 19 16 8 1023 58 71 10",
    "How many dogs are there? Answer the question using a single word or phrase.": (
        "1593 10 571 186 3887 33 132 58 11801 8 822 338 3 9 712 1448 42 9261 5 71 10"
    ),
    "": "1593 10 71 10",
}


def ids(written: str) -> list[int]:
    return [int(number) for number in written.split()]


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer(FOLDER)


def test_the_special_tokens_have_the_ids_of_t5(tokenizer):
    assert (tokenizer.vocab_size, tokenizer.mask_token_id, tokenizer.end_token_id) == (SIZE, MASK, END)
    assert tokenizer.pieces([0, END, 2, MASK]) == ["<pad>", "</s>", "<unk>", "<extra_id_0>"]
    assert tokenizer.pieces([SIZE - 100]) == ["<extra_id_99>"]  # the ids of spiece.model end at 31999
    assert tokenizer.tokens("<extra_id_0>") == (MASK,)


@pytest.mark.parametrize("text", TEXTS)
def test_a_caption_is_its_pieces_then_end_tokens(tokenizer, text):
    expected = ids(TEXTS[text])
    assert list(tokenizer.tokens(text)) == expected
    token_ids = tokenizer.caption_ids(text, LENGTH)
    assert token_ids.dtype == np.int32
    np.testing.assert_array_equal(token_ids, expected + [END] * (LENGTH - len(expected)))


@pytest.mark.parametrize("text", SPELLED)
def test_a_control_token_in_a_record_is_spelled(tokenizer, text):
    assert list(tokenizer.record_tokens(text)) == ids(SPELLED[text])


@pytest.mark.parametrize("question", QUESTIONS)
def test_a_question_has_no_end_token(tokenizer, question):
    expected = ids(QUESTIONS[question])
    np.testing.assert_array_equal(tokenizer.question_ids(question, LENGTH), expected)
    np.testing.assert_array_equal(
        tokenizer.masked_ids(tokenizer.question_ids(question, LENGTH), LENGTH),
        expected + [MASK] * (LENGTH - len(expected)),
    )


@pytest.mark.parametrize("question", QUESTIONS)
def test_an_answer_follows_the_question_and_ends(tokenizer, question):
    """Question and answer are tokenized separately, then joined."""
    answer, prompt = ids(TEXTS["yes."]), ids(QUESTIONS[question])
    rng = np.random.default_rng(0)
    token_ids, is_answer, _ = dialogue_tokens(tokenizer, [Turn(question, "yes.")], LENGTH, rng)
    ends = LENGTH - len(prompt) - len(answer)
    np.testing.assert_array_equal(token_ids, prompt + answer + [END] * ends)
    np.testing.assert_array_equal(is_answer, np.arange(LENGTH) >= len(prompt))
