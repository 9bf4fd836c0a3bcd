"""Two recipes: ours, and that of the released PyTorch code. A recipe fills the fields that a config leaves out.

    --config.recipe=original
A field that the config file or the command line gives keeps its value, so each can be chosen alone. ``resolve`` takes
``recipe`` out: what it builds, and what a run stores, holds the values themselves. Fields that the tables below do not
name have one default for both recipes.
"""

from collections.abc import Mapping
from typing import Any

from dualdiff_jax.errors import quoted

RECIPES = ("ours", "original")

# The released training scripts, for pretraining and for instruction tuning (a source has task instruction).
# docs/coming_from_pytorch.md explains each row.
ORIGINAL: Mapping[str, Mapping[str, Mapping[str, Any]]] = {
    "pretraining": {
        "objective": {"image_weighting": "sigma_squared"},
        "optimizer": {"decayed": "all", "gradient_scale": 2.0, "ema_decay": 0.9999, "ema_start": 100_000},
    },
    "instruction": {
        "objective": {"image_weighting": "sigma_squared"},
        "optimizer": {"decayed": "all", "gradient_scale": 4.0, "ema_decay": 0.9999},
    },
}
ORIGINAL_DIALOGUES = {"turns": "first", "answer_choice": "random", "end_after_cut": False}

# Recipe -> stage -> how often the first of two caption_keys, the recaption, is taken.
RECAPTIONS = {
    "ours": {"pretraining": 0.9, "instruction": 0.9},
    "original": {"pretraining": 1.0, "instruction": 0.1},
}


def fill(given: Mapping[str, Any], faults: list[str]) -> dict[str, Any]:
    """Fills the fields that a run's config leaves out with the values of its recipe.

    Args:
        given: section or field -> value; ``recipe`` names the recipe, which is ours where it is absent.
        faults: a sentence is appended where there is no such recipe.

    Returns:
        A copy without ``recipe``; values of a wrong type stay as they are.
    """
    given = dict(given)
    recipe = given.pop("recipe", "ours")
    if not isinstance(recipe, str) or recipe not in RECIPES:
        faults.append(f"recipe: {quoted(recipe)} is none of {', '.join(map(repr, RECIPES))}")
        recipe = "ours"
    is_instruction = any(source.get("task") == "instruction" for source in _sources(given.get("data")))
    stage = "instruction" if is_instruction else "pretraining"
    for section in ("data", "validation"):
        if sources := _sources(given.get(section)):
            given[section] = {**given[section], "sources": [_filled(source, recipe, stage) for source in sources]}
    for section, fields in ORIGINAL[stage].items() if recipe == "original" else ():
        if isinstance(given.get(section, {}), Mapping):
            given[section] = {**fields, **given.get(section, {})}
    return given


def _sources(section: Any) -> list[Mapping[str, Any]]:
    """The sources of a section; empty where one of them has a wrong type."""
    sources = section.get("sources") if isinstance(section, Mapping) else None
    if not isinstance(sources, list | tuple) or not all(isinstance(source, Mapping) for source in sources):
        return []
    return list(sources)


def _filled(source: Mapping[str, Any], recipe: str, stage: str) -> dict[str, Any]:
    fields: dict[str, Any] = {}
    keys = source.get("caption_keys")
    if isinstance(keys, list | tuple) and len(keys) == 2:
        share = RECAPTIONS[recipe][stage]
        fields["caption_weights"] = (share, round(1.0 - share, 9))
    if recipe == "original" and source.get("task") == "instruction":
        fields |= ORIGINAL_DIALOGUES
    return {**fields, **source}
