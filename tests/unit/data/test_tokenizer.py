"""T5's conventions: padding is </s>, the mask is the last id, prompts keep no </s>."""

import numpy as np
import pytest
from transformers import T5TokenizerFast

from demo.data import write_tokenizer
from dualdiff_jax.data.tokenizer import Tokenizer
from dualdiff_jax.errors import UserError


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    write_tokenizer(folder)
    return Tokenizer(folder)


def test_the_mask_is_the_last_id_and_the_end_is_one(tokenizer):
    assert tokenizer.mask_token_id == tokenizer.vocab_size - 1
    assert tokenizer.end_token_id == 1
    assert tokenizer.pieces([tokenizer.mask_token_id]) == ["<extra_id_0>"]


def test_padding_is_the_end_token(tokenizer):
    token_ids = tokenizer.caption_ids("a handwritten three", 6)
    assert tokenizer.pieces(token_ids) == ["▁a", "▁handwritten", "▁three", "</s>", "</s>", "</s>"]
    assert tokenizer.decode(token_ids) == "a handwritten three"
    assert (tokenizer.null_ids(4) == 1).all()
    np.testing.assert_array_equal(tokenizer.caption_ids("", 4), tokenizer.null_ids(4))


def test_long_text_is_cut_with_a_warning_and_still_ends(tokenizer, caplog):
    token_ids = tokenizer.caption_ids("a three left of a seven", 4)
    assert tokenizer.pieces(token_ids) == ["▁a", "▁three", "▁left", "</s>"]
    assert "was cut to 3" in caplog.text


def test_a_question_without_room_for_an_answer_is_refused(tokenizer):
    with pytest.raises(UserError, match="leaves no room for an answer in 9"):
        tokenizer.question_ids("which digit is this?", 9)


def test_masked_ids_keep_the_prompt(tokenizer):
    np.testing.assert_array_equal(
        tokenizer.masked_ids([5, 6], 4), [5, 6, tokenizer.mask_token_id, tokenizer.mask_token_id]
    )


def test_decoding_stops_at_the_first_end(tokenizer):
    ids = [*tokenizer.tokens("a three"), 1, *tokenizer.tokens("seven")]
    assert tokenizer.decode(ids) == "a three"
    assert tokenizer.decode(tokenizer.tokens("a three")) == "a three"


def test_unknown_words_are_found(tokenizer):
    assert tokenizer.unknown_words("a handwritten elephant") == ["elephant"]
    assert tokenizer.unknown_words("a handwritten three") == []


def test_saving_and_loading_changes_no_id(tokenizer, tmp_path):
    tokenizer.save(tmp_path)
    again = Tokenizer(tmp_path)
    assert again.tokens("a three left of a seven") == tokenizer.tokens("a three left of a seven")
    assert again.mask_token_id == tokenizer.mask_token_id


def test_a_folder_without_a_tokenizer_is_named(tmp_path):
    with pytest.raises(UserError, match="there is no tokenizer.json here"):
        Tokenizer(tmp_path)


def test_a_damaged_tokenizer_is_named(tmp_path):
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(UserError, match="cannot be read"):
        Tokenizer(tmp_path)


def test_a_mask_that_is_not_last_is_refused(tmp_path):
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("<extra_id_0>", 0.0), ("▁a", -1.0)]
    T5TokenizerFast(vocab=pieces, extra_ids=1).save_pretrained(str(tmp_path))
    with pytest.raises(UserError, match="must be the last one"):
        Tokenizer(tmp_path)
