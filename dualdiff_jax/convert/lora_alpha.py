"""The alpha of a LoRA's layers, by PEFT's settings: in a file beside the tensors, or in the metadata of their file."""

import math
import re
from collections.abc import Mapping
from typing import Any

from dualdiff_jax.convert.lora_keys import PREFIX
from dualdiff_jax.convert.tensor_file import SafetensorsFile
from dualdiff_jax.errors import UserError, quoted
from dualdiff_jax.json_files import checked, field, parse_json, read_object

PEFT_FILE, PEFT_CONFIG = "adapter_model.safetensors", "adapter_config.json"
METADATA = "lora_adapter_metadata"  # PEFT's settings in a file of diffusers


class PeftSettings:
    """What PEFT's settings say about alpha; with no settings alpha is the rank.

    Args:
        content: the settings.
        where: of the settings, for messages.

    Raises:
        UserError: they are not those of a plain LoRA.
    """

    def __init__(self, content: Mapping[str, Any], where: str):
        kind = content.get("peft_type") or "LORA"
        if kind != "LORA" or content.get("use_dora"):
            raise UserError(f"{where}: is a {'DoRA' if kind == 'LORA' else quoted(kind)}; only plain LoRAs can be read")
        self._alpha = field(content, "lora_alpha", float, where) if content else None
        patterns = checked(content.get("alpha_pattern") or {}, dict, f"{where}: alpha_pattern")
        self._patterns = {
            _plain(name, where): checked(alpha, float, f"{where}: alpha_pattern: {quoted(name)}")
            for name, alpha in patterns.items()
        }
        self._divides_by_root = bool(content.get("use_rslora"))  # arXiv 2312.03732

    def alpha(self, name: str, rank: int) -> float:
        """Alpha of the layer that the file calls ``name``, as in W + alpha / rank * up down."""
        name = PREFIX.sub("", name, count=1)
        found = next((a for pattern, a in self._patterns.items() if f".{name}".endswith(f".{pattern}")), self._alpha)
        if found is None:
            return float(rank)
        return found * math.sqrt(rank) if self._divides_by_root else found


def peft_settings(file: SafetensorsFile) -> PeftSettings:
    """The settings of the LoRA in ``file``. Raises ``UserError`` where they are damaged or those of another kind."""
    beside = file.path.with_name(PEFT_CONFIG)
    if file.path.name == PEFT_FILE:
        if not beside.is_file():
            raise UserError(f"{beside}: is missing, and has the LoRA's alpha; copy it too")
        return PeftSettings(read_object(beside), str(beside))
    if METADATA not in file.metadata:
        return PeftSettings({}, "")
    where = f"{file.path}: {METADATA}"
    content = checked(parse_json(file.metadata[METADATA], where), dict, where)
    prefix = "transformer."
    return PeftSettings({key.removeprefix(prefix): content[key] for key in content if key.startswith(prefix)}, where)


def _plain(pattern: str, where: str) -> str:
    """The end of a layer's name. PEFT allows any regular expression, some of which take for ever to match."""
    name = pattern.removeprefix("^")
    if not re.fullmatch(r"[\w.-]+", name):
        raise UserError(f"{where}: alpha_pattern has {quoted(pattern)}; only names of layers can be read, no patterns")
    return name
