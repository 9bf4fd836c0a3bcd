"""Imports a torch checkpoint: one layer at a time into a model folder, or straight onto devices."""

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from dualdiff_jax.arrays import Weights
from dualdiff_jax.config import ModelConfig
from dualdiff_jax.convert.leaf_writer import LeafWriter
from dualdiff_jax.convert.output import check_apart, check_output
from dualdiff_jax.convert.plan import Plan, check_numbers
from dualdiff_jax.convert.rule import stack_layers
from dualdiff_jax.convert.tensors import open_file, some
from dualdiff_jax.convert.torch_checkpoint import TorchCheckpoint, open_checkpoint, unclaimed_keys
from dualdiff_jax.data.tokenizer import END_TOKEN, T5_TOKENIZER, Tokenizer
from dualdiff_jax.errors import UserError, quoted
from dualdiff_jax.files import as_path, check_holds_arrays
from dualdiff_jax.models.bundle import weight_shardings
from dualdiff_jax.models.leaves import EMBEDDING, NETWORKS, layers_of, network_of
from dualdiff_jax.progress import Progress
from dualdiff_jax.weights import (
    DESCRIPTION,
    is_model_folder,
    load_config,
    load_model,
    new_model_folder,
    with_dtype,
)

log = logging.getLogger(__name__)

EMBEDDING_MULTIPLE = 128  # to which T5's embedding is rounded up


