"""Texts with blanks: how they are read, what a blank may hold, and that all that is written stays."""

import numpy as np
import pytest

from dualdiff_jax import UserError
from dualdiff_jax.data.tokenizer import T5_TOKENIZER, Tokenizer
from dualdiff_jax.pipeline.blanks import blanked_text, split_blanks, token_kinds
from tests.unit.pipeline.test_pipeline import SIDE, pictures, pipe  # noqa: F401

ORDERS = ["ancestral", "confidence"]


@pytest.fixture(scope="module")
def t5() -> Tokenizer:
    return Tokenizer(T5_TOKENIZER)


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("a _ on a _", ["a ", " on a ", ""]),
        ("none", ["none"]),
        ("__", ["", "", ""]),
        (r"snake\_case _", ["snake_case ", ""]),
        (r"\\_", ["\\", ""]),
        (r"a\b_\n", [r"a\b", r"\n"]),
        ("\\", ["\\"]),
        ("two\nlines _", ["two\nlines ", ""]),
    ],
)
def test_blanks_and_escapes(text, parts):
    assert split_blanks(text) == parts


@pytest.mark.parametrize(
    ("text", "fills"),
    [
        ("a photo of a _ on a _", ["dog", "table"]),
        ("_ is red", ["The house"]),
        ("they walk_, on", ["ing"]),
        ("_ing", ["walk"]),
        ('the word "_"', ["blue"]),
        (r"a\_b  _  c", ["dog"]),
        ("__ two", ["walk", "ing"]),
        ("café _ – naïve", ["noir"]),
    ],
)
def test_a_filled_text_is_tokenized_as_the_whole_text_and_reads_as_written(t5, text, fills):
    """T5's pieces of the whole text, with those of the fills cut out and put back."""
    parts = split_blanks(text)
    spelled = [
        "▁" * (not part or part[-1].isspace()) + fill.replace(" ", "▁")
        for part, fill in zip(parts[:-1], fills, strict=True)
    ]
    if text.startswith("__"):
        spelled[1] = fills[1]
    ids = [[piece.id for piece in t5._tokenizer.backend_tokenizer.model.tokenize(fill)] for fill in spelled]
    blanked = blanked_text("texts[0]", t5, text, [len(each) for each in ids], 24)
    filled = blanked.token_ids.copy()
    for blank, each in zip(blanked.blanks, ids, strict=True):
        assert (filled[blank] == t5.mask_token_id).all()
        filled[blank] = each
    whole = "".join(part + fill for part, fill in zip(parts, [*fills, ""], strict=True))
    assert blanked.filled(t5, filled) == (whole, fills)
    assert filled[-1] == t5.end_token_id and t5.decode(filled) == t5.decode(t5.tokens(whole))
    kinds = token_kinds(t5)
    assert not (kinds[filled] & blanked.ruled_out).any(), "a right fill is ruled out"


def test_kinds_of_tokens(t5):
    kinds = {piece: kind for piece, kind in zip(t5.pieces(range(t5.vocab_size)), token_kinds(t5), strict=True)}
    end, control, opens, goes_on, lone = 1, 2, 4, 8, 16
    assert kinds["</s>"] == end
    assert all(kinds[piece] == control for piece in ("<pad>", "<unk>", "<extra_id_0>", "<extra_id_99>"))
    assert (kinds["▁dog"], kinds["ing"], kinds["▁"]) == (opens, goes_on, opens | lone)


@pytest.mark.parametrize("order", ORDERS)
def test_what_is_written_stays_and_a_blank_holds_words(pipe, pictures, order):  # noqa: F811
    text, known = "a _ of the _ left _ is", pipe.tokenizer
    for filled in pipe.infill(text, pictures, tokens_per_blank=[1, 2, 1], length=14, order=order, with_fills=True):
        first, second, third = filled.fills
        assert filled.text == f"a {first} of the {second} left {third} is"
        assert all(fill and fill == fill.strip() and "<" not in fill for fill in filled.fills)
        assert len(known.tokens(first)) == len(known.tokens(third)) == 1
    assert pipe.infill(text, pictures, length=14, seed=3, order=order) == [
        each.text for each in pipe.infill(text, pictures, length=14, seed=3, order=order, with_fills=True)
    ]


