"""What a run trains, as a flat dict of its own, and how the model's weights come out of it.

    weights = trainable.assemble(params, frozen)
(1)  a whole leaf       weights[name] = params[name]
(2)  the mask's row     weights["t5.embedding"] = the frozen one with params["t5.embedding[mask]"] as a row of it
(3)  low-rank factors   weights[name] = frozen[name] + alpha / rank * A B   (models/lora.py)
Gradients, moments and averages are of ``params`` and exist for nothing else. ``assemble`` is the first operation
of a step, and fills the model folder at the end. Frozen leaves are kept in the dtype that the model computes in, and
(2) and (3) come out in it: what is exported is what was trained.
"""

import fnmatch
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding

from dualdiff_jax.arrays import Key, SeparatedWeights, Weights
from dualdiff_jax.config import ModelConfig, RunConfig
from dualdiff_jax.errors import UserError
from dualdiff_jax.models.bundle import leaf_specs, split_trainable
from dualdiff_jax.models.leaves import EMBEDDING, LeafSpec, is_kernel, network_of
from dualdiff_jax.models.lora import factor_specs, init_factors, merged
from dualdiff_jax.models.separated import separated_weights
from dualdiff_jax.sharding import leaf_sharding

MASK_ROW = f"{EMBEDDING}[mask]"

PARTS = {  # part -> how its leaves' names begin
    "image_stream": ("mmdit.blocks.image.", "mmdit.image_", "mmdit.patch_"),
    "text_stream": ("mmdit.blocks.text.", "mmdit.text_"),
    "conditioning": ("mmdit.timestep_", "mmdit.null_", "mmdit.positions"),
    "t5": ("t5.",),
    "autoencoder": ("autoencoder.",),
}


def part_of(name: str) -> str:
    """The one of ``PARTS`` that a leaf belongs to."""
    return next(part for part, beginnings in PARTS.items() if name.startswith(beginnings))


def mask_row(config: ModelConfig) -> int:
    """The mask's row of T5's embedding: the tokenizer's last token, and the text head scores all of its tokens."""
    return config.mmdit.vocab_size - 1


