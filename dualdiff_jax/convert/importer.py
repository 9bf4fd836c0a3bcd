"""From torch files to a model folder, a layer at a time; or straight onto devices."""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import jax
import numpy as np
from jax.sharding import Mesh

from dualdiff_jax.arrays import Weights
from dualdiff_jax.config import ModelConfig
from dualdiff_jax.convert.leaf_writer import LeafWriter
from dualdiff_jax.convert.output import check_output
from dualdiff_jax.convert.plan import Plan
from dualdiff_jax.convert.rule import whole_leaf
from dualdiff_jax.convert.tensors import open_file
from dualdiff_jax.convert.torch_checkpoint import TorchCheckpoint, homeless, open_checkpoint
from dualdiff_jax.data.tokenizer import T5_TOKENIZER, Tokenizer
from dualdiff_jax.errors import UserError
from dualdiff_jax.models.bundle import weight_shardings
from dualdiff_jax.models.leaves import NETWORKS, layers_of, network_of
from dualdiff_jax.progress import Progress
from dualdiff_jax.weights import is_model_folder, load_model, new_model_folder, with_dtype

EMBEDDING = "t5.embedding"


class Import:
    """One import, opened and checked in full; ``UserError`` tells all that is wrong before anything is written.

    ``t5`` and ``autoencoder`` are further files or folders that these networks come from, ``tokenizer`` a
    folder, ``mask_embedding`` a file with the one vector that the mask token has in T5's embedding; left out, the
    one that lies in a pipeline's folder.
    ``components`` narrows the import to some networks.
    """

    def __init__(
        self,
        source: str | Path,
        *,
        t5: str | Path | None = None,
        autoencoder: str | Path | None = None,
        tokenizer: str | Path | None = None,
        mask_embedding: str | Path | None = None,
        dtype: str | None = None,
        components: Sequence[str] | None = None,
    ):
        self.source = open_checkpoint(source)
        if t5 is not None:
            self.source = self.source.with_parts(open_checkpoint(t5), "t5", "--t5")
        if autoencoder is not None:
            self.source = self.source.with_parts(open_checkpoint(autoencoder), "autoencoder", "--autoencoder")
        self.networks = _chosen(self.source, components)
        self.tokenizer = Tokenizer(tokenizer or self.source.tokenizer or T5_TOKENIZER)
        self.config: ModelConfig = with_dtype(self.source.model_config(self.tokenizer.vocab_size), dtype)
        parts = [part for network, part in self.source.parts.items() if network in self.networks]
        self.plan = Plan(self.config, parts, homeless(self.source))
        if self.tokenizer.vocab_size != self.config.mmdit.vocab_size:
            raise UserError(
                f"{self.tokenizer.folder}: has {self.tokenizer.vocab_size} tokens, but the text head of "
                f"{self.source.path} scores {self.config.mmdit.vocab_size}; give the model's own with --tokenizer"
            )
        self.dtypes = {leaf: self.plan.dtype(network_of(leaf), dtype) for leaf in self.plan.specs}
        if mask_embedding is not None and "t5" not in self.networks:
            raise UserError(f"{mask_embedding}: a mask embedding needs a T5 to go into; add --t5=FILE_OR_FOLDER")
        row = mask_embedding or self.source.mask_embedding
        self.mask_embedding = Path(row) if row and "t5" in self.networks else None
        self._mask_row = self.mask_embedding and self._read_mask_row(self.mask_embedding)

    def _read_mask_row(self, file: Path) -> np.ndarray:
        tensors, width = open_file(file), self.config.t5.width
        shapes = {name: info.shape for name, info in tensors.items()}
        if len(shapes) != 1 or int(np.prod(next(iter(shapes.values())))) != width:
            found = ", ".join(f"{name or 'a tensor'} {shape}" for name, shape in shapes.items())
            raise UserError(f"{file}: holds {found}; expected one vector of T5's width, {width}")
        return tensors.read(next(iter(shapes))).reshape(width)

    @property
    def bytes(self) -> int:
        """What the arrays take on disk."""
        return sum(int(np.prod(spec.shape)) * self.dtypes[leaf].itemsize for leaf, spec in self.plan.specs.items())

    def read(self, leaf: str, layer: int | None) -> np.ndarray:
        part = self.plan.read(leaf, layer, self.dtypes[leaf])
        if leaf == EMBEDDING and self._mask_row is not None:
            part[self.tokenizer.mask_token_id] = self._mask_row
        return part

    def write(self, output: str | Path, *, overwrite: bool = False, progress: Progress | None = None) -> Path:
        """Writes the model folder ``output``, which appears when it is complete."""
        output = Path(output)
        check_output(output, self.bytes, overwrite)
        with new_model_folder(output, self.config, self.tokenizer, self.networks) as folder:
            self._write_weights(folder / "weights", progress)
        return output

    def _write_weights(self, folder: Path, progress: Progress | None) -> None:
        writer, done, total = LeafWriter(folder, self.plan.specs, self.dtypes), 0, self.bytes
        for leaf, spec in self.plan.specs.items():
            for layer in layers_of(spec):
                part = self.read(leaf, layer)
                writer.write(leaf, layer, part)
                done += part.nbytes
                if progress is not None:
                    progress(done, total)

    def load(self, mesh: Mesh) -> Weights:
        """The weights on ``mesh``, leaf by leaf, without a model folder in between."""
        shardings = weight_shardings(self.config, mesh)
        weights: Weights = {}
        for leaf, spec in self.plan.specs.items():
            weights[leaf] = _place(whole_leaf(spec, self.dtypes[leaf], partial(self.read, leaf)), shardings[leaf])
        return weights


