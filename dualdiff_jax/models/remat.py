"""What training keeps of a block's forward pass for its backward pass, which computes the rest again."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax

from dualdiff_jax.models.attention import SAVED
from dualdiff_jax.models.linear import PRODUCT
from dualdiff_jax.models.norms import STATISTICS
from dualdiff_jax.models.stack import RunBlocks, scan_blocks
from dualdiff_jax.models.unrolled import unrolled_blocks

_policies = jax.checkpoint_policies
# Name -> what of a block's forward pass is kept for its backward pass.
REMAT: dict[str, Callable[[], Callable[..., Any]]] = {
    "full": lambda: _policies.nothing_saveable,
    "save_attention": lambda: _policies.save_only_these_names(SAVED),
    "dots": lambda: _policies.save_only_these_names(PRODUCT, SAVED, STATISTICS),
    "offload": lambda: _policies.save_and_offload_only_these_names(
        names_which_can_be_saved=[],
        names_which_can_be_offloaded=[SAVED],
        offload_src="device",
        offload_dst="pinned_host",
    ),
}


def rematerialised(policy: str, *, unrolled: bool) -> RunBlocks:
    """How training runs a stack of blocks under a remat policy.

    Args:
        policy: A name in ``REMAT``, or ``none``, which keeps every activation.
        unrolled: Whether there is no loop over the blocks (``models/unrolled.py``).

    Raises:
        ValueError: The policy is unknown.
    """
    run = unrolled_blocks if unrolled else scan_blocks
    if policy == "none":
        return run
    if policy not in REMAT:
        raise ValueError(f"remat policy {policy!r} is none of none, {', '.join(REMAT)}")
    # Without a loop, one program holds both computations of a block: XLA would take them for one, and keep its results.
    return partial(run, wrap=partial(jax.checkpoint, policy=REMAT[policy](), prevent_cse=unrolled))
