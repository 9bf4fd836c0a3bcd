"""Laws of ``nats_per_token``: padding, the normalization and the anchor change nothing of what it divides by."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dualdiff_jax.arrays import DenoiserOutput
from dualdiff_jax.config import ObjectiveConfig
from dualdiff_jax.objectives.joint import Corrupted, CorruptedTexts, Objective, TextExamples
from dualdiff_jax.objectives.masked_diffusion import is_padding

END, MASK, VOCAB = 1, 10, 11
CONFIG = ObjectiveConfig(image_weight=0.0, text_weight=1.0, single_forward=False)


def test_each_end_that_follows_another_is_padding():
    tokens = jnp.array([[5, 6, END, END, END], [END, END, END, END, END], [5, END, 7, END, END], [5, 6, 7, 8, END]])
    expected = [[0, 0, 0, 1, 1], [0, 1, 1, 1, 1], [0, 0, 0, 0, 1], [0, 0, 0, 0, 0]]
    np.testing.assert_array_equal(is_padding(tokens, END), np.array(expected, bool))


def metrics(length: int, **changes) -> dict[str, float]:
    """Metrics of a model to which all tokens but the mask are equally likely; all that may be masked is, at t = 1/2."""
    tokens = np.full((2, length), END)
    tokens[0, :3], tokens[1, :2] = (4, 5, 6), (7, 8)
    is_answer = np.ones((2, length), bool)
    is_answer[1, 0] = False  # a question's
    config = dataclasses.replace(CONFIG, **changes)
    objective = Objective(config, null_token_ids=np.full(length, END), mask_token_id=MASK)
    text = objective.corrupt(
        jax.random.key(0), None, TextExamples(None, jnp.asarray(tokens), jnp.asarray(is_answer))
    ).text
    assert isinstance(text, CorruptedTexts)
    is_written = is_answer & ~np.asarray(is_padding(jnp.asarray(tokens), END))
    text = text._replace(is_masked=jnp.asarray(is_written), t=jnp.full(2, 0.5))

    class Uniform:
        def __call__(self, latents, timestep, token_ids):
            return DenoiserOutput(None, jnp.zeros((*token_ids.shape, VOCAB)))

    return {name: np.asarray(value) for name, value in objective.loss(Uniform(), Corrupted(None, text))[1].items()}


@pytest.mark.parametrize("changes", [{}, {"text_normalization": "answer_tokens"}, {"anchor_end": True}])
def test_it_is_the_nats_of_a_token_whatever_the_length(changes):
    """6 tokens are written, each costs log(10) / t where it is masked."""
    expected = np.log(VOCAB - 1) / 0.5
    found = [metrics(length, **changes) for length in (5, 8, 16)]
    np.testing.assert_allclose([each["nats_per_token"] for each in found], expected, rtol=1e-6)
    losses = [float(each["text_loss"]) for each in found]
    assert losses[0] > losses[1] > losses[2]