class Import:
    """One import. The constructor opens and checks everything; ``write`` or ``load`` then reads the tensors.

    Args:
        path: the checkpoint (``torch_checkpoint.open_checkpoint``).
        t5: a checkpoint to take T5 from instead.
        autoencoder: a checkpoint to take the autoencoder from instead.
        tokenizer: a folder with the tokenizer; by default the checkpoint's, else T5's own.
        mask_embedding: a file with one vector, the mask token's row of T5's embedding; by default the file that lies
            in a pipeline's folder, if there is one.
        dtype: of the stored weights and the computation, ``"float32"`` or ``"bfloat16"``; by default that of the
            files, see ``Plan.dtype``.
        components: the networks to import; by default all that are there.

    Attributes:
        checkpoint: the opened checkpoint.
        networks: the networks to import, a subset of ``NETWORKS`` in its order.
        tokenizer: of the model.
        config: of the model.
        plan: which tensor fills which leaf.
        dtypes: in which each leaf is stored.
        mask_embedding: the file in use, or None.

    Raises:
        UserError: the import is impossible; the message lists all faults of the tensors.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        t5: str | Path | None = None,
        autoencoder: str | Path | None = None,
        tokenizer: str | Path | None = None,
        mask_embedding: str | Path | None = None,
        dtype: str | None = None,
        components: Sequence[str] | None = None,
    ):
        checkpoint = open_checkpoint(path)
        _check_used(components, t5=t5, autoencoder=autoencoder)
        if t5 is not None:
            checkpoint = checkpoint.with_component(open_checkpoint(t5), "t5", "--t5")
        if autoencoder is not None:
            checkpoint = checkpoint.with_component(open_checkpoint(autoencoder), "autoencoder", "--autoencoder")
        self.checkpoint = checkpoint
        self.networks = _selected_networks(checkpoint, components)
        self.tokenizer = Tokenizer(
            tokenizer or checkpoint.tokenizer or T5_TOKENIZER, None if checkpoint.pads_by_tokenizer else END_TOKEN
        )
        self.config: ModelConfig = with_dtype(checkpoint.model_config(self.tokenizer.vocab_size), dtype)
        selected = [found for network, found in checkpoint.components.items() if network in self.networks]
        self.plan = Plan(self.config, selected, unclaimed_keys(checkpoint))
        if self.tokenizer.vocab_size != self.config.mmdit.vocab_size:
            raise UserError(
                f"{self.tokenizer.folder}: has {self.tokenizer.vocab_size} tokens, but the text head of "
                f"{checkpoint.path} scores {self.config.mmdit.vocab_size}; give the model's own with --tokenizer"
            )
        largest = -(-self.tokenizer.vocab_size // EMBEDDING_MULTIPLE) * EMBEDDING_MULTIPLE
        if "t5" in self.networks and self.config.t5.vocab_size > largest:
            log.warning(
                "%s: its embedding has %d rows and the tokenizer in %s only %d tokens; if it is another T5 than the "
                "tokenizer's, give its own with --tokenizer",
                checkpoint.components["t5"].tensors.path,
                self.config.t5.vocab_size,
                self.tokenizer.folder,
                self.tokenizer.vocab_size,
            )
        self.dtypes = {leaf: self.plan.dtype(network_of(leaf), dtype) for leaf in self.plan.specs}
        if mask_embedding is not None and "t5" not in self.networks:
            raise UserError(f"{mask_embedding}: a mask embedding needs a T5 to go into; add --t5=FILE_OR_FOLDER")
        row = mask_embedding or checkpoint.mask_embedding
        self.mask_embedding = as_path(row) if row and "t5" in self.networks else None
        self._mask_row = self.mask_embedding and self._read_mask_row(self.mask_embedding)

    def _read_mask_row(self, file: Path) -> np.ndarray:
        """The vector in ``file``, (width of T5,), in the embedding's dtype."""
        tensors, width = open_file(file), self.config.t5.width
        shapes = {name: info.shape for name, info in tensors.items()}
        if len(shapes) != 1 or math.prod(next(iter(shapes.values()))) != width:
            found = ", ".join(
                f"{quoted(name) if name else 'a tensor'} {shape}" for name, shape in list(shapes.items())[:3]
            )
            raise UserError(f"{file}: holds {found or 'nothing'}; expected one vector of T5's width, {width}")
        ((key, info),) = tensors.items()
        if not jnp.issubdtype(info.dtype, jnp.floating):
            raise UserError(f"{file}: holds a vector of dtype {info.dtype}; expected floating point numbers")
        row = tensors.read(key).reshape(width)
        with np.errstate(over="ignore"):
            stored = row.astype(self.dtypes[EMBEDDING])
        check_numbers(f"{file}:", row, stored)
        return stored

    @property
    def bytes(self) -> int:
        """Size of the arrays on disk."""
        return sum(math.prod(spec.shape) * self.dtypes[leaf].itemsize for leaf, spec in self.plan.specs.items())

    def read(self, leaf: str, layer: int | None) -> np.ndarray:
        """One layer of a stacked leaf, or a leaf that is not stacked, in ``dtypes[leaf]``; as ``Plan.read``."""
        array = self.plan.read(leaf, layer, self.dtypes[leaf])
        if leaf == EMBEDDING and self._mask_row is not None:
            array[self.tokenizer.mask_token_id] = self._mask_row
        return array

    def write(self, output: str | Path, *, overwrite: bool = False, progress: Progress | None = None) -> Path:
        """Writes a model folder, which gets its name when it is complete.

        Args:
            output: the folder.
            overwrite: whether to replace a folder that exists.
            progress: called with (bytes written, bytes in all).

        Returns:
            ``output``.

        Raises:
            UserError: ``output`` exists, cannot be written, finds too little room or holds a file that the import
                reads, or a tensor cannot be read.
        """
        output = as_path(output)
        check_holds_arrays(output)
        check_apart(output, self._sources())
        check_output(output, DESCRIPTION, self.bytes, overwrite)
        with new_model_folder(output, self.config, self.tokenizer, self.networks) as folder:
            self._write_weights(folder / "weights", progress)
        return output

    def _sources(self) -> list[Path]:
        """The files and folders that ``write`` reads."""
        tensors = [component.tensors for component in self.plan.components.values()]
        files = dict.fromkeys(found.file_of(key) for found in tensors for key in found)
        return [self.checkpoint.path, *files, *([self.mask_embedding] if self.mask_embedding else [])]

    def _write_weights(self, folder: Path, progress: Progress | None) -> None:
        written, total = 0, self.bytes
        with LeafWriter(folder, self.plan.specs, self.dtypes) as writer:
            for leaf, spec in self.plan.specs.items():
                for layer in layers_of(spec):
                    array = self.read(leaf, layer)
                    writer.write(leaf, layer, array)
                    written += array.nbytes
                    if progress is not None:
                        progress(written, total)

    def load(self, mesh: Mesh) -> Weights:
        """Reads the weights onto ``mesh``, one leaf at a time, without writing a model folder.

        Raises:
            UserError: a tensor cannot be read, or a large leaf does not divide over ``mesh``.
        """
        shardings = weight_shardings(self.config, mesh)
        weights: Weights = {}
        for leaf, spec in self.plan.specs.items():
            array = stack_layers(spec, self.dtypes[leaf], partial(self.read, leaf))
            weights[leaf] = _shard(array, shardings[leaf])
        return weights


