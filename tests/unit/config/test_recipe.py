"""A recipe fills what a config leaves out, and nothing else."""

import dataclasses

import pytest
from absl import flags
from ml_collections import config_flags

from configs import dual_diff_pretrain, dual_diff_sft
from dualdiff_jax.config import ConfigError
from dualdiff_jax.config.recipe import ORIGINAL, ORIGINAL_DIALOGUES, RECAPTIONS
from dualdiff_jax.config.resolve import differences, resolve, to_dict

STAGES = {"pretraining": dual_diff_pretrain, "instruction": dual_diff_sft}


def resolved(stage, **changes):
    config = STAGES[stage].get_config()
    config.update(changes)
    return resolve(config)


@pytest.mark.parametrize("stage", STAGES)
def test_our_recipe_is_the_default(stage):
    assert resolved(stage, recipe="ours") == resolved(stage)


@pytest.mark.parametrize("stage", STAGES)
def test_the_original_recipe_sets_its_fields_and_no_others(stage):
    ours, original = resolved(stage), resolved(stage, recipe="original")
    expected = {f"{section}.{name}" for section, fields in ORIGINAL[stage].items() for name in fields}
    changed = {line.partition(":")[0] for line in differences(ours, original)}
    assert changed == expected | {"data.sources"}
    for section, fields in ORIGINAL[stage].items():
        for name, value in fields.items():
            assert getattr(getattr(original, section), name) == value
    share = RECAPTIONS["original"][stage]
    for before, after in zip(ours.data.sources, original.data.sources, strict=True):
        weights = (share, 1 - share) if len(before.caption_keys) == 2 else (1.0,)
        dialogues = ORIGINAL_DIALOGUES if before.task == "instruction" else {}
        assert after == dataclasses.replace(before, caption_weights=weights, **dialogues)


def test_what_a_config_gives_stays():
    config = dual_diff_sft.get_config()
    config.recipe = "original"
    config.optimizer.ema_decay = 0.99
    config.objective.image_weighting = "uniform"
    given = config.to_dict()
    given["data"]["sources"][1] |= {"turns": "all"}
    given["data"]["sources"][0] |= {"caption_weights": (0.5, 0.5)}
    config = resolve(given)
    assert (config.optimizer.ema_decay, config.objective.image_weighting) == (0.99, "uniform")
    assert config.data.sources[1].turns == "all" and config.data.sources[1].answer_choice == "random"
    assert config.data.sources[0].caption_weights == (0.5, 0.5)


def test_validation_reads_as_training_does():
    given = dual_diff_sft.get_config().to_dict()
    given["validation"] = {"sources": given["data"]["sources"][:2], "every": 5}
    config = resolve(given | {"recipe": "original"})
    assert config.validation.sources == config.data.sources[:2]


def test_a_stored_config_means_the_same_under_either_recipe():
    config = resolved("instruction", recipe="original")
    for recipe in ({}, {"recipe": "ours"}, {"recipe": "original"}):
        assert resolve(to_dict(config) | recipe) == config


@pytest.mark.parametrize("recipe", ["orginal", None, 3, ["original"]])
def test_another_recipe_is_one_of_the_faults(recipe):
    with pytest.raises(ConfigError, match="is none of 'ours', 'original'") as error:
        resolve(dual_diff_sft.get_config().to_dict() | {"recipe": recipe, "seed": -1})
    first, second = error.value.faults
    assert first.startswith("recipe: ") and second == "seed: -1 is below 0"


@pytest.mark.parametrize("data", [None, 3, {"sources": 3}, {"sources": [3]}, {"sources": None}, []])
def test_wrong_types_are_left_to_the_check_of_the_sections(data):
    with pytest.raises(ConfigError):
        resolve({"recipe": "original", "data": data, "optimizer": 3})


def test_the_switch_is_a_flag(monkeypatch):
    arguments = ["program", "--config=configs/dual_diff_pretrain.py", "--config.recipe=original"]
    monkeypatch.setattr("sys.argv", arguments)  # where overrides are looked for
    values = flags.FlagValues()
    holder = config_flags.DEFINE_config_file(
        "config", flag_values=values, lock_config=False, accept_new_attributes=True
    )
    values(arguments)
    assert resolve(holder.value) == resolved("pretraining", recipe="original")
