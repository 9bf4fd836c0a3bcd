"""All masks look alike to the model, whatever its weights; a given end breaks the symmetry."""

import jax.numpy as jnp
import numpy as np
import pytest

from dualdiff_jax import UserError
from dualdiff_jax.models.bundle import bind
from dualdiff_jax.pipeline.text_inputs import masked_texts
from tests.unit.pipeline.test_pipeline import pictures, pipe  # noqa: F401
from tests.unit.tiny import CONFIG, END, MASK, draw_latents, random_weights

LENGTH = 9
ROUNDING = 2e-6  # relative to the largest logit: sums of equal numbers with other weights, in float32


def all_masks(rows: int = 2) -> np.ndarray:
    return np.full((rows, LENGTH), MASK)


def spread(token_ids: np.ndarray, seed: int, latents) -> np.ndarray:
    """By position, the largest difference to the logits of the first position, relative to the largest logit."""
    model = bind(CONFIG, random_weights(seed=seed))
    logits = np.asarray(model(latents, jnp.zeros(1), jnp.asarray(token_ids)).logits, np.float64)
    return np.abs(logits - logits[:, :1]).max(axis=(0, 2)) / np.abs(logits).max()


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("latents", [draw_latents(0, 2), None], ids=["image", "no_image"])
def test_all_positions_of_an_all_masked_text_have_the_same_logits(seed, latents):
    assert spread(all_masks(), seed, latents).max() < ROUNDING


@pytest.mark.parametrize("seed", range(3))
def test_with_the_anchor_each_position_has_logits_of_its_own(seed):
    token_ids = all_masks()
    token_ids[:, -1] = END
    assert spread(token_ids, seed, draw_latents(0, 2))[1:].min() > 10 * ROUNDING


def test_a_caption_ends_in_a_given_token_unless_like_original_or_switched_off(pipe, pictures):  # noqa: F811
    end = pipe.tokenizer.end_token_id
    given = []
    generate = pipe.complete_text

    def watched(images, token_ids, **options):
        given.append(token_ids)
        return generate(images, token_ids, **options)

    pipe.complete_text = watched
    try:
        for options in ({}, {"prompt": "a photo"}, {"anchor_end": True, "like_original": True}):
            pipe.image_to_text(pictures, **options)
            assert (given.pop()[:, -1] == end).all(), options
        for options in ({"anchor_end": False}, {"like_original": True}, {"like_original": True, "prompt": "a"}):
            pipe.image_to_text(pictures, **options)
            assert (given.pop()[:, -1] == pipe.tokenizer.mask_token_id).all(), options
        pipe.answer(pictures[:1], "which?")
        assert given.pop()[0, -1] == pipe.tokenizer.mask_token_id
        pipe.answer(pictures[:1], "which?", anchor_end=True)
        assert given.pop()[0, -1] == end
    finally:
        del pipe.complete_text


def test_the_anchor_counts_as_given(pipe, pictures):  # noqa: F811
    nothing = [np.zeros(0, int)] * 3
    sample = pipe.generate_text(pictures, nothing, length=6, steps=3)
    assert (sample.revealed_in[:, -1] == -1).all() and (sample.token_ids[:, -1] == pipe.tokenizer.end_token_id).all()
    assert (sample.revealed_in[:, :-1] >= 0).all()
    assert (pipe.generate_text(pictures, nothing, length=6, steps=3, anchor_end=False).revealed_in >= 0).all()


def test_each_text_is_anchored_by_its_own_prompt(pipe):  # noqa: F811
    end, mask = pipe.tokenizer.end_token_id, pipe.tokenizer.mask_token_id
    texts = [([], None, True, end), ([5], None, True, mask), ([], None, False, mask), ([5], True, False, end)]
    for prompt, anchor_end, default, last in texts:
        found = masked_texts(pipe.tokenizer, [prompt], 1, 4, anchor_end=anchor_end, default=default)[0]
        assert found.tolist() == [*prompt, *[mask] * (3 - len(prompt)), last]


def test_the_anchor_takes_a_place(pipe, pictures):  # noqa: F811
    prompt = "a handwritten"
    assert len(pipe.image_to_text(pictures, prompt=prompt, length=3, anchor_end=False)) == 3
    with pytest.raises(UserError, match="the prompt takes 2 of 3 tokens and leaves no room"):
        pipe.image_to_text(pictures, prompt=prompt, length=3)
    with pytest.raises(UserError, match=r"prompts\[1\] has 3 tokens and leaves no room in 4"):
        masked_texts(pipe.tokenizer, [[5], [5, 5, 5]], 2, 4, anchor_end=True, default=False)
