"""A torch checkpoint that a user names, opened and recognised: its networks, sizes and tokenizer. Reads no tensor."""

import dataclasses
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from dualdiff_jax.config import ModelConfig
from dualdiff_jax.config.published import D_DIT_2B
from dualdiff_jax.config.resolve import resolve
from dualdiff_jax.convert.checkpoint_formats import EXPECTED, IGNORED_KEYS, CheckpointFormat, recognise
from dualdiff_jax.convert.diffusers_folder import INDEX_FILE, MASK_FILE, SETTINGS_FILE
from dualdiff_jax.convert.scaled import CleanTensors
from dualdiff_jax.convert.sizes import read_sizes
from dualdiff_jax.convert.tensors import FileTensors, Tensors, absence, open_file, open_folder, open_sharded
from dualdiff_jax.errors import QUOTED, UserError, quoted
from dualdiff_jax.files import as_path, is_there
from dualdiff_jax.json_files import checked, read_object
from dualdiff_jax.models.leaves import NETWORKS
from dualdiff_jax.weights import is_model_folder

Json = Mapping[str, Any]
DEFAULT_SIDE = 512  # pixels: side of the images that the released models were trained on
D_DIT_PIPELINE = "DualDiffSD3Pipeline"
PIPELINES = (
    D_DIT_PIPELINE,
    "StableDiffusion3Pipeline",
    "StableDiffusion3Img2ImgPipeline",
    "StableDiffusion3InpaintPipeline",
)
FOLDERS = {  # of a diffusers pipeline -> the network of D-DiT in it
    "transformer": "mmdit",
    "text_encoder_3": "t5",
    "text_encoder": "t5",
    "vae": "autoencoder",
}


@dataclasses.dataclass(frozen=True)
class Component:
    """One network in a set of tensors.

    Attributes:
        format: of the network.
        tensors: of a file or a set of shards, which may hold other networks too.
        prefix: starts each of the network's keys in ``tensors``.
        config: of ``config.json`` beside the tensors; empty where there is none.
        others: prefixes of the other networks in ``tensors``, whether they are imported or not.
    """

    format: CheckpointFormat
    tensors: Tensors
    prefix: str
    config: Json
    others: tuple[str, ...] = ()

    @property
    def keys(self) -> dict[str, str]:
        """Key without the prefix -> key in the file."""
        return {key.removeprefix(self.prefix): key for key in self.tensors if key.startswith(self.prefix)}

    def sizes(self, vocab_size: int) -> dict[str, dict[str, Any]]:
        """Section of ``ModelConfig`` -> the fields that this network determines (``sizes.read_sizes``).

        Args:
            vocab_size: outputs of the text head, where the file has none.

        Raises:
            UserError: the sizes cannot be read, or contradict ``config.json``.
        """
        try:
            shapes = {key: self.tensors[name].shape for key, name in self.keys.items()}
            return read_sizes(self.format, shapes, self.config, vocab_size)
        except UserError as error:
            raise UserError(f"{self.tensors.path}: {error}") from error


@dataclasses.dataclass(frozen=True)
class TorchCheckpoint:
    """The networks that a user's file or folder holds.

    Attributes:
        path: the file or folder.
        components: by network.
        tokenizer: a folder with a T5 tokenizer, if there is one.
        scheduler: the configuration of the scheduler; empty where there is none.
        mask_embedding: a file with the mask token's row of T5's embedding, if there is one.
        pads_by_tokenizer: whether the model pads prompts with the token that its tokenizer names, as the folder of a
            D-DiT does; otherwise with ``</s>``, which D-DiT's training sets.
        settings: what an export stored of the model's config, ``diffusers_folder.SETTINGS_FILE``; else empty.
    """

    path: Path
    components: Mapping[str, Component]
    tokenizer: Path | None
    scheduler: Json
    mask_embedding: Path | None = None
    pads_by_tokenizer: bool = False
    settings: Json = dataclasses.field(default_factory=dict)

    def with_component(self, other: "TorchCheckpoint", network: str, flag: str) -> "TorchCheckpoint":
        """This checkpoint with one network of another, and with the other's tokenizer where this one has none.

        Args:
            other: the checkpoint to take from.
            network: the network to take. A T5 brings its mask embedding.
            flag: the flag that named ``other``, for the message.

        Raises:
            UserError: ``other`` lacks the network.
        """
        if network not in other.components:
            raise UserError(f"{other.path}: holds {', '.join(other.components)}, but no {network}, which {flag} needs")
        components = {**self.components, network: other.components[network]}
        row = (network == "t5" and other.mask_embedding) or self.mask_embedding
        changed = dataclasses.replace(self, components=components, mask_embedding=row)
        if self.tokenizer:
            return changed
        return dataclasses.replace(changed, tokenizer=other.tokenizer, pads_by_tokenizer=other.pads_by_tokenizer)

    def model_config(self, vocab_size: int) -> ModelConfig:
        """The config of the model; a network that the checkpoint lacks has the published model's sizes.

        Args:
            vocab_size: of the tokenizer, for a text head that the checkpoint lacks.

        Raises:
            UserError: the components are of different models, or a size makes no sense.
        """
        sections: dict[str, dict] = {} if "mmdit" in self.components else {"mmdit": {"vocab_size": vocab_size}}
        for component in self.components.values():
            for section, sizes in component.sizes(vocab_size).items():
                known = sections.setdefault(section, {})
                for field, value in sizes.items():
                    if known.setdefault(field, value) != value:
                        raise UserError(
                            f"{component.tensors.path}: its {component.format.network} has {section}.{field} {value}, "
                            f"the other networks of {self.path} have {known[field]}; give networks of the same model"
                        )
        for section in NETWORKS:
            sections[section] = {**D_DIT_2B[section], **sections.get(section, {})}
        mmdit, levels = sections["mmdit"], sections["autoencoder"].get("level_widths", (0,) * 4)
        largest_side = mmdit.get("patch_size", 2) * mmdit.get("position_grid", 192) * 2 ** (len(levels) - 1)
        side = min(DEFAULT_SIDE, largest_side)
        stored = {"height": side, "width": side} | checked(
            self.settings.get("sampling", {}), dict, f"{self.path / SETTINGS_FILE}: sampling"
        )
        shift = self.scheduler.get("shift", stored.get("sigma_shift", 3.0))  # the original reads the scheduler's
        given = {**self.settings, **sections, "sampling": stored | {"sigma_shift": shift}}
        return resolve(given, ModelConfig, what=f"model in {self.path}")


