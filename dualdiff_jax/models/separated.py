"""Weights as inference holds them, so that no program copies a part out of a larger array before it uses it.

A leaf of a stack becomes a tuple of its layers. Of a joint projection (queries, keys and values; gate and value), each
layer becomes a tuple of its parts, a kernel each, in which heads lie side by side: (width, heads * head dim).
``stack.layer`` and ``Linear.projections`` read both forms.
"""

import math
from typing import Any

import jax
from jax.sharding import NamedSharding, PartitionSpec

from dualdiff_jax.arrays import SeparatedWeights, Weights
from dualdiff_jax.config import ModelConfig
from dualdiff_jax.models.bundle import leaf_specs
from dualdiff_jax.models.leaves import LeafSpec, is_stacked, network_of

SPLIT = ("heads", "mlp")  # a joint projection to these is split; AdaLN's, to "modulated", is not


def separated_weights(config: ModelConfig, weights: Weights) -> SeparatedWeights:
    """Separates the stacks of the networks in ``weights``.

    Args:
        config: The model's.
        weights: Arrays by leaf name, or abstract arrays. The leaves are taken out one by one, so that there are never
            two copies of all.

    Returns:
        Leaf name -> an array; of a stack a tuple of its layers. A dim that stays keeps its sharding.
    """
    networks = tuple({network_of(name) for name in weights})
    return {
        name: _layers(weights.pop(name), spec) if is_stacked(spec) else weights.pop(name)
        for name, spec in leaf_specs(config, networks).items()
    }


def _layers(leaf: Any, spec: LeafSpec) -> tuple[Any, ...]:
    sharding = _sharding_of_a_part(leaf.sharding, spec)
    if isinstance(leaf, jax.ShapeDtypeStruct):
        parts = jax.eval_shape(lambda leaf: _separate(leaf, spec), leaf)
        return jax.tree.map(lambda part: jax.ShapeDtypeStruct(part.shape, part.dtype, sharding=sharding), parts)
    return jax.jit(_separate, static_argnums=1, out_shardings=sharding)(leaf, spec)


def _separate(leaf: jax.Array, spec: LeafSpec) -> tuple[Any, ...]:
    dim = _projection(spec)
    layers = tuple(leaf[index] for index in range(leaf.shape[0]))
    if dim is None:
        return layers
    before, after = leaf.shape[1:dim], math.prod(leaf.shape[dim + 1 :])
    return tuple(
        tuple(layer.take(part, axis=dim - 1).reshape(*before, after) for part in range(leaf.shape[dim]))
        for layer in layers
    )


def _projection(spec: LeafSpec) -> int | None:
    """The dim of a stacked leaf that counts the parts of a joint projection; None where there is none to split."""
    dims = [dim for dim, axis in enumerate(spec.axes[:-1]) if axis == "projection" and spec.axes[dim + 1] in SPLIT]
    return dims[0] if dims else None


def _sharding_of_a_part(sharding: Any, spec: LeafSpec) -> Any:
    if not isinstance(sharding, NamedSharding):
        return sharding
    entries = (*sharding.spec, *[None] * (len(spec.shape) - len(sharding.spec)))
    dim = _projection(spec)
    kept = entries[1:] if dim is None else (*entries[1:dim], entries[dim + 1])
    return NamedSharding(sharding.mesh, PartitionSpec(*kept))
