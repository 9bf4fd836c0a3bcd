"""The names that LoRAs have for the layers of the MMDiT.

diffusers and PEFT name a layer as ``SD3Transformer2DModel`` does; where SD3 has no such layer, as D-DiT's folder does.
kohya's scripts and ComfyUI name it as SD3's original single file does, with ``_`` for ``.``; where SD3 has no such
layer, in the same way. SD3 lacks the text head and all of the last block's text stream but queries, keys, values and
the two vectors before them.
"""

import dataclasses
import functools
import re
from collections.abc import Callable, Iterable, Iterator

from dualdiff_jax.config import ModelConfig
from dualdiff_jax.convert.lora_terms import Rules
from dualdiff_jax.convert.mmdit_keys import mmdit_entries
from dualdiff_jax.convert.rule import Entry, Rule, expand, linear
from dualdiff_jax.convert.sd3_keys import ALL_BUT_LAST, LAST, sd3_entries, single_file_entries, with_sd3_names
from dualdiff_jax.models.bundle import leaf_specs
from dualdiff_jax.models.leaves import is_kernel

Entries = Callable[[ModelConfig], Iterable[Entry]]

PREFIX = re.compile(
    r"^(base_model\.model\.)?(transformer\.|(model\.)?diffusion_model\.|lora_unet_|lora_transformer_|lycoris_)?"
)
WITHOUT_LEAF = re.compile(  # layers of SD3 and of its other encoders that D-DiT lacks, and T5, which stays as it is
    r"(lora_te\d?_|text_encoders?[._\d]|time_text_embed[._]text_embedder[._]|y_embedder[._])"
)


def _diffusers_entries(config: ModelConfig) -> Iterator[Entry]:
    return map(with_sd3_names, mmdit_entries(config))


def _kohya_entries(config: ModelConfig) -> Iterator[Entry]:
    for entry in single_file_entries(config):
        if entry.layers != LAST:
            yield dataclasses.replace(entry, layers=None) if entry.layers == ALL_BUT_LAST else entry
    yield from linear("mmdit.text_out", "text_proj_out")


# Naming -> the entries of all layers, and of those that SD3 has.
NAMINGS: dict[str, tuple[Entries, Entries]] = {
    "diffusers": (_diffusers_entries, sd3_entries),
    "kohya": (_kohya_entries, single_file_entries),
}


@functools.lru_cache(maxsize=16)
def lora_rules(config: ModelConfig, naming: str, only_sd3: bool = False) -> Rules:
    """How a naming cuts the kernels of the MMDiT; the key of a rule is the name of a layer, without ``.weight``.

    Args:
        config: the model's.
        naming: a name in ``NAMINGS``.
        only_sd3: leaves out what SD3 lacks.
    """
    rules: dict[tuple[str, int | None], list[Rule]] = {}
    for rule in _kernel_rules(NAMINGS[naming][only_sd3], config):
        rules.setdefault((rule.leaf, rule.layer), []).append(rule)
    return rules


@functools.lru_cache(maxsize=4)
def _rules_by_name(config: ModelConfig) -> dict[str, list[Rule]]:
    """The rules of all namings, by the name of the layer with ``_`` for ``.``; the last block's may have two shapes."""
    rules: dict[str, list[Rule]] = {}
    for entries in (mmdit_entries, *(entries for pair in NAMINGS.values() for entries in pair)):
        for rule in _kernel_rules(entries, config):
            known = rules.setdefault(rule.key.replace(".", "_"), [])
            if rule not in known:
                known.append(rule)
    return rules


def rules_of(key: str, config: ModelConfig) -> list[Rule]:
    """The rules, of one for each possible shape, of the layer that a file calls ``key``; empty if there is none."""
    return _rules_by_name(config).get(PREFIX.sub("", key).replace(".", "_"), [])


def has_no_leaf(key: str) -> bool:
    """Whether ``key`` is a layer of SD3 or of an encoder that an import leaves out."""
    return any(WITHOUT_LEAF.match(name) for name in (key, PREFIX.sub("", key)))


def _kernel_rules(entries: Entries, config: ModelConfig) -> Iterator[Rule]:
    specs = leaf_specs(config, ("mmdit",))
    for entry in entries(config):
        if is_kernel(entry.leaf):
            for rule in expand(entry, specs[entry.leaf]):
                yield dataclasses.replace(rule, key=rule.key.removesuffix(".weight"))
