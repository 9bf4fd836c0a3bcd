"""LoRAs of the tiny model, a pair for each layer of a naming, and their files."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file

from dualdiff_jax.convert.lora_keys import lora_rules
from dualdiff_jax.convert.lora_terms import Term
from dualdiff_jax.convert.lora_writer import write_lora
from tests.unit.tiny import CONFIG

RANK = 3


def draw(naming: str = "diffusers", seed: int = 0, alpha: float = 2.0, only_sd3: bool = False) -> list[Term]:
    rng = np.random.default_rng(seed)
    terms = []
    for rule in (rule for group in lora_rules(CONFIG, naming, only_sd3).values() for rule in group):
        outputs, *others = rule.shape
        down = rng.standard_normal((RANK, *others), np.float32) / np.float32(4)
        up = rng.standard_normal((outputs, RANK, *[1] * (len(others) - 1)), np.float32)
        terms.append(Term(rule, down, up, alpha))
    return terms


def write(path: Path, terms: Sequence[Term], naming: str = "diffusers", **options: bool) -> Path:
    write_lora(path, terms, CONFIG, naming, **options)
    return path


def tensors(path: Path) -> dict[str, np.ndarray]:
    return load_file(path / "adapter_model.safetensors" if path.is_dir() else path)


def assert_equal_files(found: Path, expected: Path) -> None:
    """The same names, dtypes and bits."""
    ours, theirs = tensors(found), tensors(expected)
    assert ours.keys() == theirs.keys()
    for name, tensor in theirs.items():
        assert (ours[name].dtype, ours[name].shape) == (tensor.dtype, tensor.shape), name
        assert ours[name].tobytes() == tensor.tobytes(), name