def open_checkpoint(path: str | Path) -> TorchCheckpoint:
    """Opens and recognises a checkpoint.

    Args:
        path: a diffusers pipeline, the folder of a component, a file of tensors, or the index of its shards.

    Raises:
        UserError: ``path`` is missing, damaged, or holds another model, which the message names.
    """
    path = as_path(path)
    if path.is_dir() and (path / INDEX_FILE).is_file():
        return _open_pipeline(path)
    if not path.exists():
        raise UserError(absence(path, "file or folder"))
    if is_model_folder(path):
        raise UserError(f"{path}: is a model folder already; load it as it is, or export it")
    if path.is_dir():
        tensors = open_folder(path)
    elif path.name.endswith(".json"):
        tensors = open_sharded(path)
    else:
        tensors = FileTensors(path, [open_file(path)])
    tokenizer = path if is_there(path / "tokenizer.json") else None
    return TorchCheckpoint(path, _find_components(tensors, _read_json(path / "config.json")), tokenizer, {})


def _open_pipeline(path: Path) -> TorchCheckpoint:
    """Opens a diffusers folder, without the networks that D-DiT lacks (CLIP)."""
    index = _read_json(path / INDEX_FILE)
    class_name = checked(index.get("_class_name", "nothing"), str, f"{path / INDEX_FILE}: _class_name")
    if class_name not in PIPELINES:
        raise UserError(f"{path}: is a {class_name[:QUOTED]}, expected a folder of {' or '.join(PIPELINES)}")
    components: dict[str, Component] = {}
    for name, network in FOLDERS.items():
        if not _is_listed(index, name, path) or (name == "text_encoder" and "text_encoder_3" in index):
            continue
        if not (path / name).is_dir():
            raise UserError(f"{path / name}: is missing, but {INDEX_FILE} lists it; download it too")
        found = _find_components(open_folder(path / name), _read_json(path / name / "config.json"))
        if network not in found:
            raise UserError(
                f"{path / name}: holds {', '.join(found)}, but no {network}, which belongs there; download this folder "
                "of the model again"
            )
        components |= found
    tokenizers = [path / name for name in ("tokenizer_3", "tokenizer")]
    if "tokenizer_3" in index:
        tokenizers = tokenizers[:1]
    tokenizer = next((folder for folder in tokenizers if is_there(folder / "tokenizer.json")), None)
    row = path / MASK_FILE
    scheduler = _read_json(path / "scheduler" / "scheduler_config.json")
    return TorchCheckpoint(
        path,
        components,
        tokenizer,
        scheduler,
        row if is_there(row) else None,
        pads_by_tokenizer=class_name == D_DIT_PIPELINE,
        settings=_read_json(path / SETTINGS_FILE),
    )


def _is_listed(index: Json, name: str, path: Path) -> bool:
    """Whether ``model_index.json`` lists a component: [library, class], or nulls where it is left out."""
    listed = index.get(name)
    if listed is None:
        return False
    where = f"{path / INDEX_FILE}: {name}"
    if len(checked(listed, list, where)) != 2 or any(entry is not None and type(entry) is not str for entry in listed):
        raise UserError(f"{where}: found {quoted(listed)}, expected a list of a library and a class")
    return listed[1] is not None


def _read_json(file: Path) -> Json:
    """The object in ``file``; empty where there is no such file."""
    return read_object(file) if is_there(file) else {}


def _find_components(tensors: Tensors, config: Json) -> dict[str, Component]:
    """The networks in a set of tensors, by name; at least one."""
    tensors = CleanTensors(tensors)
    try:
        formats = recognise(tensors)
    except UserError as error:
        raise UserError(f"{tensors.path}: {error}") from error
    if not formats:
        example = quoted(next(iter(tensors), "no key at all"))
        raise UserError(f"{tensors.path}: holds no network that is known (a key: {example}); expected {EXPECTED}")
    if config.get("qk_norm") or config.get("dual_attention_layers"):
        raise UserError(f"{tensors.path}: this is Stable Diffusion 3.5, expected {EXPECTED}")
    components: dict[str, Component] = {}
    for prefix, checkpoint_format in formats.items():
        network = checkpoint_format.network
        if network in components:
            raise UserError(
                f"{tensors.path}: holds two of {network}: under {components[network].prefix!r} and {prefix!r}; "
                "keep one of them in the file"
            )
        components[network] = Component(
            checkpoint_format, tensors, prefix, config, tuple(other for other in formats if other != prefix)
        )
    return components


def unclaimed_keys(checkpoint: TorchCheckpoint) -> Iterator[tuple[Path, str]]:
    """(file, key) of every key that belongs to no network of its file and matches none of ``IGNORED_KEYS``."""
    for component in {id(component.tensors): component for component in checkpoint.components.values()}.values():
        tensors = component.tensors
        for key in tensors:
            is_known = key.startswith((component.prefix, *component.others))
            if not is_known and not any(re.fullmatch(pattern, key) for pattern in IGNORED_KEYS):
                yield tensors.file_of(key), key
