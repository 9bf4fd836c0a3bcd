"""Texts while they are sampled: the same passes as in one go, and what stands after each of them."""

import numpy as np
import pytest

from dualdiff_jax import UserError
from tests.unit.pipeline.test_pipeline import pictures, pipe  # noqa: F401

LENGTH, STEPS = 8, 4


@pytest.mark.parametrize("every", [1, 3, 100])
@pytest.mark.parametrize("order", ["ancestral", "confidence"])
def test_the_last_piece_is_the_text_in_one_go(pipe, pictures, order, every):  # noqa: F811
    options = dict(length=LENGTH, steps=STEPS, order=order, seed=3)
    whole = pipe.generate_text(list(pictures), [np.zeros(0, np.int32)] * len(pictures), **options)
    pieces = list(pipe.stream_text(list(pictures), every=every, **options))
    assert [piece.is_finished for piece in pieces] == [False] * (len(pieces) - 1) + [True]
    assert len(pieces) == -(-int(whole.passes.max()) // every)
    for ours, theirs in zip(pieces[-1].sample, whole, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert pieces[-1].rows == range(len(pictures))


def test_a_piece_shows_what_was_revealed_by_its_pass_and_masks_elsewhere(pipe, pictures):  # noqa: F811
    pieces = list(pipe.stream_text(list(pictures), length=LENGTH, steps=STEPS, seed=5))
    end = pieces[-1].sample
    assert len(pieces) > 1
    for number, piece in enumerate(pieces):
        expected = np.where(end.revealed_in <= number, end.token_ids, pipe.tokenizer.mask_token_id)
        np.testing.assert_array_equal(piece.sample.token_ids, expected)


def test_what_is_no_number_of_passes_is_named(pipe, pictures):  # noqa: F811
    with pytest.raises(UserError, match="every is 0; give a whole number from 1"):
        pipe.stream_text(list(pictures), every=0)
