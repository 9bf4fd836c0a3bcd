"""Which tokens are prompt and which are answer; every token that is cut is counted."""

import numpy as np
import pytest

from demo.data import write_tokenizer
from dualdiff_jax.data.records.record import NO_ROOM, DataError, Turn
from dualdiff_jax.data.texts import caption_tokens, dialogue_tokens
from dualdiff_jax.data.tokenizer import Tokenizer

QUESTION = Turn("which digit is this?", "three")  # nine tokens of prompt, one of answer
PROMPT, WHOLE = 9, 11
LONG = "a three left of a seven"  # six tokens


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    write_tokenizer(folder)
    return Tokenizer(folder)


def dialogue(tokenizer, turns, length, seed=0, suffix=""):
    return dialogue_tokens(tokenizer, turns, length, np.random.default_rng(seed), suffix)


def test_a_caption_is_all_answer_and_ends(tokenizer):
    tokens = caption_tokens(tokenizer, "a handwritten three", 6)
    np.testing.assert_array_equal(tokens.token_ids, tokenizer.caption_ids("a handwritten three", 6))
    assert tokens.is_answer.all() and tokens.cut == 0


def test_a_caption_that_just_fits_is_whole(tokenizer):
    tokens = caption_tokens(tokenizer, LONG, 7)
    assert tokenizer.decode_all(tokens.token_ids) == LONG and tokens.token_ids[-1] == tokenizer.end_token_id
    assert (tokens.token_ids.dtype, tokens.is_answer.dtype, tokens.cut) == (np.int32, bool, 0)
    assert caption_tokens(tokenizer, LONG, 6).cut == 1


def test_what_is_cut_from_a_caption_is_counted(tokenizer):
    tokens = caption_tokens(tokenizer, LONG, 4)
    assert tokenizer.pieces(tokens.token_ids) == ["▁a", "▁three", "▁left", "</s>"]
    assert tokens.cut == 3


def test_a_single_turn_is_prompt_then_answer_and_its_padding_is_answer_too(tokenizer):
    tokens = dialogue(tokenizer, [QUESTION], 14)
    prompt = tokenizer.question_ids(QUESTION.question, 14)
    assert len(prompt) == PROMPT
    np.testing.assert_array_equal(tokens.token_ids[:PROMPT], prompt)
    assert tokenizer.pieces(tokens.token_ids[PROMPT:]) == ["▁three"] + ["</s>"] * 4
    np.testing.assert_array_equal(tokens.is_answer, np.arange(14) >= PROMPT)


def test_all_turns_are_there_each_with_its_end_as_answer(tokenizer):
    turns = [QUESTION, Turn(QUESTION.question, LONG)]
    tokens = dialogue(tokenizer, turns, 30)
    ends = WHOLE + PROMPT + 7
    expected = np.r_[np.zeros(PROMPT), np.ones(2), np.zeros(PROMPT), np.ones(30 - WHOLE - PROMPT)].astype(bool)
    np.testing.assert_array_equal(tokens.is_answer, expected)
    assert tokenizer.decode(tokens.token_ids[PROMPT:]) == "three"
    assert tokenizer.decode(tokens.token_ids[WHOLE + PROMPT :]) == LONG
    assert (tokens.token_ids[[WHOLE - 1, ends - 1]] == tokenizer.end_token_id).all() and tokens.cut == 0


