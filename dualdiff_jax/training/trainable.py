"""What a run trains, as a flat dict of its own, and how the model's weights come out of it.

    weights = assemble(config, params, frozen)
(1)  a whole leaf       weights[name] = params[name]
(2)  the mask's row     weights["t5.embedding"] = the frozen one with params["t5.embedding[mask]"] as a row of it
(3)  low-rank factors   weights[name] = frozen[name] + alpha / rank * A B   (lora.py)
Gradients, moments and averages are of ``params`` and exist for nothing else. ``assemble`` is the first operation
of a step, and what fills the model folder at the end. Frozen leaves are kept in the dtype that the model computes
in, and (2) and (3) come out in it: what is exported is what was trained.
"""

import fnmatch

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding

from dualdiff_jax.arrays import Key, Weights
from dualdiff_jax.config import ModelConfig, RunConfig
from dualdiff_jax.errors import UserError
from dualdiff_jax.models.bundle import leaf_specs, split_trainable
from dualdiff_jax.models.leaves import LeafSpec, is_kernel
from dualdiff_jax.sharding import leaf_sharding
from dualdiff_jax.training.lora import factor_specs, init_factors, merged

EMBEDDING = "t5.embedding"
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


def trained_specs(config: RunConfig) -> dict[str, LeafSpec]:
    """Every leaf of ``params``. Raises ``UserError`` for a pattern that names nothing, or one thing twice."""
    specs = leaf_specs(config.model)
    patterns = [pattern for pattern in config.train.trainable if pattern != MASK_ROW]
    found, _ = split_trainable(config.model, specs, patterns)
    if MASK_ROW in config.train.trainable:
        _refuse_twice(EMBEDDING, found)
        embedding = specs[EMBEDDING]
        found[MASK_ROW] = LeafSpec(embedding.shape[1:], embedding.dtype, embedding.axes[1:], True)
    for name in lora_targets(config):
        _refuse_twice(name, found)
        found |= factor_specs(name, specs[name], config.lora.rank)
    if not found:
        raise UserError("train.trainable is empty and lora.rank is 0, so nothing would be trained; name a part")
    return found


def _refuse_twice(name: str, found: dict[str, LeafSpec]) -> None:
    if name in found:
        raise UserError(
            f"train.trainable names {name} whole, which is also trained in part; take it out, as in train.trainable=()"
        )


def lora_targets(config: RunConfig) -> list[str]:
    """Names of the kernels that have factors beside them."""
    if not config.lora.rank:
        return []
    names = [name for name in leaf_specs(config.model) if name.startswith("mmdit.") and is_kernel(name)]
    for pattern in config.lora.targets:
        if not fnmatch.filter(names, pattern):
            raise UserError(f"lora.targets has {pattern!r}, which is no kernel of the MMDiT; they look like {names[0]}")
    return [name for name in names if any(fnmatch.fnmatchcase(name, pattern) for pattern in config.lora.targets)]


def trained_shardings(config: RunConfig, mesh: Mesh) -> dict[str, NamedSharding]:
    return {name: leaf_sharding(mesh, name, s.shape, s.axes) for name, s in trained_specs(config).items()}


def split(config: RunConfig, mesh: Mesh, weights: Weights, rng: Key) -> tuple[Weights, Weights]:
    """(params, frozen) of a model's weights, which are given up. ``rng`` draws what the model itself does not have."""
    specs = leaf_specs(config.model)
    trained = trained_specs(config)
    params = {name: weights[name].astype(specs[name].dtype) for name in trained if name in specs}
    others = {name: spec for name, spec in trained.items() if name not in specs}
    dtype = jnp.dtype(config.model.compute_dtype)

    def rest(embedding: jax.Array) -> Weights:
        row = {MASK_ROW: embedding[mask_row(config.model)]} if MASK_ROW in others else {}
        return row | init_factors({name: spec for name, spec in others.items() if name != MASK_ROW}, rng)

    if others:
        shardings = trained_shardings(config, mesh)
        params |= jax.jit(rest, out_shardings={name: shardings[name] for name in others})(weights[EMBEDDING])
    frozen = {}
    for name in [name for name in weights if name not in params]:
        value = weights.pop(name)  # so that no more than one leaf is there in both dtypes
        frozen[name] = value.astype(dtype) if specs[name].trainable else value
    return params, frozen


def changed_leaves(config: RunConfig) -> list[str]:
    """Names of the model's leaves that training changes, whole or in part."""
    row = [EMBEDDING] if MASK_ROW in config.train.trainable else []
    return [name for name in trained_specs(config) if name in leaf_specs(config.model)] + row + lora_targets(config)


def assemble(config: RunConfig, params: Weights, frozen: Weights) -> Weights:
    """The model's weights. Equations (1) to (3)."""
    specs = leaf_specs(config.model)
    weights = frozen | {name: value for name, value in params.items() if name in specs}
    if MASK_ROW in params:
        embedding = frozen[EMBEDDING]
        weights[EMBEDDING] = embedding.at[mask_row(config.model)].set(params[MASK_ROW].astype(embedding.dtype))
    for name in lora_targets(config):
        weights[name] = merged(name, frozen[name], specs[name], params, config.lora)
    return weights
