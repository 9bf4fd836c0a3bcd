"""A stack of equal blocks in training, without a loop.

XLA for GPUs clears the stacks in which a loop keeps activations for its backward pass, copies each layer's into them
and out again, and each layer's gradient into another stack. Without a loop these are arrays of their own, and the
optimizer's kernel reads the gradients where they are. The compiler sees each block once for every layer.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from dualdiff_jax.hardware import chip_of
from dualdiff_jax.models.stack import Apply, Block, Carry

GPUS = ("gpu", "cuda", "rocm")  # names of their platforms
# TPUs whose plans without a loop take much less time. On v5e and v6e it is 3%, for memory in which more examples fit.
UNROLLED_TPUS = ("TPU v5p",)


def unroll_pays(device: Any) -> bool:
    """Whether training on this kind of device reads less time without a loop, as compiled (docs/scale.md).

    Args:
        device: A ``jax.Device``, or one of a topology that is not here.
    """
    chip = chip_of(device.device_kind)
    return device.platform in GPUS or (chip is not None and chip.name in UNROLLED_TPUS)


def unrolled_blocks(blocks: nnx.Module, apply: Apply, carry: Carry, wrap: Callable = lambda body: body) -> Carry:
    """Runs ``carry = apply(block, carry)`` for each block, first to last, as ``stack.scan_blocks`` does.

    Args:
        blocks: What ``stack.stacked`` returns.
        apply: (one block, carry) -> carry.
        carry: A pytree of arrays.
        wrap: Applied to the run of one block, such as ``jax.checkpoint``. What it keeps for the backward pass has no
            copy of a layer's parameters in it, which are read from the stack again.

    Returns:
        The last carry.
    """
    graph, stacks = nnx.split(blocks)

    def run(slots: Any, stacks: Any, index: jax.Array, carry: Carry) -> Carry:
        block: Block = nnx.merge(graph, jax.tree.map(lambda stack, slot: _layer(stack, index, slot), stacks, slots))
        return apply(block, carry)

    run_layer = jax.jit(wrap(run))  # equal layers share one trace
    leaves, tree = jax.tree.flatten(stacks)
    slots = [tree.unflatten(of_layer) for of_layer in zip(*map(_gradient_slots, leaves), strict=True)]
    # XLA does not see which layer is read. Else it would cast all layers before the first block, and keep that.
    indices = jax.lax.optimization_barrier(jnp.arange(len(slots)))
    for index, of_layer in enumerate(slots):
        carry = run_layer(of_layer, stacks, indices[index], carry)
    return carry


@jax.custom_vjp
def _gradient_slots(stack: jax.Array) -> tuple[jax.Array, ...]:
    """Zeros in the shape of each layer, which nothing reads; the gradients that they receive become the stack's."""
    return tuple(jnp.zeros(stack.shape[1:], stack.dtype) for _ in range(stack.shape[0]))


_gradient_slots.defvjp(
    lambda stack: (_gradient_slots(stack), None),
    lambda _, gradients: (jnp.stack(gradients),),
)


@jax.custom_vjp
def _layer(stack: jax.Array, index: jax.Array, slot: jax.Array) -> jax.Array:
    """Layer ``index`` of the stack. Its gradient goes to ``slot`` alone: one as large as the stack would be summed."""
    return jax.lax.dynamic_index_in_dim(stack, index, keepdims=False)


_layer.defvjp(
    lambda stack, index, slot: (_layer(stack, index, slot), None),
    lambda _, gradient: (None, None, gradient),
)
