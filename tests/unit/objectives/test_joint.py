"""Laws of the joint objective: what is drawn, what is averaged, and who sees whom."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dualdiff_jax.arrays import DenoiserOutput
from dualdiff_jax.config import ObjectiveConfig
from dualdiff_jax.models.bundle import bind
from dualdiff_jax.objectives.flow_matching import flow_loss
from dualdiff_jax.objectives.joint import Corrupted, ImageExamples, Objective, TextExamples
from dualdiff_jax.objectives.masked_diffusion import masked_nelbo
from tests.unit.tiny import CONFIG, END, MASK, QUICK, draw_latents, draw_tokens, random_weights

BATCH, LENGTH = 4, 5
VOCABULARY = CONFIG.mmdit.vocab_size
NULL = jnp.full(LENGTH, END, jnp.int32)
ANSWERS = jnp.arange(LENGTH) >= jnp.array([[0], [1], [3], [4]])  # 5 + 4 + 2 + 1 tokens
OBJECTIVE = ObjectiveConfig(text_weight=0.7)
BOTH_NORMALIZATIONS = pytest.mark.parametrize("normalization", ["all_positions", "answer_tokens"])


def examples(batch: int = BATCH) -> tuple[ImageExamples, TextExamples]:
    is_answer = jnp.tile(ANSWERS, (batch // BATCH, 1))
    return (
        ImageExamples(draw_latents(0, batch), draw_tokens(1, batch, LENGTH)),
        TextExamples(draw_latents(2, batch), draw_tokens(3, batch, LENGTH), is_answer),
    )


def objective_of(config: ObjectiveConfig = OBJECTIVE, null_text_embeddings=None) -> Objective:
    return Objective(config, null_token_ids=NULL, mask_token_id=MASK, null_text_embeddings=null_text_embeddings)


def draw(config: ObjectiveConfig = OBJECTIVE, seed: int = 0, batch: int = BATCH) -> Corrupted:
    image, text = examples(batch)
    return objective_of(config).corrupt(jax.random.key(seed), image, text)


def sighted(batch: Corrupted) -> Corrupted:
    """The same with a mask in every text example, so that each has a loss."""
    text = batch.text
    is_masked, noisy_token_ids = text.is_masked.at[:, -1].set(True), text.noisy_token_ids.at[:, -1].set(MASK)
    return batch._replace(text=text._replace(is_masked=is_masked, noisy_token_ids=noisy_token_ids))


def linear_denoiser(params: dict[str, jax.Array]):
    """A denoiser of two matrices that reads all its inputs."""

    def denoise(latents, timestep, token_ids, *, in_pairs=False):
        text = jax.nn.one_hot(token_ids, VOCABULARY) @ params["text"]
        image = params["image"] * latents + timestep[:, None, None, None] / 1000
        velocity = image + text.mean(axis=(1, 2))[:, None, None, None]
        logits = text * (1 + image.mean(axis=(1, 2, 3)))[:, None, None]
        return DenoiserOutput(velocity[::2], logits[1::2]) if in_pairs else DenoiserOutput(velocity, logits)

    return denoise


PARAMS = {
    "image": draw_latents(10, 1)[0],
    "text": draw_latents(11, 1, VOCABULARY, VOCABULARY)[0, :, :, 0],
}


@functools.partial(jax.jit, static_argnums=0)
def linear_loss(config: ObjectiveConfig, params: dict[str, jax.Array], batch: Corrupted):
    """((loss, losses by name), gradient) of the two matrices."""

    def loss(params):
        return objective_of(config).loss(linear_denoiser(params), batch)

    return jax.value_and_grad(loss, has_aux=True)(params)


@functools.partial(jax.jit, static_argnums=0, compiler_options=QUICK)
def model_loss(config: ObjectiveConfig, weights: dict[str, jax.Array], batch: Corrupted):
    def loss(weights):
        return objective_of(config).loss(bind(CONFIG, weights), batch)

    return jax.value_and_grad(loss, has_aux=True)(weights)


def assert_close(found, expected, bound: float) -> None:
    """Every array within ``bound`` of the expected one's largest entry."""
    for name in expected:
        size = np.abs(expected[name]).max()
        np.testing.assert_allclose(found[name], expected[name], rtol=0, atol=bound * size + 1e-9, err_msg=name)