@pytest.mark.parametrize("order", ORDERS)
def test_behind_a_word_a_blank_goes_on_with_it(pipe, pictures, order):  # noqa: F811
    """The only pieces of the demo's tokenizer that go on are signs."""
    for seed in range(4):
        for text in pipe.infill("a digit_ three", pictures, order=order, seed=seed):
            assert text in ("a digit? three", "a digit: three")
        for text in pipe.infill("a digit _ three", pictures, order=order, seed=seed):
            assert text.split()[2] not in "?:"


def test_the_last_blank_may_end_early_and_no_other(pipe, pictures):  # noqa: F811
    """The network is made to prefer the end everywhere."""
    end, name = pipe.tokenizer.end_token_id, "mmdit.text_out.bias"
    kept = pipe.weights[name]
    pipe.weights[name] = kept.at[end].add(1e3)
    try:
        (found,) = pipe.infill("a _ left _", pictures[0], tokens_per_blank=3, length=12, with_fills=True)
    finally:
        pipe.weights[name] = kept
    assert len(found.fills[0].split()) == 3 and len(found.fills[1].split()) == 1


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("text", ["_ left _", "a __", "a _ three _"])
def test_no_blank_has_stray_spaces_and_only_the_last_may_be_empty(pipe, text, order):  # noqa: F811
    """The network is made to prefer the lone space, and then the end, to all words."""
    lone, name = list(pipe.tokenizer.pieces(range(pipe.tokenizer.vocab_size))).index("▁"), "mmdit.text_out.bias"
    kept, pictures = pipe.weights[name], np.zeros((48, SIDE, SIDE, 3), np.uint8)  # noqa: F811
    pipe.weights[name] = kept.at[lone].add(6.0).at[pipe.tokenizer.end_token_id].add(5.0)
    options = dict(tokens_per_blank=3, length=12, order=order, temperature=1.0, with_fills=True)
    try:
        found = pipe.infill(text, pictures, seed=list(range(48)), **options)
    finally:
        pipe.weights[name] = kept
    assert all(fill == " ".join(fill.split()) for each in found for fill in each.fills)
    assert all(all(each.fills[:-1]) for each in found)
    assert all(each.text == " ".join(each.text.split()) for each in found if each.fills[-1])


def test_one_image_or_one_text_serves_all(pipe, pictures):  # noqa: F811
    texts = ["a _ three", "the _ five", "a _"]
    assert len(pipe.infill(texts[0], pictures)) == len(pipe.infill(texts, pictures[0])) == 3
    each = pipe.infill(texts, pictures, seed=[1, 2, 3])
    assert each == [pipe.infill(t, i, seed=[s])[0] for t, i, s in zip(texts, pictures, (1, 2, 3), strict=True)]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"texts": "a three"}, r"texts\[0\] is 'a three' and has no blank; put _ where tokens are to be found"),
        ({"texts": r"a \_"}, "has no blank"),
        ({"tokens_per_blank": [1, 1]}, r"tokens_per_blank has 2 entries for the 1 blanks of texts\[0\]; give one"),
        ({"tokens_per_blank": 6}, r"texts\[0\] takes 7 tokens, 6 of them for blanks, and there is room for 6; shorten"),
        ({"texts": "_ " * 7}, r"texts\[0\] takes 7 tokens, 7 of them for blanks, and there is room for 6"),
        ({"texts": ["a _", "_"]}, "3 images, but texts has 2 entries; give one, or as many"),
        ({"tokens_per_blank": [0]}, r"tokens_per_blank\[0\] is 0"),
        ({"tokens_per_blank": []}, r"tokens_per_blank is \[\]; give a number"),
        ({"rules": None}, "infill makes rules itself, from what is written; leave rules out"),
    ],
)
def test_what_cannot_be_filled_is_a_sentence(pipe, pictures, given, message):  # noqa: F811
    with pytest.raises(UserError, match=message):
        pipe.infill(**({"texts": "a _", "images": pictures} | given))


def test_there_is_room_for_all_but_the_end(pipe, pictures):  # noqa: F811
    assert len(pipe.infill("a _", pictures[0], tokens_per_blank=5)) == 1
    assert np.all([pipe.infill("_ " * 6, pictures[0])])
