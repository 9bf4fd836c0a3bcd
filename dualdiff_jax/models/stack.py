"""A stack of equal blocks: one set of parameters with a leading ``layers`` dim, one compiled body.

Training runs it by ``scan_blocks`` or by ``unrolled_blocks`` (``models/unrolled.py``), under a policy of
``models/remat.py``. Inference runs the last block on its own (``all_but_last`` and ``layer``), so that it computes what
is asked for and no more. It may also hold every layer's parameters apart (``models/separated.py``): then no loop is
left, and no layer's weights are copied out of a stack before they are used, as XLA does for GPUs.
"""

from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from flax import nnx

Carry = TypeVar("Carry")
Result = TypeVar("Result")
Block = Any  # a module of the stack: pyright cannot know which
Apply = Callable[[Block, Carry], Carry]
RunBlocks = Callable[[nnx.Module, Apply, Any], Any]

SHALLOW = 4  # layers, up to which a loop is unrolled: it would save no compile time


def stacked(build: Callable[[nnx.Rngs], nnx.Module], depth: int, rngs: nnx.Rngs) -> nnx.Module:
    """``depth`` modules as one, with every parameter stacked along a first dim named ``layers``.

    Args:
        build: Makes one module.
        depth: Number of modules.
        rngs: Split, so that each module draws weights of its own.
    """

    @nnx.split_rngs(splits=depth)
    @nnx.vmap(in_axes=0, out_axes=0, transform_metadata={nnx.PARTITION_NAME: "layers"})
    def build_all(rngs: nnx.Rngs) -> nnx.Module:
        return build(rngs)

    return build_all(rngs)


def scan_blocks(blocks: nnx.Module, apply: Apply, carry: Carry, wrap: Callable = lambda body: body) -> Carry:
    """Runs ``carry = apply(block, carry)`` for each block, first to last.

    Args:
        blocks: What ``stacked`` returns, or the same with separated parameters.
        apply: (one block, carry) -> carry.
        carry: A pytree of arrays.
        wrap: Applied to the body of the loop, such as ``jax.checkpoint``.

    Returns:
        The last carry.
    """
    graph, layers = nnx.split(blocks)
    if _has_separated(blocks):
        run, before = _traced_once(graph, apply), carry
        for index in range(depth_of(blocks)):
            # While one layer computes, the next may arrive; compilers for TPUs would gather all at once.
            state, _ = jax.lax.optimization_barrier((_layer_of(layers, index), before))
            before, carry = carry, run(state, carry)
        return carry

    def body(carry: Carry, layer: nnx.State) -> tuple[Carry, None]:
        return apply(nnx.merge(graph, layer), carry), None

    return jax.lax.scan(wrap(body), carry, layers, unroll=depth_of(blocks) <= SHALLOW)[0]


def depth_of(blocks: nnx.Module) -> int:
    """The number of layers of a stack, whose parameters are stacked or separated."""
    leaf = jax.tree.leaves(nnx.state(blocks), is_leaf=_is_separated)[0]
    return len(leaf) if _is_separated(leaf) else leaf.shape[0]


def layer(blocks: nnx.Module, index: jax.Array | int) -> Block:
    """One block of a stack. ``index`` is an int where the parameters are separated."""
    graph, layers = nnx.split(blocks)
    return nnx.merge(graph, _layer_of(layers, index))


def all_but_last(
    blocks: nnx.Module,
    apply: Callable[[Block, Any, Carry], Carry],
    carry: Carry,
    per_layer: Any,
    first: int = 0,
) -> Carry:
    """Runs ``carry = apply(block, its entries of per_layer, carry)`` for each block but the last. Not for gradients.

    Args:
        blocks: What ``stacked`` returns, or the same with separated parameters.
        apply: (one block, entries, carry) -> carry.
        carry: A pytree of arrays.
        per_layer: A pytree of arrays with a first dim of layers.
        first: The number of the block to begin with.
    """
    graph, layers = nnx.split(blocks)
    depth = depth_of(blocks)
    run = _traced_once(graph, apply)

    def body(index: jax.Array | int, carry: Carry) -> Carry:
        return run(_layer_of(layers, index), jax.tree.map(lambda leaf: leaf[index], per_layer), carry)

    if not _has_separated(blocks) and depth > SHALLOW:
        return jax.lax.fori_loop(first, depth - 1, body, carry)
    for index in range(first, depth - 1):
        carry = body(index, carry)
    return carry


def _traced_once(graph: nnx.GraphDef, apply: Callable[..., Result]) -> Callable[..., Result]:
    """``apply`` of the block that a layer's state makes. Equal layers share one trace, however many there are."""
    return jax.jit(lambda state, *args: apply(nnx.merge(graph, state), *args))


def _layer_of(layers: nnx.State, index: jax.Array | int) -> nnx.State:
    return jax.tree.map(lambda leaf: leaf[index], layers, is_leaf=_is_separated)


def for_each(blocks: nnx.Module, apply: Callable[[Block], Result]) -> Result:
    """``apply(block)`` of each block, stacked along a first dim of ``layers``."""
    graph, layers = nnx.split(blocks)
    if _has_separated(blocks):
        run = _traced_once(graph, apply)
        found = [run(_layer_of(layers, index)) for index in range(depth_of(blocks))]
        return jax.tree.map(lambda *leaves: jnp.stack(leaves), *found)
    return jax.lax.map(lambda layer: apply(nnx.merge(graph, layer)), layers)


def _is_separated(leaf: Any) -> bool:
    return type(leaf) is tuple


def _has_separated(blocks: nnx.Module) -> bool:
    return any(map(_is_separated, jax.tree.leaves(nnx.state(blocks), is_leaf=_is_separated)))