def test_one_forward_of_both_batches_equals_two_passes():
    weights, batch = random_weights(), sighted(draw())
    together, apart = (
        model_loss(dataclasses.replace(OBJECTIVE, single_forward=single), weights, batch) for single in (True, False)
    )
    assert_close(together[0][1], apart[0][1], 1e-5)
    assert_close(together[1], apart[1], 1e-5)
    assert float(apart[0][1]["image_loss"]) > 0 and float(apart[0][1]["text_loss"]) > 0


@pytest.mark.parametrize("single_forward", [True, False])
def test_known_text_embeddings_give_the_losses_and_gradients_of_the_captions(single_forward):
    """Those of dropped captions too."""
    weights, config = random_weights(), dataclasses.replace(OBJECTIVE, single_forward=single_forward)
    image, text = examples()
    encode = functools.partial(
        jax.jit(lambda w, ids: bind(CONFIG, w).encode_text(ids), compiler_options=QUICK), weights
    )
    config = dataclasses.replace(config, caption_dropout=0.5)
    known = image._replace(text_embeddings=encode(image.token_ids))
    batches = [
        objective_of(config, encode(NULL[None])[0]).corrupt(jax.random.key(1), images, text)
        for images in (image, known)
    ]
    dropped = np.asarray((batches[0].image.token_ids == NULL).all(axis=1))
    assert dropped.any() and not dropped.all()
    unread = batches[1].image._replace(token_ids=jnp.zeros_like(batches[1].image.token_ids))
    forgotten = batches[1]._replace(image=unread)
    expected, found = (model_loss(config, weights, sighted(batch)) for batch in (batches[0], forgotten))
    assert_close(found[0][1], expected[0][1], 1e-5)
    of_mmdit = {name: value for name, value in expected[1].items() if name.startswith("mmdit.")}
    assert_close(found[1], of_mmdit, 1e-5)


def test_two_passes_take_batches_of_different_sizes():
    batch = sighted(draw())
    fewer = batch._replace(image=jax.tree.map(lambda x: x[:2], batch.image))
    config = dataclasses.replace(OBJECTIVE, single_forward=False)
    losses = linear_loss(config, PARAMS, fewer)[0][1]
    whole = linear_loss(config, PARAMS, batch)[0][1]
    np.testing.assert_allclose(losses["text_loss"], whole["text_loss"], rtol=1e-6)


@pytest.mark.parametrize("single_forward", [True, False])
def test_one_modality_is_corrupted_at_a_time(single_forward):
    """The image half sees noisy latents, their timestep and whole captions; the text half clean latents at 0.

    In one pass the two of a pair are neighbours, so that devices that share the batch have both.
    """
    image, text = examples()
    config = dataclasses.replace(OBJECTIVE, caption_dropout=0.0, single_forward=single_forward)
    batch, seen = draw(config), []

    def record(*inputs, in_pairs=False):
        seen.append(inputs)
        assert in_pairs == single_forward
        return linear_denoiser(PARAMS)(*inputs, in_pairs=in_pairs)

    objective_of(config).loss(record, batch)
    assert len(seen) == (1 if single_forward else 2)
    if single_forward:
        seen = [[x[half::2] for x in seen[0]] for half in (0, 1)]
    latents, timestep, token_ids = (jnp.concatenate(inputs) for inputs in zip(*seen, strict=True))
    np.testing.assert_array_equal(latents, jnp.concatenate([batch.image.noisy_latents, text.latents]))
    np.testing.assert_allclose(timestep, jnp.concatenate([1000 * batch.image.sigma, jnp.zeros(BATCH)]), rtol=1e-6)
    np.testing.assert_array_equal(token_ids, jnp.concatenate([image.token_ids, batch.text.noisy_token_ids]))
    assert (np.asarray(batch.image.noisy_latents) != np.asarray(image.latents)).all()


