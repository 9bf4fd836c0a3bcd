"""A stack of equal blocks: one set of parameters with a leading ``layers`` dim, one compiled body.

Three ways to run it: ``scan_blocks``; ``rematerialised``, whose backward pass computes some activations again; and
``peeled``, for inference, where the compiler can drop what the last block computes for an unused output.
"""

import functools
from collections.abc import Callable
from typing import Any, TypeVar

import jax
from flax import nnx

from dualdiff_jax.models.attention import SAVED
from dualdiff_jax.models.linear import PRODUCT

Carry = TypeVar("Carry")
Apply = Callable[[nnx.Module, Carry], Carry]
RunBlocks = Callable[[nnx.Module, Apply, Any], Any]

SHALLOW = 4  # up to this depth the loop is unrolled: it would save no compile time, and saving activations costs copies

_policies = jax.checkpoint_policies
# Name -> what of a block's forward pass is kept for its backward pass.
REMAT: dict[str, Callable[[], Callable[..., Any]]] = {
    "full": lambda: _policies.nothing_saveable,
    "save_attention": lambda: _policies.save_only_these_names(SAVED),
    "dots": lambda: _policies.save_only_these_names(PRODUCT, SAVED),
    "offload": lambda: _policies.save_and_offload_only_these_names(
        names_which_can_be_saved=[],
        names_which_can_be_offloaded=[SAVED],
        offload_src="device",
        offload_dst="pinned_host",
    ),
}


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
        blocks: What ``stacked`` returns.
        apply: (one block, carry) -> carry.
        carry: A pytree of arrays.
        wrap: Applied to the body of the loop, such as ``jax.checkpoint``.

    Returns:
        The last carry.
    """
    graph, layers = nnx.split(blocks)

    def body(carry: Carry, layer: nnx.State) -> tuple[Carry, None]:
        return apply(nnx.merge(graph, layer), carry), None

    depth = jax.tree.leaves(layers)[0].shape[0]
    return jax.lax.scan(wrap(body), carry, layers, unroll=depth <= SHALLOW)[0]


def rematerialised(policy: str) -> RunBlocks:
    """``scan_blocks`` under a remat policy.

    Args:
        policy: A name in ``REMAT``, or ``none``, which keeps every activation.

    Raises:
        ValueError: The policy is unknown.
    """
    if policy == "none":
        return scan_blocks
    if policy not in REMAT:
        raise ValueError(f"remat policy {policy!r} is none of none, {', '.join(REMAT)}")
    return functools.partial(
        scan_blocks, wrap=functools.partial(jax.checkpoint, policy=REMAT[policy](), prevent_cse=False)
    )


def peeled(blocks: nnx.Module, apply: Apply, carry: Carry) -> Carry:
    """``scan_blocks`` with the last block outside the loop, where the compiler removes dead code. Not for gradients."""
    graph, layers = nnx.split(blocks)
    depth = jax.tree.leaves(layers)[0].shape[0]
    if depth <= SHALLOW:
        return scan_blocks(blocks, apply, carry)

    def block(index: jax.Array | int) -> nnx.Module:
        return nnx.merge(graph, jax.tree.map(lambda leaf: leaf[index], layers))

    carry = jax.lax.fori_loop(0, depth - 1, lambda index, carry: apply(block(index), carry), carry)
    return apply(block(depth - 1), carry)
