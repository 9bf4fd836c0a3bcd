"""The collectives of a compiled program, read from its text.

A loop's trip count multiplies what is inside, also through nested loops. Where a TPU communicates while it computes,
one collective appears in several fusions, all with its channel, and is counted once.
Over several dimensions of a slice's torus, XLA for TPUs turns reduce-scatters, and on a v5p gathers, into all-reduces
that use all links at once; they are counted as all-reduces.
"""

import re
from collections import defaultdict
from collections.abc import Sequence
from typing import NamedTuple

from dualdiff_jax.planning.groups import bytes_sent, first_group, is_across
from dualdiff_jax.planning.hlo import Instruction, Program, arrays, body_of

KINDS = ("all-gather", "reduce-scatter", "all-reduce", "all-to-all", "collective-permute")
_CHANNEL = re.compile(r"channel_id=(\d+)")
_CONTEXT = re.compile(r", u32\[\](\{[^}]*\})?")  # results of a TPU's collective-permute-start that are no data
IN_PIECES = "async_collective_fusion_config"  # in the line of a collective that fusions send while they compute


class Traffic(NamedTuple):
    """The collectives of one kind, on one device, in one call of a program."""

    count: int  # executions
    bytes: int  # of their results
    moved: float  # bytes that the device sends for them, a lower bound
    across: float  # those of ``moved`` that go to other nodes

    def plus(self, other: "Traffic", times: int) -> "Traffic":
        """The sum of this and ``times`` executions of ``other``."""
        return Traffic(
            self.count + times * other.count,
            self.bytes + times * other.bytes,
            self.moved + times * other.moved,
            self.across + times * other.across,
        )


def collectives(program: Program, node_of: Sequence[int] | None = None) -> dict[str, Traffic]:
    """Counts what one call of a program sends.

    Args:
        program: compiled.
        node_of: the node of each device, in the mesh's order; None puts all devices into one node.

    Returns:
        Kind -> traffic of one device, for the kinds that occur.
    """
    node_of = [0] * program.devices if node_of is None else node_of
    runs_of: dict[str, int] = defaultdict(int)
    _count_runs(program.entry, 1, program, runs_of)
    totals: dict[str, Traffic] = {}
    counted_channels: set[str] = set()  # of collectives in several fusions
    for name, runs in sorted(runs_of.items(), key=lambda item: -item[1]):
        for instruction in program.computations[name].values():
            kind = kind_of_collective(instruction)
            if kind is None or instruction.operation.endswith("-done"):
                continue
            channel = channel_of(instruction)
            if channel and IN_PIECES in instruction.line:
                if channel in counted_channels:
                    continue
                counted_channels.add(channel)
            total = totals.get(kind, Traffic(0, 0, 0.0, 0.0))
            totals[kind] = total.plus(traffic_of(instruction, kind, node_of), runs)
    return {kind: totals[kind] for kind in KINDS if kind in totals}


def kind_of_collective(instruction: Instruction) -> str | None:
    """The kind of a collective, of its start or of its end; None for other instructions."""
    kind = instruction.operation.removesuffix("-start").removesuffix("-done")
    return kind if kind in KINDS else None


def channel_of(collective: Instruction) -> str:
    """What the pieces of one collective have in common; empty where the text names none."""
    found = _CHANNEL.search(collective.line)
    return found[1] if found else ""


def traffic_of(instruction: Instruction, kind: str, node_of: Sequence[int]) -> Traffic:
    """The traffic of one instruction that runs once."""
    result, is_start = instruction.result, instruction.operation.endswith("-start")
    size = _bytes(result, has_operands=is_start and (kind != "all-reduce" or result.startswith("((")))
    if kind == "collective-permute":
        return Traffic(1, size, size, size if is_across(instruction.line, node_of) else 0)
    return Traffic(1, size, *bytes_sent(kind, size, first_group(instruction.line, len(node_of)), node_of))


def _count_runs(name: str | None, runs: int, program: Program, runs_of: dict[str, int]) -> None:
    """Adds ``runs`` executions of a computation, and of all that it calls, to ``runs_of``."""
    if name not in program.computations:
        return
    runs_of[name] += runs
    for instruction in program.computations[name].values():
        for called in instruction.called:
            _count_runs(called, runs, program, runs_of)
        if instruction.operation == "while":
            _count_runs(body_of(instruction), runs * program.trips(instruction), program, runs_of)


def _bytes(result: str, has_operands: bool) -> int:
    """Bytes of the arrays in a result type. An asynchronous start lists its operands before its results."""
    sizes = [array.bytes for array in arrays(_CONTEXT.sub("", result))]
    return sum(sizes[len(sizes) // 2 :]) if has_operands else sum(sizes)
