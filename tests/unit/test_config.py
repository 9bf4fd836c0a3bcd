"""A config is taken whole or refused with all its faults."""

import math

import pytest

from configs import demo
from dualdiff_jax.config import ModelConfig
from dualdiff_jax.config.resolve import differences, resolve, to_dict
from dualdiff_jax.errors import UserError


def faults(config) -> str:
    with pytest.raises(UserError) as error:
        resolve(config)
    return str(error.value)


def test_a_resolved_config_survives_json_like_dicts():
    config = resolve(demo.get_config())
    assert resolve(to_dict(config)) == config


def test_every_fault_is_told_at_once():
    config = demo.get_config()
    config.train.stepz = 3
    config.optimizer.beta2 = "many"
    config.optimizer.learning_rate = -1.0
    config.objective.image_weighting = "sigma"
    del config.data["tokenizer"]
    message = faults(config)
    for part in (
        "5 faults",
        "train.stepz: no such field; did you mean train.steps?",
        "optimizer.beta2: expected float, found 'many'",
        "optimizer.learning_rate: -1.0 is below 0.0",
        "objective.image_weighting: 'sigma' is none of 'uniform', 'sigma_squared'",
        "data.tokenizer: must be given",
    ):
        assert part in message


@pytest.mark.parametrize(
    ("section", "field", "value", "told"),
    [
        ("mmdit", "heads", 5, "width 96 is not a multiple of heads 5"),
        ("mmdit", "depth", 0, "0 is below 1"),
        ("mmdit", "depth", True, "expected int, found True"),
        ("autoencoder", "channels", 2, "1 (grey) or 3 (RGB)"),
        ("t5", "vocab_size", 10, "t5.vocab_size 10 is below mmdit.vocab_size"),
        ("sampling", "guidance_scale", math.nan, "is not a number"),
    ],
)
def test_a_bad_model_field_is_named(section, field, value, told):
    config = demo.get_config()
    model = config.model.to_dict()
    model[section][field] = value
    with pytest.raises(UserError, match=r"^the config has") as error:
        resolve(model, ModelConfig)
    assert told in str(error.value)


def test_contradictions_between_sections_are_found():
    config = demo.get_config()
    config.train.steps = 50
    config.train.microbatches = 5
    assert "global_batch_size 32 is not a multiple of microbatches 5" in faults(config)
    config.train.microbatches = 1
    assert "warmup_steps 100 is not below train.steps 50" in faults(config)


def test_sources_must_agree_on_sizes_and_have_their_own_names():
    config = demo.get_config()
    sources = config.to_dict()["data"]["sources"]
    sources[0] = sources[0] | {"height": 4, "name": "pairs"}
    message = faults(config.to_dict() | {"data": config.to_dict()["data"] | {"sources": sources}})
    assert "two sources are named 'pairs'" in message
    assert "both streams need the same image sizes" in message


def test_a_wrong_source_is_named_by_its_place():
    config = demo.get_config().to_dict()
    config["data"]["sources"][2]["task"] = "captions"
    config["data"]["sources"][1]["caption_weights"] = (0.5, 0.5)
    message = faults(config)
    assert "data.sources[2].task: 'captions' is none of" in message
    assert "data.sources[1]: 1 caption_keys, but 2 caption_weights" in message


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"files": ""}, "files must be given for format 'json'"),
        ({"roots": [{"root": "r", "files": "x", "caption_keys": ("a", "b")}]}, "2 caption_keys, but 1 caption_weights"),
        ({"format": "gqa", "task": "captioning"}, "its task is instruction, not captioning"),
        ({"question": "What?", "task": "captioning"}, "question is for task instruction, not captioning"),
        ({"needs_stats": True}, "needs_stats is for format tar, not json"),
        ({"max_aspect": 0.5}, "max_aspect 0.5 is below 1"),
        ({"min_caption": 9, "max_caption": 8}, "max_caption 8 is below min_caption 9"),
        ({"buckets": [[8, 8, 8]]}, "buckets has (8, 8, 8); give pairs"),
        ({"buckets": [[4, 8]]}, "both streams need the same image sizes"),
    ],
)
def test_contradictions_within_a_source_are_found(changes, told):
    config = demo.get_config().to_dict()
    config["data"]["sources"][3] |= changes
    assert told in faults(config)


def test_sides_that_patches_do_not_divide_are_found():
    config = demo.get_config().to_dict()
    for source in config["data"]["sources"]:
        source["buckets"] = [[8, 9]]
    assert "'digits': side 9 is not a multiple of 2, which is" in faults(config)


def test_a_section_that_is_no_section_is_refused():
    assert "train: expected a section with fields, found 3" in faults(demo.get_config().to_dict() | {"train": 3})


def test_an_int_is_a_fine_float_and_stays_one():
    config = demo.get_config()
    config.optimizer.learning_rate = 1
    assert isinstance(resolve(config.to_dict()).optimizer.learning_rate, float)


def test_differences_name_the_field_and_both_values():
    config = demo.get_config()
    old = resolve(config)
    config.train.steps = 2500
    config.model.sampling.guidance_scale = 2.0
    assert list(differences(old, resolve(config))) == [
        f"model.sampling.guidance_scale: {old.model.sampling.guidance_scale} -> 2.0",
        f"train.steps: {old.train.steps} -> 2500",
    ]
