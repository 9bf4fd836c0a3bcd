"""Low-rank factors added to frozen kernels (LoRA, arXiv 2106.09685).

(1)  W' = W + alpha / rank * A B,  A: inputs x rank, B: rank x outputs, one pair for each layer of a stack
A starts as normal noise of variance 1 / inputs and B as zero, so that W' starts as W. A step computes W' and uses it
in place of W: while it runs, the targeted kernels and their gradients take memory once more, but not between steps.
"""

import math
from collections.abc import Mapping

import jax
import jax.numpy as jnp

from dualdiff_jax.arrays import Key, Weights
from dualdiff_jax.config import LoraConfig
from dualdiff_jax.models.leaves import LeafSpec, kernel_dims

IN, OUT = "lora_in", "lora_out"  # follow the kernel's name in the names of its factors


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
            fan_in = math.prod(spec.shape[1:-1] if spec.axes[0] == "layers" else spec.shape[:-1])
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
