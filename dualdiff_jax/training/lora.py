"""Low-rank factors beside frozen kernels (LoRA, arXiv 2106.09685).

(1)  W' = W + alpha / rank * A B,  A: inputs x rank, B: rank x outputs, one pair for each layer of a stack
A starts as normal noise of variance 1 / inputs and B as zero, so that W' starts as W. A step computes W' and works
with that: the targeted kernels and their gradients are there once more while it runs, but not between steps.
"""

import math
from collections.abc import Mapping

import jax
import jax.numpy as jnp

from dualdiff_jax.arrays import Key, Weights
from dualdiff_jax.config import LoraConfig
from dualdiff_jax.models.leaves import LeafSpec, kernel_dims

IN, OUT = "lora_in", "lora_out"  # ends of the factors' names, after their kernel's


def factor_specs(name: str, kernel: LeafSpec, rank: int) -> dict[str, LeafSpec]:
    """Specs of A and B for the kernel ``name``; the rank is a dim that is never sharded."""
    dims = kernel_dims(kernel)

    def of(chosen: tuple[int, ...], before: bool) -> LeafSpec:
        shape, axes = (tuple(of[dim] for dim in chosen) for of in (kernel.shape, kernel.axes))
        at = len(dims.stack) if before else len(chosen)
        return LeafSpec((*shape[:at], rank, *shape[at:]), kernel.dtype, (*axes[:at], None, *axes[at:]), True)

    return {
        f"{name}.{IN}": of((*dims.stack, *dims.inputs), before=False),
        f"{name}.{OUT}": of((*dims.stack, *dims.outputs), before=True),
    }


def init_factors(specs: Mapping[str, LeafSpec], rng: Key) -> Weights:
    """The factors before the first update; each kernel's A is drawn with a key of its own."""
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
    """W' of equation (1), in W's dtype."""
    dims = kernel_dims(spec)
    stack = tuple(kernel.shape[dim] for dim in dims.stack)
    a = params[f"{name}.{IN}"].reshape(*stack, -1, config.rank)
    b = params[f"{name}.{OUT}"].reshape(*stack, config.rank, -1)
    change = (config.alpha / config.rank) * jnp.matmul(a, b).reshape(kernel.shape)
    return (kernel + change).astype(kernel.dtype)
