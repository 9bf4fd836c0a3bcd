"""Weights as inference holds them, so that no program copies a part out of a larger array before it uses it.

A leaf of a stack becomes a tuple of its layers. In the MMDiT's joint projection to queries, keys and values, each layer
becomes a tuple of three, in which heads lie side by side: (width, heads * head dim). ``stack.layer`` and
``Linear.projections`` read both forms.
"""

import functools
import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec

from dualdiff_jax.arrays import SeparatedWeights
from dualdiff_jax.config import ModelConfig
from dualdiff_jax.errors import UserError
from dualdiff_jax.models.bundle import leaf_specs
from dualdiff_jax.models.int8 import Int8Kernel, in_8_bits
from dualdiff_jax.models.leaves import LeafSpec, is_kernel, is_stacked, kernel_dims, network_of

_in_8_bits = jax.jit(in_8_bits, static_argnums=1)
SPLIT = (".qkv.kernel", ".qkv.bias")  # ends of the names of joint projections


def separated_weights(config: ModelConfig, weights: dict[str, Any]) -> SeparatedWeights:
    """Separates the stacks of the networks in ``weights``.

    Args:
        config: The model's.
        weights: Arrays by leaf name, or abstract arrays; stacks that are separated already stay so. The leaves are
            taken out one by one, so that there are never two copies of all.

    Returns:
        Leaf name -> an array; of a stack a tuple of its layers. A dim that stays keeps its sharding.
    """
    networks = tuple({network_of(name) for name in weights})
    return {
        name: _layers(weights.pop(name), spec, name.endswith(SPLIT))
        if is_stacked(spec) and not isinstance(weights[name], tuple)
        else weights.pop(name)
        for name, spec in leaf_specs(config, networks).items()
    }


def with_t5_in_8_bits(config: ModelConfig, weights: SeparatedWeights) -> SeparatedWeights:
    """Weights in which the kernels of T5's blocks are in 8 bits (``models/int8.py``); all other leaves stay.

    Args:
        config: The model's.
        weights: Separated, arrays or abstract ones. T5's kernels are taken out of it one by one.
    """
    for name, spec in leaf_specs(config, ("t5",)).items():
        if name in weights and is_kernel(name) and is_stacked(spec):
            rounded = partial(_rounded, contracted=len(kernel_dims(spec).inputs))
            weights[name] = jax.tree.map(rounded, weights.pop(name))
    return weights


def _rounded(kernel: Any, contracted: int) -> Any:
    if not isinstance(kernel, jax.ShapeDtypeStruct):
        return _in_8_bits(kernel, contracted)
    parts: Any = jax.eval_shape(partial(in_8_bits, contracted=contracted), kernel)
    shardings: Any = kernel.sharding, _without_leading_dims(kernel.sharding, contracted)
    return jax.tree.map(
        lambda part, sharding: jax.ShapeDtypeStruct(part.shape, part.dtype, sharding=sharding),
        parts,
        Int8Kernel(*shardings),
    )


def _layers(leaf: Any, spec: LeafSpec, is_split: bool) -> tuple[Any, ...]:
    dim = spec.axes.index("projection") if is_split else None
    sharding = _sharding_of_a_part(leaf.sharding, len(spec.shape), dim)
    if isinstance(leaf, jax.ShapeDtypeStruct):
        parts = jax.eval_shape(partial(_separate, dim=dim), leaf)
        return jax.tree.map(lambda part: jax.ShapeDtypeStruct(part.shape, part.dtype, sharding=sharding), parts)
    return _separation(dim, sharding)(leaf)


@functools.cache  # leaves of one shape, such as those of both streams, have one program
def _separation(dim: int | None, sharding: Any) -> Callable[[Any], tuple[Any, ...]]:
    return jax.jit(partial(_separate, dim=dim), out_shardings=sharding)


def _separate(leaf: jax.Array, dim: int | None) -> tuple[Any, ...]:
    """The layers of a stacked leaf; each in its parts along ``dim`` of the leaf, with the dims behind it as one."""
    layers = tuple(leaf[index] for index in range(leaf.shape[0]))
    if dim is None:
        return layers
    shape = (*leaf.shape[1:dim], math.prod(leaf.shape[dim + 1 :]))
    return tuple(
        tuple(layer.take(part, axis=dim - 1).reshape(shape) for part in range(leaf.shape[dim])) for layer in layers
    )


def _sharding_of_a_part(sharding: Any, ndim: int, dim: int | None) -> Any:
    if not isinstance(sharding, NamedSharding):
        return sharding
    entries = (*sharding.spec, *[None] * (ndim - len(sharding.spec)))
    kept = entries[1:] if dim is None else (*entries[1:dim], entries[dim + 1])
    return NamedSharding(sharding.mesh, PartitionSpec(*kept))


def _without_leading_dims(sharding: Any, count: int) -> Any:
    if not isinstance(sharding, NamedSharding):
        return sharding
    return NamedSharding(sharding.mesh, PartitionSpec(*sharding.spec[count:]))


def stacked_weights(config: ModelConfig, weights: Mapping[str, Any]) -> dict[str, Any]:
    """The opposite of ``separated_weights``: the leaves that a model folder keeps.

    Args:
        config: The model's.
        weights: Separated, or stacked already; they stay as they are, so that there are two copies for a while.

    Raises:
        UserError: T5 is in 8 bits, from which its weights cannot be had back.
    """
    networks = tuple({network_of(name) for name in weights})
    return {name: _stacked(name, weights[name], spec) for name, spec in leaf_specs(config, networks).items()}


def _stacked(name: str, leaf: Any, spec: LeafSpec) -> Any:
    if not isinstance(leaf, tuple):
        return leaf
    if isinstance(leaf[0], Int8Kernel):
        raise UserError(f"{name} is in 8 bits; load the model without t5_bits to write it")
    dim = spec.axes.index("projection") if name.endswith(SPLIT) else None
    first = jax.tree.leaves(leaf)[0].sharding
    sharding = first
    if isinstance(first, NamedSharding):
        sharding = NamedSharding(first.mesh, _spec_of_a_stack(first.spec, spec, dim))
    return jax.jit(partial(_stack, shape=spec.shape, dim=dim), out_shardings=sharding)(leaf)


def _stack(layers: tuple[Any, ...], shape: tuple[int, ...], dim: int | None) -> jax.Array:
    if dim is None:
        return jnp.stack(layers)
    parts = shape[1:dim] + shape[dim + 1 :]
    return jnp.stack([jnp.stack([part.reshape(parts) for part in layer], axis=dim - 1) for layer in layers])


def _spec_of_a_stack(part: PartitionSpec, spec: LeafSpec, dim: int | None) -> PartitionSpec:
    entries = (*part, *[None] * (len(spec.shape) - 1 - len(part)))
    return (
        PartitionSpec(None, *entries)
        if dim is None
        else PartitionSpec(None, *entries[: dim - 1], None, entries[dim - 1])
    )
