"""Scores against the exact bound, by enumeration of all masks; against the validation loss; and their independence."""

import dataclasses
import itertools
import json
import math

import jax
import numpy as np
import pytest

from dualdiff_jax import DualDiffusionPipeline, UserError
from dualdiff_jax.config import MeshConfig
from dualdiff_jax.data.texts import caption_tokens
from dualdiff_jax.evaluation.likelihood import Likelihood
from dualdiff_jax.models.separated import separated_weights
from dualdiff_jax.objectives.time_sampling import T_MIN
from dualdiff_jax.sharding import make_mesh
from tests.small_run import small_run
from tests.unit.pipeline.test_pipeline import pictures, pipe  # noqa: F401
from tests.unit.tiny import random_weights

STANDARD_ERRORS = 4.5
TEXTS = ["three", "a digit", "seven"]
QUESTION = "which?"
LENGTH = 4


def exact(pipe, picture, token_ids, positions) -> float:  # noqa: F811
    """The mean over k of (n / k) times the mean cost of k masks, over all sets of ``positions``."""
    latents = pipe.encode_image(picture[None].astype(np.float32) / 127.5 - 1)
    total, n = 0.0, len(positions)
    for k in range(1, n + 1):
        sets = list(itertools.combinations(positions, k))
        noisy = np.tile(token_ids, (len(sets), 1))
        for row, chosen in zip(noisy, sets, strict=True):
            row[list(chosen)] = pipe.tokenizer.mask_token_id
        log_probs = np.asarray(pipe.subs_log_probs(np.repeat(latents, len(sets), axis=0), noisy), np.float64)
        costs = [-sum(log_probs[i, at, token_ids[at]] for at in chosen) for i, chosen in enumerate(sets)]
        total += n / k * float(np.mean(costs)) / n
    return total


@pytest.mark.parametrize("anchor_end", [True, False])
def test_a_score_is_the_exact_bound_up_to_its_error(pipe, pictures, anchor_end):  # noqa: F811
    found = pipe.score(pictures, TEXTS, length=LENGTH, samples=600, anchor_end=anchor_end)
    for (i, picture), (j, text) in itertools.product(enumerate(pictures), enumerate(TEXTS)):
        token_ids = caption_tokens(pipe.tokenizer, text, LENGTH).token_ids
        expected = exact(pipe, picture, token_ids, range(LENGTH - anchor_end))
        assert 0 < found.standard_error[i, j] < 0.02 * expected
        assert abs(found.nats[i, j] - expected) < STANDARD_ERRORS * found.standard_error[i, j]
    assert found.tokens.tolist() == [[2, 3, 2]] * 3


@pytest.mark.parametrize("anchor_end", [None, True])
def test_of_an_answer_its_own_tokens_count(pipe, pictures, anchor_end):  # noqa: F811
    """All of them, unless the last is given on request."""
    asked = {"questions": QUESTION, "length": 9, "samples": 600, "anchor_end": anchor_end}
    found = pipe.score(pictures[:1], ["three", "seven a"], **asked)
    prompt = pipe.tokenizer.question_ids(QUESTION, 9)
    for j, text in enumerate(["three", "seven a"]):
        token_ids = pipe.tokenizer.null_ids(9)
        written = [*prompt, *pipe.tokenizer.tokens(text)]
        token_ids[: len(written)] = written
        expected = exact(pipe, pictures[0], token_ids, range(len(prompt), 8 if anchor_end else 9))
        assert abs(found.nats[0, j] - expected) < STANDARD_ERRORS * found.standard_error[0, j] < 0.1 * expected