def test_a_dialogue_that_just_fits_is_whole_and_with_one_token_less_a_turn_is_left_out(tokenizer):
    turns = [QUESTION] * 3
    assert (~dialogue(tokenizer, turns, 3 * WHOLE).is_answer).sum() == 3 * PROMPT
    found = {(~dialogue(tokenizer, turns, 3 * WHOLE - 1, seed).is_answer).sum() // PROMPT for seed in range(20)}
    assert found == {1, 2}  # from the last turn, or from one before it


def test_every_turn_of_a_long_dialogue_gets_its_turn(tokenizer):
    turns = [Turn(QUESTION.question, word) for word in ("one", "two", "three", "four")]
    answers = [tokenizer.decode(dialogue(tokenizer, turns, 12, s).token_ids[PROMPT:]) for s in range(60)]
    assert set(answers) == {"one", "two", "three", "four"}
    assert all(dialogue(tokenizer, turns, 12, seed).cut == 0 for seed in range(60))


def test_an_answer_that_is_too_long_is_cut_and_counted(tokenizer):
    tokens = dialogue(tokenizer, [Turn(QUESTION.question, LONG)], PROMPT + 4)
    assert tokenizer.pieces(tokens.token_ids[PROMPT:]) == ["▁a", "▁three", "▁left", "</s>"]
    assert tokens.cut == 3


def test_an_answer_that_is_cut_may_have_no_end(tokenizer):
    def cut(answer):
        rng = np.random.default_rng(0)
        return dialogue_tokens(tokenizer, [Turn(QUESTION.question, answer)], PROMPT + 4, rng, end_after_cut=False)

    tokens = cut(LONG)
    assert tokens.cut == 2 and tokenizer.pieces(tokens.token_ids[PROMPT:])[:3] == ["▁a", "▁three", "▁left"]
    assert tokenizer.end_token_id not in tokens.token_ids and tokens.is_answer[PROMPT:].all()
    assert tokenizer.pieces(cut("three").token_ids[PROMPT:]) == ["▁three", "</s>", "</s>", "</s>"]


def test_a_question_without_room_is_a_fault_unless_another_has_room(tokenizer):
    long = Turn("which digit is this? " * 4, "three")
    with pytest.raises(DataError, match="leaves no room for an answer in 12") as error:
        dialogue(tokenizer, [long], 12)
    assert error.value.cause == NO_ROOM
    for seed in range(5):
        tokens = dialogue(tokenizer, [long, QUESTION], 12, seed)
        assert tokenizer.decode(tokens.token_ids[PROMPT:]) == "three"


def test_a_question_with_room_for_one_token_and_its_end_is_used(tokenizer):
    tokens = dialogue(tokenizer, [Turn(QUESTION.question, LONG)], PROMPT + 2)
    assert tokenizer.pieces(tokens.token_ids[PROMPT:]) == ["▁a", "</s>"]
    with pytest.raises(DataError, match="takes 9 tokens and leaves no room for an answer in 10"):
        dialogue(tokenizer, [Turn(QUESTION.question, LONG)], PROMPT + 1)


def test_a_question_has_room_if_one_token_of_an_answer_and_its_end_fit(tokenizer):
    tokens = dialogue(tokenizer, [Turn(QUESTION.question, LONG)], PROMPT + 2)
    assert tokenizer.pieces(tokens.token_ids[PROMPT:]) == ["▁a", "</s>"] and tokens.cut == 5
    assert (tokens.token_ids.dtype, tokens.is_answer.dtype) == (np.int32, bool)
    with pytest.raises(DataError, match=f"takes {PROMPT} tokens and leaves no room for an answer in {PROMPT + 1}"):
        dialogue(tokenizer, [Turn(QUESTION.question, LONG)], PROMPT + 1)


def test_no_turn_follows_one_that_was_cut(tokenizer):
    tokens = dialogue(tokenizer, [Turn(QUESTION.question, LONG)] * 2, PROMPT + 4)
    assert tokenizer.pieces(tokens.token_ids[PROMPT:]) == ["▁a", "▁three", "▁left", "</s>"]
    np.testing.assert_array_equal(tokens.is_answer, np.arange(PROMPT + 4) >= PROMPT)
    assert tokens.cut == 3


def test_the_suffix_follows_the_question(tokenizer):
    tokens = dialogue(tokenizer, [QUESTION], 20, suffix=" a digit")
    assert tokenizer.pieces(tokens.token_ids)[: PROMPT + 2] == [
        *("▁Q", ":", "▁which", "▁digit", "▁is", "▁this", "?", "▁a", "▁digit", "▁A", ":")
    ]