def open_pipeline(path: Path, mesh: Mesh, dtype: str | None, cache: bool) -> tuple[ModelConfig, Weights, Tokenizer]:
    """Config, weights on ``mesh`` and tokenizer of a diffusers folder; ``cache`` leaves a model folder beside it."""
    beside = path.absolute().with_name(f"{path.absolute().name}.dualdiff_jax")
    if cache and not is_model_folder(beside):
        Import(path).write(beside)
    if cache:
        return load_model(beside, mesh, dtype)
    chosen = Import(path, dtype=dtype)
    return chosen.config, chosen.load(mesh), chosen.tokenizer


def _place(whole: np.ndarray, sharding: jax.sharding.Sharding) -> jax.Array:
    return jax.make_array_from_callback(whole.shape, sharding, lambda index: whole[index])


def _chosen(source: TorchCheckpoint, components: Sequence[str] | None) -> tuple[str, ...]:
    if components is None:
        components = tuple(source.parts)
    for network in components:
        if network not in NETWORKS:
            raise UserError(f"--components has {network!r}; there are {', '.join(NETWORKS)}")
        if network not in source.parts:
            raise UserError(f"{source.path}: holds {', '.join(source.parts)}, but no {network}")
    return tuple(network for network in NETWORKS if network in components)


def summary(chosen: Import) -> Mapping[str, list[str]]:
    """Network -> a line on where it comes from and what becomes of it, then one each on what is left out and new."""
    lines = {}
    for network in chosen.networks:
        part = chosen.source.parts[network]
        leaves = [leaf for leaf in chosen.plan.specs if network_of(leaf) == network]
        numbers = sum(int(np.prod(chosen.plan.specs[leaf].shape)) for leaf in leaves)
        stored = sorted({str(part.tensors[key].dtype) for key in part.keys.values()})
        lines[network] = [
            f"{part.layout.name}, {numbers:,} numbers, {', '.join(stored)} -> {chosen.dtypes[leaves[0]]}, "
            f"from {part.tensors.path}"
        ]
        left_out = [name for key, name in part.keys.items() if part.layout.drops(key)]
        if left_out:
            lines[network].append(f"left out, for D-DiT has no place for it: {', '.join(left_out)}")
        if part.layout.fresh:
            lines[network].append(f"new, wholly or in the last block: {', '.join(part.layout.fresh)}")
    return lines
