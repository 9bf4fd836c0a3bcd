"""Validation has the same draws every time, sees its own records, and of a model that knows nothing says so."""

import dataclasses
import json
import math

import jax
import numpy as np
import pytest

from dualdiff_jax.cli import train
from dualdiff_jax.config import MeshConfig
from dualdiff_jax.errors import UserError
from dualdiff_jax.evaluation.likelihood import Likelihood
from dualdiff_jax.models.bundle import init_weights
from dualdiff_jax.sharding import make_mesh
from tests.small_run import small_run

MESH = make_mesh(MeshConfig(), jax.devices()[:1])


def held_out(root, **sections):
    """The small run with its training records to validate on, in an order of their own."""
    config, tokenizer = small_run(root, **({"model": {"mmdit": {"depth": 1}}} | sections))
    sources = tuple(dataclasses.replace(source, name=f"held_out_{source.name}") for source in config.data.sources)
    validation = dataclasses.replace(config.validation, every=2, batches=8, sources=sources)
    return dataclasses.replace(config, validation=validation), tokenizer


def test_a_fresh_model_knows_nothing_and_the_figures_say_it(tmp_path):
    """Its heads are zero: every token is as likely as any other but the mask, and no noise is taken off."""
    config, tokenizer = held_out(tmp_path, train={"global_batch_size": 16})
    hook = Likelihood(config, tokenizer, MESH)
    weights = init_weights(config.model, MESH, jax.random.key(0))
    figures = hook(0, weights)
    assert figures == hook(7, weights)
    nothing = math.log(config.model.mmdit.vocab_size - 1)
    # of the 8 * 16 examples only captions are all maskable; instructions lose their prompt
    assert 0.5 * nothing < figures["text_loss"] < 1.1 * nothing
    assert 1.0 < figures["image_loss"] < 2.5
    parts = [value for name, value in figures.items() if name.startswith("image_loss_by_sigma/")]
    assert len(parts) == 4 and min(parts) > 0.9
    again, other = (Likelihood(dataclasses.replace(config, seed=seed), tokenizer, MESH)(0, weights) for seed in (0, 1))
    assert again == figures and other != figures


def test_the_last_end_of_a_caption_costs_nothing_where_the_sampler_gives_it(tmp_path):
    """Every masked token costs a fresh model the same, so the figure falls by the ends' share of the tokens."""
    found = {}
    for anchor_end in (False, True):
        sections = {"mmdit": {"depth": 1}, "sampling": {"anchor_end": anchor_end}}
        config, tokenizer = held_out(tmp_path / str(anchor_end), model=sections, train={"global_batch_size": 16})
        sources = tuple(source for source in config.validation.sources if source.task != "instruction")
        config = dataclasses.replace(config, validation=dataclasses.replace(config.validation, sources=sources))
        found[anchor_end] = Likelihood(config, tokenizer, MESH)(0, init_weights(config.model, MESH, jax.random.key(0)))
    length = config.data.text_length
    assert found[True]["image_loss"] == found[False]["image_loss"]
    nothing = math.log(config.model.mmdit.vocab_size - 1)
    assert found[False]["text_loss"] - found[True]["text_loss"] == pytest.approx(nothing / length, rel=0.25)


def test_a_run_writes_what_it_validates_and_traces(tmp_path, monkeypatch):
    """Every two steps and at the end, with the averages, to TensorBoard too; and a trace of the two steps asked for."""
    monkeypatch.setattr(train, "make_mesh", lambda _: MESH)
    config, _ = held_out(tmp_path / "data", telemetry={"tensorboard": True})
    train.run_training(dataclasses.replace(config, profile=(2, 2)), str(tmp_path / "run"))
    lines = [json.loads(line) for line in (tmp_path / "run" / "validation.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [2, 4, 6]
    assert all(np.isfinite(line["text_loss"]) and "text_loss_by_t/0" in line for line in lines)
    assert list((tmp_path / "run" / "profile").rglob("*.xplane.pb"))
    (events,) = (tmp_path / "run" / "tensorboard").iterdir()
    for tag in (b"image_loss_by_sigma/3", b"gradient_norm/text_stream", b"validation/text_loss_by_t/0"):
        assert tag in events.read_bytes()


def test_a_head_that_is_not_trained_is_not_scored(tmp_path):
    config, tokenizer = held_out(tmp_path, objective={"image_weight": 0.0})
    figures = Likelihood(config, tokenizer, MESH)(0, init_weights(config.model, MESH, jax.random.key(0)))
    assert "text_loss" in figures and not [name for name in figures if name.startswith("image")]
    images = tuple(source for source in config.validation.sources if source.stream == "image")
    config = dataclasses.replace(config, validation=dataclasses.replace(config.validation, sources=images))
    with pytest.raises(UserError, match="validation.sources: none is of the text stream, which this run trains"):
        Likelihood(config, tokenizer, MESH)


def test_the_error_of_a_figure_is_its_spread_over_other_draws(tmp_path):
    """The losses of a fresh model vary with the draws of the clock, the noise and the masks alone."""
    config, tokenizer = held_out(tmp_path, train={"global_batch_size": 8})
    weights = init_weights(config.model, MESH, jax.random.key(0))
    hook, found = Likelihood(config, tokenizer, MESH), []
    for seed in range(8):
        hook._config = dataclasses.replace(config, seed=seed)  # other draws by the same program
        found.append(hook(0, weights))
    for name in ("image_loss", "text_loss", "nats_per_token"):
        errors = [each[f"{name}_standard_error"] for each in found]
        spread = np.std([each[name] for each in found], ddof=1)
        assert 0 < spread < 2.5 * np.mean(errors), name


def test_nothing_to_validate_on_is_refused(tmp_path):
    with pytest.raises(UserError, match="validation: every is 3, but there are no sources"):
        small_run(tmp_path, validation={"every": 3})


def test_records_that_are_not_there_are_told_before_training(tmp_path, monkeypatch):
    monkeypatch.setattr(train, "make_mesh", lambda _: MESH)
    config, _ = held_out(tmp_path / "data")
    gone = tuple(dataclasses.replace(s, files="gone.json") for s in config.validation.sources)
    config = dataclasses.replace(config, validation=dataclasses.replace(config.validation, sources=gone))
    with pytest.raises(UserError, match="gone.json: there is no such file"):
        train.run_training(config, str(tmp_path / "run"))
    assert not (tmp_path / "run").exists()