def test_the_validation_loss_is_the_mean_score(tmp_path):
    """``evaluation/likelihood`` on captions alone; it weighs k masks by their clock in [eps, 1], which is less."""
    config, tokenizer = small_run(tmp_path, model={"mmdit": {"depth": 1}}, train={"global_batch_size": 64})
    (source,) = (each for each in config.data.sources if each.task == "captioning")
    sources = (dataclasses.replace(source, caption_keys=("caption",), caption_weights=(1.0,)),)
    validation = dataclasses.replace(config.validation, batches=40, sources=sources)
    weights = random_weights(config.model, seed=3)
    mesh = make_mesh(MeshConfig(), jax.devices()[:1])
    figures = Likelihood(dataclasses.replace(config, validation=validation), tokenizer, mesh)(0, weights)
    length = config.data.text_length
    records = json.loads((tmp_path / "captions.json").read_text())
    pipe = DualDiffusionPipeline(config.model, separated_weights(config.model, weights), tokenizer)  # noqa: F811
    images = [str(tmp_path / record["image_path"]) for record in records]
    found = pipe.score(images, [[record["caption"]] for record in records], samples=64)
    mean = found.nats.mean() / length
    spread = mean * 0.6 / math.sqrt(64 * 40)  # a batch's t are spread evenly; what is left is mostly of the masks
    assert abs(figures["text_loss"] - mean) < STANDARD_ERRORS * spread + length * T_MIN * mean
    assert STANDARD_ERRORS * spread + length * T_MIN * mean < 0.07 * mean


def test_a_score_depends_on_its_own_image_text_and_seed_alone(pipe, pictures):  # noqa: F811
    together = pipe.score(pictures, TEXTS, samples=4, seed=5)
    for i, j in itertools.product(range(3), range(3)):
        alone = pipe.score(pictures[i], TEXTS[j], samples=4, seed=5)
        np.testing.assert_allclose(alone.nats[0, 0], together.nats[i, j], rtol=1e-5)
        np.testing.assert_allclose(alone.standard_error[0, 0], together.standard_error[i, j], rtol=1e-3, atol=1e-5)
    nested = pipe.score(pictures, [TEXTS, TEXTS[::-1], TEXTS], samples=4, seed=5)
    np.testing.assert_allclose(nested.nats[1], together.nats[1, ::-1], rtol=1e-5)
    assert not np.allclose(pipe.score(pictures, TEXTS, samples=4, seed=6).nats, together.nats, rtol=1e-3)


def test_all_texts_of_an_image_have_the_same_draws(pipe, pictures):  # noqa: F811
    """So the difference of a text to itself has no error, though each of the two has one."""
    found = pipe.score(pictures, ["a three", "a three", "a digit"], samples=8)
    assert (found.standard_error > 1e-4).all()
    np.testing.assert_allclose(found.nats[:, 0], found.nats[:, 1], rtol=1e-5)
    np.testing.assert_allclose(found.behind, found.nats - found.nats.min(axis=1, keepdims=True), atol=1e-6)
    same = np.abs(found.behind[:, :2] - found.behind[:, :2].min(axis=1, keepdims=True))
    assert (same < 2e-5).all() and (np.abs(np.diff(found.behind_error[:, :2], axis=1)) < 2e-5).all()
    best = found.nats.argmin(axis=1)
    assert (found.behind_error[np.arange(3), best] == 0).all() and (found.behind_error[:, 2] != 0).any()


def test_per_token_divides_by_the_text_and_its_end(pipe, pictures):  # noqa: F811
    plain, each = (pipe.score(pictures, TEXTS, samples=4, per_token=per_token) for per_token in (False, True))
    np.testing.assert_allclose(each.nats * [[2, 3, 2]], plain.nats, rtol=1e-6)
    np.testing.assert_allclose(each.standard_error * [[2, 3, 2]], plain.standard_error, rtol=1e-6)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"samples": 5}, "samples is 5; give an even number"),
        ({"texts": [["a"], ["b"]]}, "texts has 2 lists for 3 images; give a list for each"),
        ({"texts": [["a"], ["b"], ["a", "b"]]}, r"texts\[2\] has 2 entries and texts\[0\] 1; give as many"),
        ({"texts": "a " * 7}, "has 1 tokens too many for length 7; raise it"),
        ({"questions": ["a", "b"]}, "questions has 2 entries for 3 images; give one, or one for each image"),
        ({"questions": "three " * 12}, "questions: .* leaves no room for an answer in 12; shorten it"),
    ],
)
def test_what_cannot_be_scored_is_a_sentence(pipe, pictures, given, message):  # noqa: F811
    with pytest.raises(UserError, match=message):
        pipe.score(pictures, **({"texts": TEXTS} | given))