def test_losses_are_those_of_the_two_objectives():
    batch = sighted(draw())
    output = linear_denoiser(PARAMS)(batch.image.noisy_latents, 1000 * batch.image.sigma, batch.image.token_ids)
    image_loss = flow_loss(output.velocity, batch.image.velocity, batch.image.sigma, "sigma_squared").mean()
    output = linear_denoiser(PARAMS)(batch.text.latents, jnp.zeros(BATCH), batch.text.noisy_token_ids)
    nelbo = masked_nelbo(output.logits, batch.text.clean_token_ids, batch.text.is_masked, batch.text.t, MASK)
    losses = linear_loss(dataclasses.replace(OBJECTIVE, image_weighting="sigma_squared"), PARAMS, batch)[0][1]
    np.testing.assert_allclose(losses["image_loss"], image_loss, rtol=1e-5)
    np.testing.assert_allclose(losses["text_loss"], nelbo.sum() / (BATCH * LENGTH), rtol=1e-5)


def test_noisy_latents_and_velocity_come_from_one_noise():
    image, _ = examples()
    batch = draw()
    noise = batch.image.velocity + image.latents
    sigma = batch.image.sigma[:, None, None, None]
    np.testing.assert_allclose(batch.image.noisy_latents, (1 - sigma) * image.latents + sigma * noise, atol=1e-5)


@BOTH_NORMALIZATIONS
def test_denominator_of_the_text_loss(normalization):
    """All b * l positions, or the answer's 12 tokens; the image loss is a mean over examples in both."""
    tokens = {"all_positions": BATCH * LENGTH, "answer_tokens": 12}[normalization]
    config = dataclasses.replace(OBJECTIVE, text_normalization=normalization)
    batch = sighted(draw(config))
    np.testing.assert_allclose(batch.text.share, np.full(BATCH, 1 / tokens), rtol=1e-6)
    np.testing.assert_allclose(batch.image.share, np.full(BATCH, 1 / BATCH), rtol=1e-6)
    output = linear_denoiser(PARAMS)(batch.text.latents, jnp.zeros(BATCH), batch.text.noisy_token_ids)
    nelbo = masked_nelbo(output.logits, batch.text.clean_token_ids, batch.text.is_masked, batch.text.t, MASK)
    losses = linear_loss(config, PARAMS, batch)[0][1]
    np.testing.assert_allclose(losses["text_loss"], nelbo.sum() / tokens, rtol=1e-5)


@BOTH_NORMALIZATIONS
def test_a_batch_without_answers_has_no_text_loss(normalization):
    image, text = examples()
    config = dataclasses.replace(OBJECTIVE, text_normalization=normalization)
    nothing = text._replace(is_answer=jnp.zeros_like(text.is_answer))
    batch = objective_of(config).corrupt(jax.random.key(0), image, nothing)
    assert linear_loss(config, PARAMS, batch)[0][1]["text_loss"] == 0.0


@pytest.mark.parametrize("rate", [0.0, 0.1, 1.0])
def test_caption_dropout_puts_the_empty_prompt_and_only_that(rate):
    rows, image = 2000, examples(2000)[0]
    found = draw(dataclasses.replace(OBJECTIVE, caption_dropout=rate), batch=rows)
    dropped = (np.asarray(found.image.token_ids) == END).all(axis=1)
    np.testing.assert_array_equal(found.image.token_ids, np.where(dropped[:, None], END, image.token_ids))
    assert abs(dropped.mean() - rate) <= 4.5 * np.sqrt(rate * (1 - rate) / rows)
    never = draw(dataclasses.replace(OBJECTIVE, caption_dropout=0.0), batch=rows)
    captions = found.image.token_ids
    jax.tree.map(np.testing.assert_array_equal, found, never._replace(image=never.image._replace(token_ids=captions)))


