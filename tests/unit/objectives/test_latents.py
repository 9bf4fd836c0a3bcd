"""Whatever a batch holds of its images, the latents are those of the images."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from dualdiff_jax.arrays import DenoiserOutput
from dualdiff_jax.objectives.joint import TextExamples
from dualdiff_jax.objectives.latents import clean_latents
from tests.unit.objectives.test_joint import OBJECTIVE, examples, objective_of
from tests.unit.tiny import draw_latents

RNG = jax.random.key(3)
MEAN, LOG_VARIANCE = draw_latents(0, 2, channels=3), draw_latents(1, 2, channels=3)


def encode(images, rng):
    """A posterior around the images."""
    return images + jnp.exp(0.5 * LOG_VARIANCE) * jax.random.normal(rng, images.shape)


def test_images_are_encoded_with_the_key():
    np.testing.assert_array_equal(clean_latents({"image": MEAN}, encode, RNG), encode(MEAN, RNG))


def test_a_stored_posterior_is_drawn_from_as_the_autoencoder_does():
    stored = {"latent_mean": MEAN, "latent_log_variance": LOG_VARIANCE}
    np.testing.assert_allclose(clean_latents(stored, None, RNG), encode(MEAN, RNG), rtol=1e-6)
    rounded = {name: value.astype(jnp.bfloat16) for name, value in stored.items()}
    found = clean_latents(rounded, None, RNG)
    assert found.dtype == jnp.float32
    # bf16 keeps 8 bits: half a unit of the mean, and of the log variance times half the deviation it gives.
    noise = np.abs(np.asarray(encode(MEAN, RNG) - MEAN))
    bound = 2.0**-8 * (np.abs(MEAN) + 0.5 * np.abs(LOG_VARIANCE) * noise) + 1e-6
    assert (np.abs(np.asarray(found) - np.asarray(encode(MEAN, RNG))) <= 1.01 * bound).all()


def test_a_rounded_mean_alone_is_given_in_fp32():
    found = clean_latents({"latent_mean": MEAN.astype(jnp.bfloat16)}, None, RNG)
    assert found.dtype == jnp.float32


def test_a_posterior_without_a_variance_is_its_mean():
    np.testing.assert_array_equal(
        clean_latents({"latent_mean": MEAN.astype(jnp.bfloat16)}, None, RNG), MEAN.astype(jnp.bfloat16)
    )


def test_texts_without_an_image_have_no_latents():
    assert clean_latents({"token_ids": jnp.zeros((2, 3), jnp.int32)}, None, RNG) is None


def test_texts_without_an_image_are_read_beside_the_null_image():
    """Whether one pass of the model is asked for or two; the image loss is that of a step with images."""
    image, text = examples()
    calls = []

    def denoiser(latents, timestep, token_ids, *, in_pairs=False):
        calls.append(latents is None)
        logits = (jax.nn.one_hot(token_ids, 11) + (5.0 if latents is None else latents.mean())) * jnp.arange(11)
        return DenoiserOutput(latents[::2], logits[1::2]) if in_pairs else DenoiserOutput(latents, logits)

    def losses(text, **changes):
        objective = objective_of(dataclasses.replace(OBJECTIVE, **changes))
        return objective.loss(denoiser, objective.corrupt(RNG, image, text))[1]

    without = TextExamples(None, text.token_ids, text.is_answer)
    found = losses(without)
    assert calls == [False, True]
    jax.tree.map(np.testing.assert_array_equal, losses(without, single_forward=False), found)
    with_images = losses(text)
    assert with_images["image_loss"] == found["image_loss"] and with_images["text_loss"] != found["text_loss"]
