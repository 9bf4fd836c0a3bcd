"""What a user points at, opened and recognised: networks, tokenizer, sizes. Nothing large is read here."""

import dataclasses
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from dualdiff_jax.config import ModelConfig
from dualdiff_jax.config.published import D_DIT_2B
from dualdiff_jax.config.resolve import resolve
from dualdiff_jax.convert.checkpoint_formats import EXPECTED, STRANGERS, CheckpointFormat, recognise
from dualdiff_jax.convert.diffusers_folder import MASK_FILE
from dualdiff_jax.convert.sizes import read_sizes
from dualdiff_jax.convert.tensors import Tensors, open_file, open_folder, open_sharded
from dualdiff_jax.errors import UserError
from dualdiff_jax.models.leaves import NETWORKS
from dualdiff_jax.weights import is_model_folder

Json = Mapping[str, Any]
DEFAULT_SIDE = 512  # pixels: what the released models were trained at
PIPELINES = ("StableDiffusion3Pipeline", "DualDiffSD3Pipeline")
FOLDERS = ("transformer", "text_encoder_3", "text_encoder", "vae")  # of a diffusers pipeline, if they hold ours


@dataclasses.dataclass(frozen=True)
class Component:
    """One network in a set of tensors. Its keys there begin with ``prefix``."""

    layout: CheckpointFormat
    tensors: Tensors
    prefix: str
    config: Json  # config.json beside the tensors; empty where there is none

    @property
    def keys(self) -> dict[str, str]:
        """Key without the prefix -> key in the file."""
        return {key.removeprefix(self.prefix): key for key in self.tensors if key.startswith(self.prefix)}

    def sizes(self, vocabulary: int) -> dict[str, dict[str, Any]]:
        """Section of ``ModelConfig`` -> fields; ``vocabulary`` for a text head that the file has not."""
        try:
            shapes = {key: self.tensors[name].shape for key, name in self.keys.items()}
            return read_sizes(self.layout, shapes, self.config, vocabulary)
        except UserError as error:
            raise UserError(f"{self.tensors.path}: {error}") from error


@dataclasses.dataclass(frozen=True)
class TorchCheckpoint:
    """``parts`` by network, none twice."""

    path: Path
    parts: Mapping[str, Component]
    tokenizer: Path | None
    scheduler: Json
    mask_embedding: Path | None = None  # a file with the row of T5's embedding that stands for the mask

    def with_parts(self, other: "TorchCheckpoint", network: str, flag: str) -> "TorchCheckpoint":
        """This source with a network of another one, and its tokenizer where this one has none.

        A T5 comes with its mask embedding.
        """
        if network not in other.parts:
            raise UserError(f"{other.path}: holds {', '.join(other.parts)}, but {flag} needs a {network}")
        parts = {**self.parts, network: other.parts[network]}
        row = (network == "t5" and other.mask_embedding) or self.mask_embedding
        return dataclasses.replace(self, parts=parts, tokenizer=self.tokenizer or other.tokenizer, mask_embedding=row)

    def model_config(self, vocabulary: int) -> ModelConfig:
        """The model that the parts are of; a network that is in none has the published model's sizes.

        ``vocabulary``: the tokenizer's size, for a text head that the source has not.
        """
        sections: dict[str, dict] = {} if "mmdit" in self.parts else {"mmdit": {"vocab_size": vocabulary}}
        for part in self.parts.values():
            for section, sizes in part.sizes(vocabulary).items():
                known = sections.setdefault(section, {})
                for field, value in sizes.items():
                    if known.setdefault(field, value) != value:
                        raise UserError(
                            f"{part.tensors.path}: its {part.layout.network} has {section}.{field} {value}, the other "
                            f"parts of {self.path} have {known[field]}; they do not belong together"
                        )
        for section in NETWORKS:
            sections[section] = {**D_DIT_2B[section], **sections.get(section, {})}
        mmdit, levels = sections["mmdit"], sections["autoencoder"].get("level_widths", (0,) * 4)
        most = mmdit.get("patch_size", 2) * mmdit.get("position_grid", 192) * 2 ** (len(levels) - 1)
        side = min(DEFAULT_SIDE, most)
        sampling = {"height": side, "width": side, "sigma_shift": self.scheduler.get("shift", 3.0)}
        return resolve({**sections, "sampling": sampling}, ModelConfig, what=f"model in {self.path}")


