"""Reads a LoRA: a file of diffusers, kohya, ComfyUI or OneTrainer, or a folder of PEFT; checked before it is read.

Where alpha stands: in a tensor ``NAME.alpha`` (kohya), in ``adapter_config.json`` (PEFT), in the file's own metadata
(newer files of diffusers); where it is nowhere, alpha is the rank.
"""

import logging
import math
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

import jax.numpy as jnp
import numpy as np

from dualdiff_jax.config import ModelConfig
from dualdiff_jax.convert.lora_alpha import PEFT_FILE, PeftSettings, peft_settings
from dualdiff_jax.convert.lora_keys import has_no_leaf, rules_of
from dualdiff_jax.convert.lora_terms import Term
from dualdiff_jax.convert.plan import refuse_faults
from dualdiff_jax.convert.rule import Rule
from dualdiff_jax.convert.tensor_file import SafetensorsFile, TensorInfo
from dualdiff_jax.convert.tensors import TORCH_SUFFIXES, absence, some
from dualdiff_jax.errors import UserError, shown
from dualdiff_jax.files import check_regular

log = logging.getLogger(__name__)

DIFFUSERS_FILE = "pytorch_lora_weights.safetensors"
DOWN = re.compile(r"(.+)\.(lora_A(\.\w+)?|lora[._]down)\.weight")
UP = re.compile(r"(.+)\.(lora_B(\.\w+)?|lora[._]up)\.weight")
ALPHA = re.compile(r"(.+)\.alpha")
OTHER_KINDS = (
    (re.compile(r"\.(lora_magnitude_vector|dora_scale)"), "DoRA"),
    (re.compile(r"\.(hada|lokr|oft|boft)_|\.(oft_blocks|lora_mid)|\.glora_|\.a1\.weight"), "LyCORIS"),
)


def read_lora(path: Path, config: ModelConfig) -> list[Term]:
    """Reads a LoRA for the MMDiT of ``config``.

    Args:
        path: a ``.safetensors`` file, or a folder with ``pytorch_lora_weights.safetensors`` or PEFT's
            ``adapter_model.safetensors`` and ``adapter_config.json``.
        config: of the model that it changes.

    Returns:
        Its terms, in the order of the file. What belongs to text encoders, or to a layer of SD3 that D-DiT lacks, is
        left out with a warning.

    Raises:
        UserError: there is no such file, it is pickled, damaged, of another kind, or does not fit the model.
    """
    path = _file_of(path)
    file = SafetensorsFile(path)
    modules, faults = _modules(file)
    left_out = [name for name in modules if has_no_leaf(name)]
    modules = {name: keys for name, keys in modules.items() if name not in left_out}
    if not any(rules_of(name, config) for name in modules):
        raise UserError(
            f"{path}: none of its {len(file)} tensors, such as {shown(next(iter(file), 'none'))}, changes a layer of "
            "this model; give a LoRA of D-DiT or SD3-medium"
        )
    settings = peft_settings(file)
    chosen: dict[str, Rule] = {}
    for name, keys in modules.items():
        rule, found = _fit(name, keys, file, config)
        faults += found
        if rule is not None:
            faults += [
                f"{shown(name)}: found a second pair beside {shown(first)}; keep one pair for a layer"
                for first, other in chosen.items()
                if rule.overlaps(other)
            ]
            chosen[name] = rule
    refuse_faults(f"{path} has", faults)
    if left_out:
        named = some([shown(name) for name in left_out])
        log.warning("%s: left out, this model has no such layers or keeps them as they are: %s", path, named)
    return [_read(file, name, rule, modules[name], settings) for name, rule in chosen.items()]


def _file_of(path: Path) -> Path:
    """The file at ``path``, or in the folder there."""
    if path.is_dir():
        names = [name for name in (DIFFUSERS_FILE, PEFT_FILE) if (path / name).is_file()]
        if not names:
            raise UserError(f"{path}: holds neither {DIFFUSERS_FILE} nor {PEFT_FILE}; name the file of the LoRA")
        return path / names[0]
    if path.suffix in TORCH_SUFFIXES:
        raise UserError(f"{path}: is a pickled file, which can run code; give the LoRA's .safetensors file instead")
    if not path.exists():
        raise UserError(absence(path))
    if path.suffix != ".safetensors":
        raise UserError(f"{path}: is no LoRA; give a .safetensors file, or a folder that holds one")
    check_regular(path)
    return path


