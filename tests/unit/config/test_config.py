"""``resolve``: a config is built from nested mappings, or refused with all its faults."""

import math

import pytest

from configs import demo
from dualdiff_jax.config import ConfigError, DataConfig, ModelConfig
from dualdiff_jax.config.resolve import differences, resolve, to_dict
from dualdiff_jax.errors import UserError


def faults(config) -> str:
    with pytest.raises(UserError) as error:
        resolve(config)
    return str(error.value)


def test_a_resolved_config_survives_json_like_dicts():
    config = resolve(demo.get_config())
    assert resolve(to_dict(config)) == config


def test_one_error_lists_the_faults_of_all_sections():
    config = demo.get_config()
    config.train.stepz = 3
    config.optimizer.beta2 = "many"
    config.optimizer.learning_rate = -1.0
    config.objective.image_weighting = "sigma"
    config.lora.rank = -1
    config.mesh.update(layout="fsdp", data=2)
    config.lora.targets = "mmdit.*"
    del config.data["tokenizer"]
    with pytest.raises(ConfigError) as error:
        resolve(config)
    assert len(error.value.faults) == 8
    message = str(error.value)
    for part in (
        "the config has 8 faults:",
        "lora.rank: -1 is below 0",
        "mesh: data 2 and fsdp -1 are for layout 'sizes', but layout is 'fsdp'",
        "lora.targets: expected a tuple, found 'mmdit.*'",
        "train.stepz: no such field; did you mean train.steps?",
        "optimizer.beta2: expected float, found 'many'",
        "optimizer.learning_rate: -1.0 is below 0.0",
        "objective.image_weighting: 'sigma' is none of 'uniform', 'sigma_squared'",
        "data.tokenizer: must be given",
    ):
        assert part in message


@pytest.mark.parametrize(
    ("section", "field", "value", "message"),
    [
        ("mmdit", "heads", 5, "width 96 is not a multiple of heads 5"),
        ("mmdit", "depth", 0, "0 is below 1"),
        ("mmdit", "depth", True, "expected int, found True"),
        ("autoencoder", "channels", 2, "1 (grey) or 3 (RGB)"),
        ("t5", "vocab_size", 10, "t5.vocab_size 10 is below mmdit.vocab_size"),
        ("sampling", "guidance_scale", math.nan, "is not a number"),
    ],
)
def test_a_bad_model_field_is_named(section, field, value, message):
    config = demo.get_config()
    model = config.model.to_dict()
    model[section][field] = value
    with pytest.raises(UserError, match=r"^the config has") as error:
        resolve(model, ModelConfig)
    assert message in str(error.value)


def test_contradictions_between_sections_are_found():
    config = demo.get_config()
    config.train.steps = 50
    config.train.microbatches = 5
    assert "global_batch_size 32 is not a multiple of microbatches 5" in faults(config)
    config.train.microbatches = 1
    assert "warmup_steps 100 is not below train.steps 50" in faults(config)


@pytest.mark.parametrize("section", ["data", "validation"])
def test_sources_have_their_own_names(section):
    config = demo.get_config().to_dict()
    sources = config["data"]["sources"]
    config[section]["sources"] = [sources[0] | {"name": "pairs"}, *sources[1:]]
    assert f"{section}: two sources are named 'pairs'" in faults(config)


def with_sources(tasks, **objective):
    """The demo's config with a source for each (task, height)."""
    config = demo.get_config().to_dict()
    config["objective"] |= objective
    common = dict(root="data", files="list.json", width=8)
    config["data"]["sources"] = [
        common | dict(name=f"{task} {height}", task=task, height=height) for task, height in tasks
    ]
    return config


def test_two_streams_with_weight_need_the_same_sizes():
    tasks = [("image_generation", 8), ("captioning", 8), ("image_generation", 4)]
    assert faults(with_sources(tasks)).endswith(
        "data.sources: both streams need the same image sizes, but sources of task image_generation have "
        "[(4, 8), (8, 8)] and sources of task captioning or instruction [(8, 8)]"
    )
    resolve(with_sources([*tasks, ("instruction", 4)]))


