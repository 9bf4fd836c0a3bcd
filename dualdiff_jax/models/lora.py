"""Low-rank factors added to frozen kernels (LoRA, arXiv 2106.09685).

(1)  W' = W + alpha / rank * A B,  A: inputs x rank, B: rank x outputs, one pair for each layer of a stack
In training A starts as normal noise of variance 1 / inputs and B as zero, so that W' starts as W. A step computes W'
and uses it in place of W: while it runs, the targeted kernels and their gradients take memory once more, but not
between steps. Inference computes W' once, with alpha / rank inside B (``with_factors``).
"""

import functools
import math
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from dualdiff_jax.arrays import Key, Weights
from dualdiff_jax.config import LoraConfig
from dualdiff_jax.models.leaves import LeafSpec, is_stacked, kernel_dims

IN, OUT = "lora_in", "lora_out"  # follow the kernel's name in the names of its factors

# A (inputs, rank) and B (rank, *dims of the outputs) of one layer; the input dims of a kernel are one dim of A.
Factors: TypeAlias = tuple[np.ndarray, np.ndarray]


def factor_specs(name: str, kernel: LeafSpec, rank: int) -> dict[str, LeafSpec]:
    """Specs of A and B for the kernel ``name``, by their names; the rank is a dim that is never sharded."""
    dims = kernel_dims(kernel)

    def factor(kept: tuple[int, ...], rank_at: int) -> LeafSpec:
        shape, axes = [kernel.shape[dim] for dim in kept], [kernel.axes[dim] for dim in kept]
        shape.insert(rank_at, rank)
        axes.insert(rank_at, None)
        return LeafSpec(tuple(shape), kernel.dtype, tuple(axes), True)

    stack, inputs, outputs = dims
    return {
        f"{name}.{IN}": factor((*stack, *inputs), rank_at=len(stack) + len(inputs)),
        f"{name}.{OUT}": factor((*stack, *outputs), rank_at=len(stack)),
    }


def init_factors(specs: Mapping[str, LeafSpec], rng: Key) -> Weights:
    """The factors before the first update, by name; each kernel's A is drawn with a key of its own."""
    factors = {}
    for number, (name, spec) in enumerate(sorted(specs.items())):
        if name.endswith(IN):
            fan_in = math.prod(spec.shape[1:-1] if is_stacked(spec) else spec.shape[:-1])
            draw = jax.random.normal(jax.random.fold_in(rng, number), spec.shape, spec.dtype)
            factors[name] = draw * fan_in**-0.5
        else:
            factors[name] = jnp.zeros(spec.shape, spec.dtype)
    return factors


def merged(name: str, kernel: jax.Array, spec: LeafSpec, params: Weights, config: LoraConfig) -> jax.Array:
    """W' of equation (1).

    Args:
        name: of the kernel.
        kernel: W.
        spec: of W.
        params: holds the kernel's A and B.
        config: alpha and rank.

    Returns:
        W' in W's shape and dtype.
    """
    dims = kernel_dims(spec)
    stack = tuple(kernel.shape[dim] for dim in dims.stack)
    a = params[f"{name}.{IN}"].reshape(*stack, -1, config.rank)
    b = params[f"{name}.{OUT}"].reshape(*stack, config.rank, -1)
    change = (config.alpha / config.rank) * jnp.matmul(a, b).reshape(kernel.shape)
    return (kernel + change).astype(kernel.dtype)


def layer_factors(name: str, spec: LeafSpec, params: Mapping[str, np.ndarray], rank: int) -> list[Factors]:
    """A and B of each layer of the kernel ``name``, of one layer where it is no stack.

    Args:
        name: of the kernel.
        spec: of the kernel.
        params: on the host; holds the kernel's A and B.
        rank: of A B.
    """
    a, b = params[f"{name}.{IN}"], params[f"{name}.{OUT}"]
    if not is_stacked(spec):
        a, b = a[None], b[None]
    return [(of_inputs.reshape(-1, rank), of_outputs) for of_inputs, of_outputs in zip(a, b, strict=True)]


def with_factors(leaf: Any, spec: LeafSpec, factors: Sequence[Factors | None]) -> Any:
    """W' of equation (1) for a kernel that inference holds, placed as W is.

    Args:
        leaf: W: an array, or separated (``models/separated.py``).
        spec: of W.
        factors: for each layer, A and alpha / rank * B on the host, of any rank; None leaves the layer as it is. One
            entry where W is no stack.

    Returns:
        W' in W's form and dtype; it shares the layers that stay with W.
    """
    if isinstance(leaf, tuple):
        pairs = zip(leaf, factors, strict=True)
        return tuple(layer if pair is None else _layer_with(layer, *pair) for layer, pair in pairs)
    pairs = [pair for pair in factors if pair is not None]
    rank = max(a.shape[1] for a, _ in pairs)
    all_a = np.zeros((len(factors), pairs[0][0].shape[0], rank), np.float32)
    all_b = np.zeros((len(factors), rank, math.prod(pairs[0][1].shape[1:])), np.float32)
    for index, pair in enumerate(factors):
        if pair is not None:
            a, b = pair
            all_a[index, :, : a.shape[1]] = a
            all_b[index, : b.shape[0]] = b.reshape(b.shape[0], -1)
    return _add(leaf, all_a, all_b) if is_stacked(spec) else _add(leaf, all_a[0], all_b[0])


def _layer_with(layer: Any, a: np.ndarray, b: np.ndarray) -> Any:
    """W' of one layer; of a joint projection, whose parts are the first output dim, in its parts."""
    if isinstance(layer, tuple):
        return tuple(_layer_with(part, a, b[:, index]) for index, part in enumerate(layer))
    return _add(layer, a, b.reshape(b.shape[0], -1))


def _add(kernel: jax.Array, a: np.ndarray, b: np.ndarray) -> jax.Array:
    return _adder(kernel.sharding)(kernel, a, b)


@functools.lru_cache(maxsize=64)
def _adder(sharding: jax.sharding.Sharding) -> Any:
    def add(kernel: jax.Array, a: jax.Array, b: jax.Array) -> jax.Array:
        change = jnp.matmul(a, b, precision=jax.lax.Precision.HIGHEST, preferred_element_type=jnp.float32)
        return (kernel.astype(jnp.float32) + change.reshape(kernel.shape)).astype(kernel.dtype)

    return jax.jit(add, out_shardings=sharding)