def open_checkpoint(path: str | Path) -> TorchCheckpoint:
    """Recognises a diffusers pipeline, a component's folder or a single file; ``UserError`` says what it is not."""
    path = Path(path)
    if path.is_dir() and (path / "model_index.json").is_file():
        return _pipeline(path)
    if not path.exists():
        raise UserError(f"{path}: there is no such file or folder")
    if is_model_folder(path):
        raise UserError(f"{path}: is a model folder already; it can be loaded as it is, and exported")
    if path.is_dir():
        tensors = open_folder(path)
    elif path.name.endswith(".json"):
        tensors = open_sharded(path)
    else:
        tensors = Tensors(path, [open_file(path)])
    tokenizer = path if (path / "tokenizer.json").is_file() else None
    return TorchCheckpoint(path, _parts(tensors, _json(path / "config.json")), tokenizer, {})


def _pipeline(path: Path) -> TorchCheckpoint:
    """A diffusers folder; the parts that D-DiT does not have (CLIP) are not looked at."""
    index = _json(path / "model_index.json")
    kind = index.get("_class_name", "nothing")
    if kind not in PIPELINES:
        raise UserError(f"{path}: is a {kind}, expected a folder of {' or '.join(PIPELINES)}")
    parts: dict[str, Component] = {}
    for name in FOLDERS:
        listed = index.get(name)
        if not listed or listed[1] is None or (name == "text_encoder" and "text_encoder_3" in index):
            continue
        if not (path / name).is_dir():
            raise UserError(f"{path / name}: is missing, but model_index.json lists it; download it too")
        parts |= _parts(open_folder(path / name), _json(path / name / "config.json"))
    tokenizers = [path / name for name in ("tokenizer_3", "tokenizer")]
    if "tokenizer_3" in index:
        tokenizers = tokenizers[:1]
    tokenizer = next((folder for folder in tokenizers if (folder / "tokenizer.json").is_file()), None)
    row = path / MASK_FILE
    scheduler = _json(path / "scheduler" / "scheduler_config.json")
    return TorchCheckpoint(path, parts, tokenizer, scheduler, row if row.is_file() else None)


def _json(file: Path) -> Json:
    if not file.is_file():
        return {}
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        if not isinstance(content, dict):
            raise ValueError(f"it holds a {type(content).__name__}")
    except ValueError as error:
        raise UserError(f"{file}: is no JSON object ({error}); download it again") from error
    return content


def _parts(tensors: Tensors, config: Json) -> dict[str, Component]:
    try:
        found = recognise(tensors)
    except UserError as error:
        raise UserError(f"{tensors.path}: {error}") from error
    if not found:
        example = next(iter(tensors), "no key at all")
        raise UserError(f"{tensors.path}: holds no network that is known (a key: {example}); expected {EXPECTED}")
    if config.get("qk_norm") or config.get("dual_attention_layers"):
        raise UserError(f"{tensors.path}: this is Stable Diffusion 3.5, expected {EXPECTED}")
    parts: dict[str, Component] = {}
    for prefix, layout in found.items():
        if layout.network in parts:
            raise UserError(
                f"{tensors.path}: holds two of {layout.network}: under {parts[layout.network].prefix!r} and {prefix!r}"
            )
        parts[layout.network] = Component(layout, tensors, prefix, config)
    return parts


def homeless(source: TorchCheckpoint) -> Iterator[tuple[Path, str]]:
    """(file, key) of every key that lies under no part's prefix and belongs to no known stranger."""
    for tensors in {id(part.tensors): part.tensors for part in source.parts.values()}.values():
        prefixes = tuple(part.prefix for part in source.parts.values() if part.tensors is tensors)
        for key in tensors:
            if not key.startswith(prefixes) and not any(re.fullmatch(stranger, key) for stranger in STRANGERS):
                yield tensors.file_of(key), key