@pytest.mark.parametrize(
    ("task", "absent", "weight"),
    [
        ("image_generation", "text_weight is 2.0; give such a source, or set the weight to 0", "text_weight"),
        ("captioning", "image_weight is 1.0; give such a source, or set the weight to 0", "image_weight"),
        ("instruction", "image_weight is 1.0; give such a source, or set the weight to 0", "image_weight"),
    ],
)
def test_a_stream_needs_sources_only_if_it_has_weight(task, absent, weight):
    needed = "captioning or instruction" if weight == "text_weight" else "image_generation"
    assert f"data.sources has none of task {needed}, but objective.{absent}" in faults(with_sources([(task, 8)]))
    config = resolve(with_sources([(task, 8)], **{weight: 0}))
    assert config.read_sources == config.data.sources


def test_sources_of_a_stream_without_weight_are_allowed_and_not_read():
    tasks = [("image_generation", 8), ("captioning", 4), ("instruction", 2)]
    image_only = resolve(with_sources(tasks, text_weight=0))
    assert image_only.objective.streams == ("image",)
    assert [source.name for source in image_only.read_sources] == ["image_generation 8"]
    text_only = resolve(with_sources(tasks, image_weight=0))
    assert text_only.objective.streams == ("text",)
    assert [source.name for source in text_only.read_sources] == ["captioning 4", "instruction 2"]
    both = resolve(with_sources([("image_generation", 8), ("captioning", 8)]))
    assert both.objective.streams == ("image", "text") and both.read_sources == both.data.sources


def test_a_config_without_sources_names_both_streams():
    message = faults(with_sources([]))
    assert "2 faults" in message and "image_weight is 1.0" in message and "text_weight is 2.0" in message


def test_data_of_one_stream_or_of_other_sizes_can_be_read_on_its_own():
    data = with_sources([("image_generation", 8), ("captioning", 4)])["data"]
    assert len(resolve(data, DataConfig).sources) == 2


def test_a_wrong_source_is_named_by_its_place():
    config = demo.get_config().to_dict()
    config["data"]["sources"][2]["task"] = "captions"
    config["data"]["sources"][1]["caption_weights"] = (0.5, 0.5)
    message = faults(config)
    assert "data.sources[2].task: 'captions' is none of" in message
    assert "data.sources[1]: 1 caption_keys, but 2 caption_weights" in message


@pytest.mark.parametrize(
    ("changes", "message"),
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
def test_contradictions_within_a_source_are_found(changes, message):
    config = demo.get_config().to_dict()
    config["data"]["sources"][3] |= changes
    assert message in faults(config)


def test_sides_that_patches_do_not_divide_are_found():
    config = demo.get_config().to_dict()
    for source in config["data"]["sources"]:
        source["buckets"] = [[8, 9]]
    assert "'digits': side 9 is not a multiple of 2, the pixels of a token's side" in faults(config)
    for source in config["data"]["sources"]:
        source["height"] = 2 * config["model"]["mmdit"]["position_grid"] + 2
    assert "'digits': side 34 is above 32, the pixels that model.mmdit.position_grid has places for" in faults(config)


@pytest.mark.parametrize(("height", "told"), [(7, "is not a multiple of 2"), (34, "is above 32")])
def test_what_a_model_cannot_draw_is_no_default_of_its_sampling(height, told):
    config = demo.get_config().to_dict()
    config["model"]["sampling"]["height"] = height
    assert f"model.sampling: side {height} {told}" in faults(config)


def test_a_section_that_is_no_section_is_refused():
    with pytest.raises(UserError, match=r"has a fault:\n  expected a section with fields, found \[3\]"):
        resolve([3])
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
