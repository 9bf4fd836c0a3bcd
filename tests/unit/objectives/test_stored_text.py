"""Embeddings of captions that are known take the place of the captions, and of nothing else."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dualdiff_jax.arrays import DenoiserOutput
from dualdiff_jax.objectives.joint import TextExamples
from tests.unit.objectives.test_joint import (
    LENGTH,
    NULL,
    OBJECTIVE,
    PARAMS,
    VOCABULARY,
    examples,
    objective_of,
    sighted,
)

RNG = jax.random.key(1)
DROPPING = dataclasses.replace(OBJECTIVE, caption_dropout=0.5)


def encode_text(token_ids):
    return jax.nn.one_hot(token_ids, VOCABULARY)


class Denoiser:
    """Two matrices behind ``encode_text``; notes in ``read`` the tokens that it encodes."""

    def __init__(self, read: list):
        self._read = read

    def encode_text(self, token_ids):
        self._read.append(token_ids)
        return encode_text(token_ids)

    def denoise(self, latents, timestep, text, *, in_pairs=False):
        text = text @ PARAMS["text"]
        if latents is None:
            return DenoiserOutput(None, text)
        image = PARAMS["image"] * latents + timestep[:, None, None, None] / 1000
        velocity = image + text.mean(axis=(1, 2))[:, None, None, None]
        logits = text * (1 + image.mean(axis=(1, 2, 3)))[:, None, None]
        return DenoiserOutput(velocity[::2], logits[1::2]) if in_pairs else DenoiserOutput(velocity, logits)

    def __call__(self, latents, timestep, token_ids, *, in_pairs=False):
        return self.denoise(latents, timestep, self.encode_text(token_ids), in_pairs=in_pairs)


def losses(image, text, config, read):
    objective = objective_of(config, encode_text(NULL))
    found = objective.corrupt(RNG, image, text)
    return objective.loss(Denoiser(read), sighted(found))[1], found


@pytest.mark.parametrize("single_forward", [True, False])
@pytest.mark.parametrize("with_images", [True, False])
def test_a_step_is_the_one_from_the_captions(single_forward, with_images):
    """With half of the captions dropped, from one pass and from two; only the masked texts are encoded."""
    image, text = examples()
    if not with_images:
        text = TextExamples(None, text.token_ids, text.is_answer)
    config = dataclasses.replace(DROPPING, single_forward=single_forward)
    expected, drawn = losses(image, text, config, [])
    dropped = (np.asarray(drawn.image.token_ids) == np.asarray(NULL)).all(axis=1)
    assert 0 < dropped.sum() < len(dropped)
    read: list = []
    known = image._replace(text_embeddings=encode_text(image.token_ids), token_ids=jnp.zeros_like(image.token_ids))
    found, _ = losses(known, text, config, read)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), found, expected)
    assert len(read) == 1 and read[0].shape == (len(text.token_ids), LENGTH)
    np.testing.assert_array_equal(read[0], sighted(drawn).text.noisy_token_ids)


def test_embeddings_keep_their_dtype_and_without_dropout_none_is_replaced():
    image, text = examples()
    known = image._replace(text_embeddings=encode_text(image.token_ids).astype(jnp.bfloat16))
    config = dataclasses.replace(OBJECTIVE, caption_dropout=0.0)
    kept = objective_of(config).corrupt(RNG, known, text)
    np.testing.assert_array_equal(kept.image.text_embeddings, known.text_embeddings)
    found = objective_of(DROPPING, encode_text(NULL)).corrupt(RNG, known, text)
    assert found.image.text_embeddings.dtype == jnp.bfloat16