def _modules(file: SafetensorsFile) -> tuple[dict[str, dict[str, str]], list[str]]:
    """Name of each layer -> its keys in the file, by ``down``, ``up`` and ``alpha``; and faults."""
    modules: dict[str, dict[str, str]] = {}
    faults: dict[str, str] = {}  # by key
    for key in file:
        for pattern, kind in OTHER_KINDS:
            if pattern.search(key):
                raise UserError(f"{file.path}: has {shown(key)}, so it is a {kind}; only plain LoRAs can be read")
        for role, pattern in (("down", DOWN), ("up", UP), ("alpha", ALPHA)):
            if match := pattern.fullmatch(key):
                first = modules.setdefault(match[1], {}).setdefault(role, key)
                if first != key:
                    pairs = f"found a second {role} matrix beside {shown(first)}"
                    faults[key] = f"{shown(key)}: {pairs}; keep one adapter in the file"
                break
        else:
            faults[key] = f"{shown(key)}: found an unknown name, which is no part of a LoRA"
    return modules, [fault for key, fault in faults.items() if not has_no_leaf(key)]


def _fit(
    name: str, keys: Mapping[str, str], file: SafetensorsFile, config: ModelConfig
) -> tuple[Rule | None, list[str]]:
    """The rule of the layer ``name``, and faults of its tensors."""
    rules = rules_of(name, config)
    if not rules:
        return None, [f"{shown(name)}: found an unknown name, this model has no such layer"]
    missing = [f"{name}: found no {role} matrix, expected one" for role in ("down", "up") if role not in keys]
    if missing:
        return None, missing
    down, up = file[keys["down"]], file[keys["up"]]
    kinds = {"alpha": (jnp.number, "a number")}  # which kohya's scripts write whole where nobody gave it
    faults = []
    for role, key in keys.items():
        kind, expected = kinds.get(role, (jnp.floating, "floating point numbers"))
        if not jnp.issubdtype(file[key].dtype, kind):
            faults.append(f"{key}: found dtype {file[key].dtype}, expected {expected}")
    if "alpha" in keys and math.prod(file[keys["alpha"]].shape) != 1:
        faults.append(f"{keys['alpha']}: found shape {file[keys['alpha']].shape}, expected one number")
    if down.shape[:1] == (0,):
        return None, [*faults, f"{keys['down']}: found rank 0, expected at least 1"]
    rule = next((rule for rule in rules if up.shape[:1] == rule.shape[:1]), rules[0])
    faults += _misfits(keys, down, up, rule)
    return rule, faults


def _misfits(keys: Mapping[str, str], down: TensorInfo, up: TensorInfo, rule: Rule) -> Iterator[str]:
    outputs, *inputs = rule.shape
    if down.shape[1:] != tuple(inputs):
        expected = ("rank", *inputs)
        yield f"{keys['down']}: found shape {down.shape}, expected ({', '.join(map(str, expected))}) for {rule.leaf}"
    expected = (outputs, *down.shape[:1], *[1] * (len(rule.shape) - 2))
    if up.shape != expected:
        yield f"{keys['up']}: found shape {up.shape}, expected {expected} for {rule.leaf}"


def _read(file: SafetensorsFile, name: str, rule: Rule, keys: Mapping[str, str], settings: PeftSettings) -> Term:
    down, up = file.read(keys["down"]), file.read(keys["up"])
    alpha = settings.alpha(name, len(down))
    if "alpha" in keys:
        alpha = file.read(keys["alpha"]).astype(np.float64).item()
    if not math.isfinite(alpha):
        raise UserError(f"{file.path}: {name} has alpha {alpha}, expected a finite number; copy the file again")
    if not all(np.isfinite(part).all() for part in (down, up)):
        log.warning("%s: %s holds numbers that are not finite; the file may be damaged", file.path, name)
    return Term(rule, down, up, alpha)
