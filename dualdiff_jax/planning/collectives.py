"""The collectives of a compiled program, read from its text.

A loop's trip count multiplies what is inside, also through nested loops. One that a TPU sends in pieces counts once
(``sending.py``). In a conditional, the branch that takes longest counts.
Over several dimensions of a slice's torus, XLA for TPUs turns reduce-scatters, and on a v5p gathers, into all-reduces
that use all links at once; they are counted as all-reduces.
"""

from collections.abc import Sequence

from dualdiff_jax.hardware import Chip
from dualdiff_jax.planning.hlo import COLLECTIVES as KINDS
from dualdiff_jax.planning.hlo import Program, kind_of_collective
from dualdiff_jax.planning.kernels import sent
from dualdiff_jax.planning.sending import Traffic, traffic_of


def collectives(program: Program, chip: Chip, node_of: Sequence[int] | None = None) -> dict[str, Traffic]:
    """Counts what one call of a program sends.

    Args:
        program: compiled.
        chip: that it is compiled for.
        node_of: the node of each device, in the mesh's order; None puts all devices into one node.

    Returns:
        Kind -> traffic of one device, for the kinds that occur.
    """
    node_of = [0] * program.devices if node_of is None else node_of
    totals: dict[str, Traffic] = {}
    for instruction, runs in sent(program, program.entry or "", chip, node_of):
        kind = kind_of_collective(instruction) or ""
        total = totals.get(kind, Traffic(0, 0, 0.0, 0.0))
        totals[kind] = total.plus(traffic_of(instruction, kind, node_of), runs)
    return {kind: totals[kind] for kind in KINDS if kind in totals}