class Trainable:
    """The part of a model that a run trains, derived once from its config.

    Attributes:
        specs: every leaf of ``params``, by name.
        lora_targets: names of the kernels that have low-rank factors.
        changed_leaves: names of the model's leaves that training changes, whole or in part.

    Raises:
        UserError: a pattern names nothing, one leaf is named twice, or nothing would be trained; or the
            mask's row is trained without texts.
    """

    def __init__(self, config: RunConfig):
        self._config = config
        self._model_specs = leaf_specs(config.model)
        self.lora_targets = _lora_targets(config, self._model_specs)
        self.specs = _specs(config, self._model_specs, self.lora_targets)
        row = [EMBEDDING] if MASK_ROW in self.specs else []
        self.changed_leaves = [name for name in self.specs if name in self._model_specs] + row + self.lora_targets

    def shardings(self, mesh: Mesh) -> dict[str, NamedSharding]:
        """Where each leaf of ``params`` lies on ``mesh``."""
        return {name: leaf_sharding(mesh, name, spec.shape, spec.axes) for name, spec in self.specs.items()}

    def split(self, weights: Weights, mesh: Mesh, rng: Key) -> tuple[Weights, Weights]:
        """Takes a model's weights apart.

        Args:
            weights: all leaves of the model on ``mesh``. The dict is emptied, so that no more than one leaf is there in
                two dtypes.
            mesh: where ``params`` will lie.
            rng: draws the low-rank factors, which the model itself does not have.

        Returns:
            params and frozen weights.
        """
        specs = self._model_specs
        added = {name: spec for name, spec in self.specs.items() if name not in specs}
        dtype = jnp.dtype(self._config.model.compute_dtype)

        def init_added(embedding: jax.Array) -> Weights:
            row = embedding[mask_row(self._config.model)]
            rows = {name: row.astype(spec.dtype) for name, spec in added.items() if name == MASK_ROW}
            return rows | init_factors({name: spec for name, spec in added.items() if name != MASK_ROW}, rng)

        new = {}
        if added:
            shardings = self.shardings(mesh)
            run = jax.jit(init_added, out_shardings={name: shardings[name] for name in added})
            new = run(weights[EMBEDDING])
        params = {name: weights.pop(name).astype(specs[name].dtype) for name in self.specs if name in specs}
        frozen = {}
        for name in list(weights):
            value = weights.pop(name)
            frozen[name] = value.astype(dtype) if specs[name].trainable else value
        return params | new, frozen

    def separate(self, frozen: dict[str, Any]) -> SeparatedWeights:
        """Frozen weights as steps read them: T5 layer by layer, so that no layer is copied out of a stack.

        T5 stays as it is where one of its leaves is trained whole.

        Args:
            frozen: arrays or abstract ones. T5's leaves are taken out one by one.
        """
        if any(network_of(name) == "t5" for name in self.specs if name in self._model_specs):
            return dict(frozen)
        t5 = {name: frozen.pop(name) for name in list(frozen) if network_of(name) == "t5"}
        return frozen | separated_weights(self._config.model, t5)

    def assemble(self, params: Weights, frozen: SeparatedWeights) -> SeparatedWeights:
        """The model's weights. Equations (1) to (3).

        Args:
            params: what is trained.
            frozen: all else, stacked or ``separate``'s.
        """
        weights = frozen | {name: value for name, value in params.items() if name in self._model_specs}
        if MASK_ROW in params:
            embedding = _whole(frozen[EMBEDDING])
            row = params[MASK_ROW].astype(embedding.dtype)
            weights[EMBEDDING] = embedding.at[mask_row(self._config.model)].set(row)
        for name in self.lora_targets:
            weights[name] = merged(name, _whole(frozen[name]), self._model_specs[name], params, self._config.lora)
        return weights


def _whole(leaf: jax.Array | tuple[jax.Array, ...]) -> jax.Array:
    assert not isinstance(leaf, tuple)  # neither T5's embedding nor a stack of the MMDiT is separated
    return leaf


def _specs(config: RunConfig, model: Mapping[str, LeafSpec], lora_targets: list[str]) -> dict[str, LeafSpec]:
    patterns = [pattern for pattern in config.train.trainable if pattern != MASK_ROW]
    found, _ = split_trainable(config.model, model, patterns)
    if MASK_ROW in config.train.trainable:
        _refuse_twice(EMBEDDING, found)
        if "text" not in config.objective.streams:
            raise UserError(
                f"train.trainable names {MASK_ROW}, but objective.text_weight is 0, and no image's text has a mask; "
                "take it out, or give a weight"
            )
        embedding = model[EMBEDDING]
        found[MASK_ROW] = LeafSpec(embedding.shape[1:], embedding.dtype, embedding.axes[1:], True)
    for name in lora_targets:
        _refuse_twice(name, found)
        found |= factor_specs(name, model[name], config.lora.rank)
    if not found:
        raise UserError("train.trainable is empty and lora.rank is 0, so nothing would be trained; name a part")
    return found


def _refuse_twice(name: str, found: Mapping[str, LeafSpec]) -> None:
    if name in found:
        raise UserError(
            f"train.trainable names {name} whole, which is also trained in part; take it out, as in train.trainable=()"
        )


def _lora_targets(config: RunConfig, model: Mapping[str, LeafSpec]) -> list[str]:
    if not config.lora.rank:
        return []
    names = [name for name in model if name.startswith("mmdit.") and is_kernel(name)]
    for pattern in config.lora.targets:
        if not fnmatch.filter(names, pattern):
            raise UserError(f"lora.targets has {pattern!r}, which is no kernel of the MMDiT; they look like {names[0]}")
    return [name for name in names if any(fnmatch.fnmatchcase(name, pattern) for pattern in config.lora.targets)]
