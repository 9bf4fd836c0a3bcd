"""Images and texts that are drawn together."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dualdiff_jax import UserError
from dualdiff_jax.models.bundle import bind
from dualdiff_jax.pipeline import joint_programs
from dualdiff_jax.sampling.text_options import TextOptions
from tests.unit.pipeline.test_pipeline import SIDE, pipe  # noqa: F401

LENGTH, STEPS = 6, 3
OPTIONS = dict(steps=STEPS, length=LENGTH, seed=3)


def test_pairs_have_an_image_and_a_text_and_do_not_depend_on_their_neighbours(pipe):  # noqa: F811
    pairs = pipe.joint(3, **OPTIONS | {"seed": [1, 2, 3]})
    assert [pair.image.size for pair in pairs] == [(SIDE, SIDE)] * 3
    alone = pipe.joint(1, **OPTIONS | {"seed": 2})[0]
    assert alone.text == pairs[1].text
    assert np.abs(np.asarray(alone.image, int) - np.asarray(pairs[1].image, int)).max() <= 1


def test_the_prompt_begins_every_text(pipe):  # noqa: F811
    assert all(pair.text.startswith("a digit") for pair in pipe.joint(2, prompt="a digit", **OPTIONS))


def test_a_step_of_the_image_sees_the_text_and_a_step_of_the_text_sees_the_estimate(pipe):  # noqa: F811
    """Two steps at temperature 0, written plainly, give the same image and text."""
    mask, levels = pipe.tokenizer.mask_token_id, np.array([1.0, 0.4, 0.0], np.float32)
    noise = jax.random.normal(jax.random.key(0), (1, SIDE, SIDE, pipe.config.autoencoder.channels))
    token_ids = np.full((1, LENGTH), mask, np.int32)
    token_ids[:, -1] = pipe.tokenizer.end_token_id
    options = TextOptions(order="ancestral", steps=2, temperature=0.0)
    latents, written = pipe.run(
        joint_programs.draw_together,
        noise,
        token_ids,
        None,
        jax.random.split(jax.random.key(5), 1),
        levels,
        jnp.float32(1),
        options,
        mask_token_id=mask,
    )
    keys = jax.vmap(jax.random.split)(jax.random.split(jax.random.key(5), 1))
    step_of = jax.random.randint(keys[0, 0], (LENGTH,), 0, 2)
    model, x = bind(pipe.config, pipe.weights), noise
    for k in range(2):
        v = model(x, 1000 * levels[k : k + 1], token_ids).velocity
        scores = np.array(model(x - levels[k] * v, jnp.zeros(1), token_ids).logits)
        scores[..., mask] = -np.inf
        x = x + (levels[k + 1] - levels[k]) * v
        token_ids = np.where((token_ids == mask) & (step_of == k), scores.argmax(-1), token_ids)
    assert set(np.asarray(step_of)) == {0, 1}
    np.testing.assert_array_equal(written, token_ids)
    np.testing.assert_allclose(latents, x, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"count": 0}, "count is 0; give a whole number from 1"),
        ({"prompt": 3}, "prompt is 3; give one text"),
        ({"prompt": "one two three four five"}, "leaves no room; shorten it"),
        ({"prompt": "a <extra_id_0> three"}, "has a mask, which would be filled; leave the mask out"),
        ({"prompt": "a </s> b"}, "has special tokens, or words that this model's tokenizer does not know"),
        ({"temperature": -1.0}, "temperature"),
        ({"guidance_scale": float("nan")}, "guidance_scale"),
    ],
)
def test_a_wrong_argument_is_named(pipe, wrong, message):  # noqa: F811
    with pytest.raises(UserError, match=message):
        pipe.joint(**OPTIONS | wrong)