@pytest.mark.parametrize("parts", [2, 4])
@BOTH_NORMALIZATIONS
def test_losses_and_gradients_of_the_parts_add_up_to_the_whole(normalization, parts):
    config = dataclasses.replace(OBJECTIVE, text_normalization=normalization)
    batch = sighted(draw(config))
    whole = linear_loss(config, PARAMS, batch)
    cut = [jax.tree.map(lambda x, part=part: x[part::parts], batch) for part in range(parts)]
    total = jax.tree.map(lambda *found: sum(found), *(linear_loss(config, PARAMS, part) for part in cut))
    assert_close(total[0][1], whole[0][1], 1e-5)
    assert_close(total[1], whole[1], 1e-5)


@pytest.mark.parametrize("weight", [0.1, 0.2, 1.0])
def test_the_text_weight_multiplies_the_text_loss(weight):
    (loss, losses), _ = linear_loss(dataclasses.replace(OBJECTIVE, text_weight=weight), PARAMS, sighted(draw()))
    np.testing.assert_allclose(loss, losses["image_loss"] + weight * losses["text_loss"], rtol=1e-6)
    np.testing.assert_array_equal(loss, losses["loss"])
    assert losses["text_loss"] > 0


def test_draws_are_a_function_of_the_key_and_differ_by_purpose():
    first, again, other = draw(seed=0), draw(seed=0), draw(seed=1)
    jax.tree.map(np.testing.assert_array_equal, first, again)
    assert (np.asarray(first.image.sigma) != np.asarray(other.image.sigma)).any()
    assert (np.asarray(first.image.velocity) != np.asarray(other.image.velocity)).all()
    assert (np.asarray(first.text.t) != np.asarray(other.text.t)).all()


@functools.cache
def gradients_by_loss() -> dict[str, dict[str, jax.Array]]:
    """Gradients of each loss alone, by leaf of the model and by input: the latents of both halves and their embeddings.

    A zero is added to what T5 makes of the tokens, so that their gradient has a name.
    """
    batch = sighted(draw())

    def losses(inputs):
        model = bind(CONFIG, inputs["weights"])

        def denoise(latents, timestep, token_ids, *, in_pairs):
            embeddings = model.encode_text(token_ids)
            added = jnp.stack([inputs["captions"], inputs["texts"]], axis=1).reshape(embeddings.shape)
            return model.denoise(latents, timestep, embeddings + added, in_pairs=in_pairs)

        image = batch.image._replace(noisy_latents=inputs["noisy_latents"])
        text = batch.text._replace(latents=inputs["text_latents"])
        found = objective_of().loss(denoise, Corrupted(image, text))[1]
        return jnp.stack([found["image_loss"], found["text_loss"]])

    nothing = jnp.zeros((BATCH, LENGTH, CONFIG.t5.width))
    inputs = {
        "weights": random_weights(),
        "noisy_latents": batch.image.noisy_latents,
        "captions": nothing,
        "text_latents": batch.text.latents,
        "texts": nothing,
    }
    rows = jax.jit(jax.jacrev(losses), compiler_options=QUICK)(inputs)
    return {name: jax.tree.map(lambda x, row=row: x[row], rows) for row, name in enumerate(("image_loss", "text_loss"))}


def is_zero(gradient: jax.Array) -> bool:
    return not np.asarray(gradient).any()


@pytest.mark.parametrize(
    "loss, own, others",
    [
        ("image_loss", ("noisy_latents", "captions"), ("text_latents", "texts")),
        ("text_loss", ("text_latents", "texts"), ("noisy_latents", "captions")),
    ],
)
def test_each_loss_sees_both_modalities_of_its_own_batch_and_nothing_of_the_other(loss, own, others):
    gradients = gradients_by_loss()[loss]
    for name in own:
        per_example = np.abs(np.asarray(gradients[name])).reshape(BATCH, -1).sum(axis=1)
        assert (per_example > 0).all(), name
    for name in others:
        assert is_zero(gradients[name]), name


