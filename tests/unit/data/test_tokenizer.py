"""T5's conventions: padding is </s>, the mask is the last id, prompts keep no </s>."""

import os
import pickle

import numpy as np
import pytest
from transformers import T5TokenizerFast

from demo.data import write_tokenizer
from dualdiff_jax.data.records.record import Turn
from dualdiff_jax.data.texts import caption_tokens, dialogue_tokens
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
    with pytest.raises(UserError, match="tokenizer.json: is no JSON"):
        Tokenizer(tmp_path)
    (tmp_path / "tokenizer.json").write_text('{"model": 3}')
    with pytest.raises(UserError, match="cannot be read"):
        Tokenizer(tmp_path)


def test_a_mask_that_is_not_last_is_refused(tmp_path):
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("<extra_id_0>", 0.0), ("▁a", -1.0)]
    T5TokenizerFast(vocab=pieces, extra_ids=1).save_pretrained(str(tmp_path))
    with pytest.raises(UserError, match="must be the last one"):
        Tokenizer(tmp_path)


@pytest.mark.parametrize(
    ("content", "name"),
    [
        ("[1]", "tokenizer_config.json: found \\[1\\], expected an object"),
        ('{"pad_token": 3}', "its tokenizer cannot be read"),
        ('{"pad_token": NaN}', "tokenizer_config.json: has 'NaN'"),
    ],
)
def test_a_damaged_config_of_a_tokenizer_is_named(tokenizer, tmp_path, content, name):
    tokenizer.save(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text(content)
    with pytest.raises(UserError, match=name):
        Tokenizer(tmp_path)


@pytest.mark.parametrize("literal", ["</s>", "<pad>", "<extra_id_0>", "a</s>a", "</s></s>"])
def test_a_control_token_in_a_record_is_text_and_in_a_prompt_the_token(tokenizer, literal):
    control = {0, 1, tokenizer.mask_token_id}
    text = f"a {literal} three"
    assert control & set(tokenizer.tokens(text))
    found = tokenizer.record_tokens(text)
    assert not control & set(found)
    assert (found[0], found[-1]) == (tokenizer.tokens("a")[0], tokenizer.tokens("three")[0]) and len(found) > 3
    caption = caption_tokens(tokenizer, text, 12).token_ids.tolist()
    assert caption == [*found, *[1] * (12 - len(found))]
    dialogue, is_answer, _ = dialogue_tokens(tokenizer, [Turn(literal, literal)], 40, np.random.default_rng(0))
    assert tokenizer.mask_token_id not in dialogue and 0 not in dialogue
    assert (dialogue[~is_answer] != 1).all() and (np.diff((dialogue == 1).astype(int)) >= 0).all()


def test_records_and_prompts_without_control_tokens_have_the_same_ids(tokenizer):
    for text in ("a handwritten three", "", "a < three > /s", "<unk> extra_id_0 </s", "three </ s>"):
        assert tokenizer.record_tokens(text) == tokenizer.tokens(text)


def test_text_that_is_no_valid_unicode_is_mended(tokenizer):
    for tokens in (tokenizer.tokens, tokenizer.record_tokens):
        assert tokens("a \ud83d three") == tokens("a \ufffd three")
        assert tokens("caf\udce9 three")[-1:] == tokens("three")
        for value in (b"a three", None, 3, ["a"]):
            with pytest.raises(UserError, match="is no text; give one"):
                tokens(value)


def test_a_prompt_is_padded_with_the_token_of_the_model(tokenizer, tmp_path):
    """The demo's own files name <pad>, as T5's do; a model pads with what its Tokenizer was made with."""
    named = Tokenizer(tokenizer.folder, None)
    assert (tokenizer.pad_token, named.pad_token) == ("</s>", "<pad>")
    assert named.pieces(named.caption_ids("a three", 5)) == ["▁a", "▁three", "</s>", "<pad>", "<pad>"]
    assert named.pieces(named.caption_ids("", 3)) == ["</s>", "<pad>", "<pad>"]
    np.testing.assert_array_equal(named.caption_ids("a a a a", 3), tokenizer.caption_ids("a a a a", 3))
    assert (named.null_ids(4) == 1).all(), "training pads with the end"
    assert pickle.loads(pickle.dumps(named)).pad_token == "<pad>"
    assert named.fingerprint() == tokenizer.fingerprint()
    for one in (named, tokenizer):
        one.save(tmp_path / one.pad_token[1:-1].strip("/"))
    assert (
        Tokenizer(tmp_path / "s", None).pad_token == "</s>" and Tokenizer(tmp_path / "pad", None).pad_token == "<pad>"
    )
    with pytest.raises(UserError, match="has no token '<padding>'"):
        Tokenizer(tokenizer.folder, "<padding>")


def test_a_vocabulary_without_an_end_is_refused(tmp_path):
    pieces = [("<pad>", 0.0), ("<unk>", 0.0), ("▁a", -1.0), ("<extra_id_0>", 0.0)]
    T5TokenizerFast(vocab=pieces, extra_ids=1, eos_token="<unk>").save_pretrained(str(tmp_path))
    with pytest.raises(UserError, match="has no token '</s>'|must be the last one"):
        Tokenizer(tmp_path)


def test_a_pipe_in_place_of_a_tokenizer_is_named(tmp_path):
    os.mkfifo(tmp_path / "tokenizer.json")
    with pytest.raises(UserError, match="tokenizer.json: is a pipe"):
        Tokenizer(tmp_path)