def open_pipeline(
    path: Path, choose_mesh: Callable[[ModelConfig], Mesh], dtype: str | None, cache: bool
) -> tuple[ModelConfig, Weights, Tokenizer]:
    """Loads a diffusers folder.

    Args:
        path: the folder.
        choose_mesh: where to place the weights of a model with this config.
        dtype: as in ``weights.load_model``.
        cache: whether to write a model folder beside ``path``, ``NAME.dualdiff_jax``, and to load an existing one.

    Returns:
        Config, weights and tokenizer.

    Raises:
        UserError: the folder cannot be imported, or the model folder cannot be written.
    """
    model_folder = path.absolute().with_name(f"{path.absolute().name}.dualdiff_jax")
    if cache and not is_model_folder(model_folder):
        Import(path).write(model_folder)
    if cache:
        return load_model(model_folder, choose_mesh(load_config(model_folder)), dtype)
    direct = Import(path, dtype=dtype)
    return direct.config, direct.load(choose_mesh(direct.config)), direct.tokenizer


def _shard(array: np.ndarray, sharding: jax.sharding.Sharding) -> jax.Array:
    return jax.make_array_from_callback(array.shape, sharding, lambda index: array[index])


def _check_used(components: Sequence[str] | None, **given: str | Path | None) -> None:
    """Raises ``UserError`` where a file is given for a network that ``components`` leaves out."""
    for network, file in given.items():
        if file is not None and components is not None and network not in components:
            raise UserError(f"{file}: --components leaves {network} out; add it there, or leave --{network} out")


def _selected_networks(checkpoint: TorchCheckpoint, components: Sequence[str] | None) -> tuple[str, ...]:
    """The networks to import, in the order of ``NETWORKS``."""
    if components is None:
        components = tuple(checkpoint.components)
    for network in components:
        if network not in NETWORKS:
            raise UserError(f"--components has {network!r}; there are {', '.join(NETWORKS)}")
        if network not in checkpoint.components:
            raise UserError(f"{checkpoint.path}: holds {', '.join(checkpoint.components)}, but no {network}")
    return tuple(network for network in NETWORKS if network in components)


def summary(planned: Import) -> Mapping[str, list[str]]:
    """What an import would do.

    Args:
        planned: the import.

    Returns:
        Network -> lines of text: its format, size, dtypes and file; then a line each on dropped keys and fresh
        leaves, if there are any.
    """
    lines, described = {}, set()
    for network in planned.networks:
        component = planned.checkpoint.components[network]
        leaves = [leaf for leaf in planned.plan.specs if network_of(leaf) == network]
        numbers = sum(int(np.prod(planned.plan.specs[leaf].shape)) for leaf in leaves)
        found = sorted({str(component.tensors[key].dtype) for key in component.keys.values()})
        lines[network] = [
            f"{component.format.name}, {numbers:,} numbers, {', '.join(found)} -> {planned.dtypes[leaves[0]]}, "
            f"from {component.tensors.path}"
        ]
        if network == "t5" and (unused := planned.config.t5.vocab_size - planned.tokenizer.vocab_size) > 0:
            lines[network].append(f"the last {unused} rows of its embedding have no token in the tokenizer")
        if scaled := sum(key in component.tensors.scaled for key in component.keys.values()):
            lines[network].append(f"{scaled} weights are 8 bit with a scale, which is multiplied in")
        if component.tensors.left_out and id(component.tensors) not in described:
            lines[network].append(f"left out, no part of any network: {some(component.tensors.left_out)}")
        described.add(id(component.tensors))
        dropped = [name for key, name in component.keys.items() if component.format.drops(key)]
        if dropped:
            lines[network].append(f"dropped, D-DiT has no such tensors: {', '.join(dropped)}")
        if component.format.fresh:
            lines[network].append(f"initialised, wholly or in the last block: {', '.join(component.format.fresh)}")
    return lines
