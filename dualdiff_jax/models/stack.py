"""Blocks that are all alike: one set of parameters with a leading ``layers`` dim, one compiled body."""

from collections.abc import Callable
from typing import TypeVar

import jax
from flax import nnx

Carry = TypeVar("Carry")

SHALLOW = 4  # up to this depth a loop saves no compile time, and its saved activations cost copies


def stacked(build: Callable[[nnx.Rngs], nnx.Module], depth: int, rngs: nnx.Rngs) -> nnx.Module:
    """``depth`` modules as one, every parameter stacked along a first dim named ``layers``."""

    @nnx.split_rngs(splits=depth)
    @nnx.vmap(in_axes=0, out_axes=0, transform_metadata={nnx.PARTITION_NAME: "layers"})
    def build_all(rngs: nnx.Rngs) -> nnx.Module:
        return build(rngs)

    return build_all(rngs)


def scan_blocks(blocks: nnx.Module, apply: Callable[[nnx.Module, Carry], Carry], carry: Carry) -> Carry:
    """Runs ``carry = apply(block, carry)`` for each block of a stacked module, first to last."""
    graph, layers = nnx.split(blocks)

    def body(carry: Carry, layer: nnx.State) -> tuple[Carry, None]:
        return apply(nnx.merge(graph, layer), carry), None

    depth = jax.tree.leaves(layers)[0].shape[0]
    return jax.lax.scan(body, carry, layers, unroll=depth <= SHALLOW)[0]
