"""Exports a model folder to the diffusers folder that the PyTorch original loads."""

import json
import math
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import jax.numpy as jnp
import numpy as np
from safetensors.numpy import save_file

from dualdiff_jax.config import ModelConfig
from dualdiff_jax.convert.checkpoint_formats import D_DIT_FORMATS
from dualdiff_jax.convert.diffusers_folder import INDEX_FILE, MASK_FILE, write_configs, write_index
from dualdiff_jax.convert.output import check_apart, check_output
from dualdiff_jax.convert.plan import format_rules
from dualdiff_jax.convert.rule import Rule
from dualdiff_jax.convert.tensors import some
from dualdiff_jax.convert.torch_file import save_tensor
from dualdiff_jax.errors import UserError
from dualdiff_jax.files import as_path, new_file, new_folder
from dualdiff_jax.models.leaves import EMBEDDING
from dualdiff_jax.progress import Progress
from dualdiff_jax.stored_arrays import read_leaves
from dualdiff_jax.weights import check_leaves, load_config, load_networks, load_tokenizer

SHARD_BYTES = 2_000_000_000  # largest file; memory holds one shard until it is written
GROUP_BYTES = 256 << 20  # of leaves that are read together, unless one is larger
FOR_TORCH = {"format": "pt"}  # metadata of a file
FILES = {  # network -> folder in the pipeline, stem of its files
    "mmdit": ("transformer", "diffusion_pytorch_model"),
    "t5": ("text_encoder", "model"),
    "autoencoder": ("vae", "diffusion_pytorch_model"),
}


def export_model(
    model: str | Path,
    output: str | Path,
    *,
    dtype: str | None = None,
    overwrite: bool = False,
    shard_bytes: int = SHARD_BYTES,
    progress: Progress | None = None,
) -> Path:
    """Writes a diffusers pipeline, with the mask token's embedding in a file of its own.

    Args:
        model: a model folder with all networks.
        output: the folder to write.
        dtype: of the tensors; None for the dtype in which each leaf is stored.
        overwrite: whether to replace a folder that exists.
        shard_bytes: largest size of a file, except for a single tensor that is larger.
        progress: called with (bytes written, bytes in all).

    Returns:
        ``output``.

    Raises:
        UserError: ``output`` exists (without ``overwrite``), finds too little room or holds ``model``, or the model
            folder is damaged, lacks a network, has an autoencoder or a block that diffusers lacks, or numbers that
            ``dtype`` cannot hold.
    """
    model, output = as_path(model), as_path(output)
    check_apart(output, [model])
    config, tokenizer = load_config(model), load_tokenizer(model)
    _check_exportable(model, config)
    stored = check_leaves(model, config)
    dtypes = {leaf: jnp.dtype(dtype or spec.dtype) for leaf, spec in stored.items()}
    written, total = 0, sum(int(np.prod(spec.shape)) * dtypes[leaf].itemsize for leaf, spec in stored.items())
    check_output(output, INDEX_FILE, total, overwrite)
    _check_range(model, config, stored, dtype)
    with new_folder(output, INDEX_FILE) as folder:
        write_configs(folder, config)
        tokenizer.save(folder / "tokenizer")
        for network, (name, stem) in FILES.items():
            sizes = _sizes(config, network, dtypes)
            shards = Shards(folder / name, stem, sizes, shard_bytes)
            for rule, array in _arrays(model / "weights", config, network, stored):
                tensor = rule.extract(array).astype(dtypes[rule.leaf], copy=False)
                shards.add(rule.key, tensor)
                if rule.leaf == EMBEDDING:
                    save_tensor(tensor[tokenizer.mask_token_id], folder / MASK_FILE)
                written += tensor.nbytes
                if progress is not None:
                    progress(written, total)
            shards.close()
        write_index(folder)
    return output


def _check_exportable(model: Path, config: ModelConfig) -> None:
    """Raises ``UserError`` unless the model has all networks, of the kinds that diffusers has."""
    if config.autoencoder.kind != "kl" or config.mmdit.mlp_ratio != 4:
        raise UserError(f"{model}: has an autoencoder or blocks that diffusers lacks; only SD3's kind can be exported")
    missing = [network for network in D_DIT_FORMATS if network not in load_networks(model)]
    if missing:
        raise UserError(f"{model}: holds no {' and no '.join(missing)}; export needs a complete model")


def _check_range(model: Path, config: ModelConfig, stored: dict, dtype: str | None) -> None:
    """Raises ``UserError`` where ``dtype`` makes a finite number infinite; reads the model if its range is smaller."""
    if dtype is None or all(jnp.finfo(dtype).maxexp >= jnp.finfo(spec.dtype).maxexp for spec in stored.values()):
        return
    if large := [key for network in FILES for key in _too_large(model / "weights", config, network, stored, dtype)]:
        raise UserError(f"{model}: has numbers too large for --dtype={dtype} in {some(large)}; choose another --dtype")