def test_each_loss_trains_its_own_head_and_both_train_both_streams():
    image, text = (gradients_by_loss()[name]["weights"] for name in ("image_loss", "text_loss"))
    image_only = {"mmdit.image_modulation.kernel", "mmdit.image_modulation.bias"}
    image_only |= {"mmdit.image_out.kernel", "mmdit.image_out.bias"}
    text_only = {"mmdit.text_out.kernel", "mmdit.text_out.bias"}
    assert {name for name in image if is_zero(image[name])} == text_only | {"mmdit.null_image"}
    assert {name for name in text if is_zero(text[name])} == image_only | {"mmdit.null_image"}


@pytest.mark.parametrize("stream", ["image", "text"])
def test_a_stream_without_weight_needs_no_batch(stream):
    """Its term is absent, and the other one's draws and loss are those of a step with both."""
    other = {"image": "text", "text": "image"}[stream]
    config = dataclasses.replace(OBJECTIVE, **{f"{stream}_weight": 0.0})
    image, text = examples()
    alone = objective_of(config).corrupt(
        jax.random.key(0), image if other == "image" else None, text if other == "text" else None
    )
    both = draw()
    assert getattr(alone, stream) is None
    jax.tree.map(np.testing.assert_array_equal, getattr(alone, other), getattr(both, other))
    losses = linear_loss(config, PARAMS, alone)[0][1]
    assert f"{stream}_loss" not in losses
    apart = linear_loss(dataclasses.replace(OBJECTIVE, single_forward=False), PARAMS, both)[0][1]
    np.testing.assert_array_equal(losses[f"{other}_loss"], apart[f"{other}_loss"])


def test_a_name_that_is_no_normalization_is_refused():
    class Config:
        text_normalization = "answers"

    with pytest.raises(ValueError, match="'answers'; give one of"):
        Objective(Config(), null_token_ids=NULL, mask_token_id=MASK)


def test_an_anchor_is_never_masked_and_no_other_draw_changes():
    image, text = examples(64)
    ends = text.token_ids.at[::2, -1].set(END)
    text = text._replace(token_ids=ends, is_answer=jnp.ones(ends.shape, bool))
    found = {}
    for anchor_end in (False, True):
        config = dataclasses.replace(OBJECTIVE, anchor_end=anchor_end, text_normalization="answer_tokens")
        found[anchor_end] = objective_of(config).corrupt(jax.random.key(0), image, text).text
    plain, anchored = found[False], found[True]
    np.testing.assert_array_equal(plain.t, anchored.t)
    np.testing.assert_array_equal(plain.is_masked[1::2], anchored.is_masked[1::2])
    np.testing.assert_array_equal(plain.is_masked[:, :-1], anchored.is_masked[:, :-1])
    assert plain.is_masked[::2, -1].sum() > 8 and not anchored.is_masked[::2, -1].any()
    np.testing.assert_array_equal(anchored.noisy_token_ids[::2, -1], np.full(32, END))
    np.testing.assert_allclose(1 / plain.share, np.full(64, 64 * LENGTH), rtol=1e-6)
    np.testing.assert_allclose(1 / anchored.share, np.full(64, 64 * LENGTH - 32), rtol=1e-6)


def test_the_end_of_an_answer_is_masked_as_any_token():
    """The sampler does not give it, so a network that never saw it masked could not answer."""
    image, text = examples(64)
    ends = text.token_ids.at[:, -1].set(END)
    is_answer = jnp.ones(ends.shape, bool).at[::2, 0].set(False)  # every other text has a prompt
    config = dataclasses.replace(OBJECTIVE, anchor_end=True)
    found = objective_of(config).corrupt(jax.random.key(0), image, text._replace(token_ids=ends, is_answer=is_answer))
    assert found.text.is_masked[::2, -1].sum() > 8 and not found.text.is_masked[1::2, -1].any()


def test_training_has_no_anchor_by_default():
    assert not ObjectiveConfig().anchor_end
