"""Writes a LoRA in the formats of other programs.

``diffusers``  one file, which diffusers and ComfyUI read; it has no alpha, so alpha / rank is multiplied into ``up``
``peft``       a folder: the same names after ``base_model.model.``, and the settings with alpha
``kohya``      one file, which kohya's scripts and ComfyUI read: names of SD3's original file, and a tensor for alpha
"""

import collections
import contextlib
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError

from dualdiff_jax.config import ModelConfig
from dualdiff_jax.convert.exporter import save_tensors
from dualdiff_jax.convert.lora_alpha import PEFT_CONFIG, PEFT_FILE
from dualdiff_jax.convert.lora_keys import lora_rules
from dualdiff_jax.convert.lora_terms import Term, renamed
from dualdiff_jax.convert.output import check_output
from dualdiff_jax.convert.tensor_file import CHECKSUMS, checksum
from dualdiff_jax.errors import UserError, reason
from dualdiff_jax.files import as_path, new_file, new_folder
from dualdiff_jax.models.bundle import leaf_specs


def write_lora(
    output: str | Path,
    terms: Sequence[Term],
    config: ModelConfig,
    naming: str = "diffusers",
    *,
    only_sd3: bool = False,
    overwrite: bool = False,
) -> list[str]:
    """Writes a LoRA; the tensors stay as they are wherever both formats cut a kernel alike.

    Args:
        output: a ``.safetensors`` file, or for ``peft`` a folder.
        terms: of the LoRA.
        config: of the model that it changes.
        naming: a name in ``FORMATS``.
        only_sd3: leaves out what SD3 lacks, so that its loaders find a place for every tensor.
        overwrite: whether to replace what is there.

    Returns:
        The names of layers that are left out, wholly or in part.

    Raises:
        UserError: ``output`` exists (without ``overwrite``), is no file of that kind or cannot be written, or nothing
            of the LoRA would be left.
    """
    output, specs = as_path(output), leaf_specs(config, ("mmdit",))
    rules = lora_rules(config, "kohya" if naming == "kohya" else "diffusers", only_sd3)
    found, left_out = renamed(terms, rules, specs)
    if not found:
        raise UserError(f"{output}: nothing would be in it, for SD3 has none of the LoRA's layers")
    if naming != "peft" and output.suffix != ".safetensors":
        raise UserError(f"{output}: is no file of {naming}; give a name that ends in .safetensors")
    if naming == "peft" and output.suffix == ".safetensors":
        raise UserError(f"{output}: is the name of a file, and peft writes a folder; give a name without .safetensors")
    check_output(output, PEFT_CONFIG, sum(term.down.nbytes + term.up.nbytes for term in found), overwrite)
    with _faults(output):
        FORMATS[naming](output, found)
    return left_out


def _write_diffusers(file: Path, terms: Sequence[Term]) -> None:
    _save(file, {key: tensor for term in terms for key, tensor in _pair(f"transformer.{term.rule.key}", _folded(term))})


def _write_peft(folder: Path, terms: Sequence[Term]) -> None:
    with new_folder(folder, PEFT_CONFIG) as partial:
        names = [(f"base_model.model.{term.rule.key}", term) for term in terms]
        with new_file(partial / PEFT_FILE) as file:
            _save_checked(file, {key: tensor for named in names for key, tensor in _pair(*named)})
        (partial / PEFT_CONFIG).write_text(json.dumps(_settings(terms), indent=2) + "\n", encoding="utf-8")


def _write_kohya(file: Path, terms: Sequence[Term]) -> None:
    tensors = {}
    for term in terms:
        name = f"lora_unet_{term.rule.key.replace('.', '_')}"
        tensors[f"{name}.alpha"] = _alpha(term)
        tensors |= {f"{name}.lora_down.weight": term.down, f"{name}.lora_up.weight": term.up}
    _save(file, tensors)


def _alpha(term: Term) -> np.ndarray:
    """In the dtype of the matrices if that holds alpha exactly, else in fp32."""
    with np.errstate(all="ignore"):
        alpha = np.asarray(term.alpha, term.down.dtype)
    return alpha if float(alpha) == term.alpha else np.asarray(term.alpha, np.float32)


# Format -> how it is written.
FORMATS: dict[str, Callable[[Path, Sequence[Term]], None]] = {
    "diffusers": _write_diffusers,
    "peft": _write_peft,
    "kohya": _write_kohya,
}


def _pair(name: str, term: Term) -> Iterator[tuple[str, np.ndarray]]:
    yield f"{name}.lora_A.weight", term.down
    yield f"{name}.lora_B.weight", term.up


def _folded(term: Term) -> Term:
    """The same with alpha as the rank; in fp32 where the file's dtype cannot hold the product exactly."""
    if term.alpha == term.rank:
        return term
    up = term.up.astype(np.float32) * np.float32(term.alpha / term.rank)
    narrow = up.astype(term.up.dtype)
    up = narrow if np.array_equal(narrow.astype(np.float32), up) else up
    return Term(term.rule, term.down, up, float(term.rank))


def _settings(terms: Sequence[Term]) -> dict[str, Any]:
    """PEFT's ``LoraConfig``: the most frequent rank and alpha, and the layers that have others."""
    ranks, alphas = ({term.rule.key: value(term) for term in terms} for value in (lambda t: t.rank, lambda t: t.alpha))
    rank, alpha = (collections.Counter(values.values()).most_common(1)[0][0] for values in (ranks, alphas))
    return {
        "peft_type": "LORA",
        "r": rank,
        "lora_alpha": alpha,
        "rank_pattern": {name: found for name, found in ranks.items() if found != rank},
        "alpha_pattern": {name: found for name, found in alphas.items() if found != alpha},
        "target_modules": sorted(ranks),
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
    }


def _save(file: Path, tensors: dict[str, np.ndarray]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    with new_file(file) as partial:
        _save_checked(partial, tensors)


def _save_checked(file: Path, tensors: dict[str, np.ndarray]) -> None:
    """Saves the checksums as the only metadata: the library writes several in any order, and bytes would vary."""
    save_tensors(tensors, file, {CHECKSUMS: json.dumps({key: checksum(tensor) for key, tensor in tensors.items()})})


@contextlib.contextmanager
def _faults(output: Path) -> Iterator[None]:
    """Raises ``UserError`` where the disk cannot be written."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        cause = error.strerror if isinstance(error, OSError) else reason(error)
        raise UserError(f"{output}: cannot be written ({cause}); make room, or choose another place") from error