def _too_large(folder: Path, config: ModelConfig, network: str, stored: dict, dtype: str) -> Iterator[str]:
    for rule, array in _arrays(folder, config, network, stored):
        tensor = rule.extract(array)
        with np.errstate(over="ignore"):
            cast = tensor.astype(jnp.dtype(dtype))
        if (np.isinf(cast) & np.isfinite(tensor)).any():
            yield rule.key


def _sizes(config: ModelConfig, network: str, dtypes: Mapping[str, np.dtype]) -> dict[str, int]:
    """Key of each tensor -> its bytes, in the order in which they are written."""
    rules = [rule for group in format_rules(D_DIT_FORMATS[network], config).values() for rule in group]
    return {rule.key: math.prod(rule.shape) * dtypes[rule.leaf].itemsize for rule in rules}


def _arrays(folder: Path, config: ModelConfig, network: str, stored: dict) -> Iterator[tuple[Rule, np.ndarray]]:
    """Each tensor's rule and the leaf or layer that it comes from; one group of leaves is in memory at a time."""
    by_layer = format_rules(D_DIT_FORMATS[network], config)
    groups = _groups(dict.fromkeys(leaf for leaf, _ in by_layer), stored)
    held: dict[str, np.ndarray] = {}
    for (leaf, layer), rules in by_layer.items():
        if leaf not in held:
            held.clear()  # frees the last group before the next is read
            held |= read_leaves(folder, {name: stored[name] for name in next(groups)})
        for rule in rules:
            yield rule, held[leaf] if layer is None else held[leaf][layer]


def _groups(leaves: Iterable[str], stored: dict) -> Iterator[list[str]]:
    """The leaves in their order, in groups that are read together: a read of a bucket costs many requests."""
    group, filled = [], 0
    for leaf in leaves:
        size = math.prod(stored[leaf].shape) * np.dtype(stored[leaf].dtype).itemsize
        if group and filled + size > GROUP_BYTES:
            yield group
            group, filled = [], 0
        group.append(leaf)
        filled += size
    yield group


class Shards:
    """Writes tensors into ``.safetensors`` files, and an index where there are several.

    Args:
        folder: where; it is made.
        stem: of the names of the files.
        sizes: key of each tensor -> its bytes, in the order in which ``add`` gets them.
        limit: largest size of a file in bytes; a larger tensor gets a file of its own.
    """

    def __init__(self, folder: Path, stem: str, sizes: Mapping[str, int], limit: int):
        folder.mkdir(parents=True, exist_ok=True)
        self._folder, self._stem = folder, stem
        self._name_of, self._total = _shard_names(stem, sizes, limit), sum(sizes.values())
        self._held: dict[str, np.ndarray] = {}

    def add(self, key: str, tensor: np.ndarray) -> None:
        """Adds a tensor; writes the current file first where the tensor belongs into the next."""
        if self._held and self._name_of[next(iter(self._held))] != self._name_of[key]:
            self._flush()
        self._held[key] = tensor

    def _flush(self) -> None:
        with new_file(self._folder / self._name_of[next(iter(self._held))]) as partial:
            save_tensors(self._held, partial)
        self._held = {}

    def close(self) -> None:
        """Writes the last file and the index."""
        self._flush()
        if len(set(self._name_of.values())) > 1:
            index = {"metadata": {"total_size": self._total}, "weight_map": dict(sorted(self._name_of.items()))}
            file = self._folder / f"{self._stem}.safetensors.index.json"
            file.write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


def _shard_names(stem: str, sizes: Mapping[str, int], limit: int) -> dict[str, str]:
    """Key of each tensor -> the name of its file, in which the number of all files stands."""
    numbers, number, filled = {}, 1, 0
    for key, size in sizes.items():
        if filled and filled + size > limit:
            number, filled = number + 1, 0
        numbers[key], filled = number, filled + size
    if number == 1:
        return dict.fromkeys(sizes, f"{stem}.safetensors")
    return {key: f"{stem}-{which:05d}-of-{number:05d}.safetensors" for key, which in numbers.items()}


def save_tensors(tensors: dict[str, np.ndarray], file: Path, metadata: dict[str, str] = FOR_TORCH) -> None:
    """Writes a safetensors file with the permissions of any new file; the library alone would give it fewer.

    Args:
        tensors: by key.
        file: where.
        metadata: of the file; PyTorch's loaders of models demand the default.
    """
    save_file(tensors, file, metadata)
    mask = os.umask(0)
    os.umask(mask)
    file.chmod(0o666 & ~mask)
