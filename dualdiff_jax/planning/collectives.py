"""The collectives of a compiled program, read from its text.

A loop's trip count multiplies what is inside, also through nested loops. Where a TPU communicates while it computes,
one collective appears in several fusions, all with its channel. It starts with the first of them in a computation and
ends with the last; what the loops between them send of it are pieces, so it counts once. In a conditional, the branch
that takes longest counts.
Over several dimensions of a slice's torus, XLA for TPUs turns reduce-scatters, and on a v5p gathers, into all-reduces
that use all links at once; they are counted as all-reduces.
"""

import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from dualdiff_jax.hardware import Chip
from dualdiff_jax.planning.groups import bytes_sent, first_group, is_across
from dualdiff_jax.planning.hlo import COLLECTIVES as KINDS
from dualdiff_jax.planning.hlo import Computation, Instruction, Program, arrays, body_of, inside, kind_of_collective
from dualdiff_jax.planning.kernels import longest_branch

_CHANNEL = re.compile(r"channel_id=(\d+)")
_CONTEXT = re.compile(r", u32\[\](\{[^}]*\})?")  # results of a TPU's collective-permute-start that are no data
_IN_PIECES = "async_collective_fusion_config"  # in the line of a collective that fusions send while they compute


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


class Step(NamedTuple):
    """An instruction, and the collectives that start and end around it because fusions send them."""

    instruction: Instruction
    starts: dict[str, Instruction]  # before it: name of a collective -> a piece of it
    ends: list[str]  # after it
    under_way: frozenset[str]  # names of those that are sent beside it


def steps(program: Program, name: str, under_way: frozenset[str]) -> Iterator[Step]:
    """The instructions of a computation in their order.

    Args:
        program: compiled.
        name: of the computation.
        under_way: collectives that an outer computation has started and not ended.
    """
    computation: Computation = program.computations.get(name, {})
    pieces = {one.name: _pieces(program, one) for one in computation.values()}
    last = {collective: one for one, found in pieces.items() for collective in found if collective not in under_way}
    for one in computation.values():
        starts = {collective: piece for collective, piece in pieces[one.name].items() if collective not in under_way}
        under_way |= starts.keys()
        ends = [collective for collective in pieces[one.name] if last.get(collective) == one.name]
        yield Step(one, starts, ends, under_way)
        under_way -= set(ends)


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
    for instruction, runs in _sent(program, chip, program.entry, 1, frozenset()):
        kind = kind_of_collective(instruction) or ""
        total = totals.get(kind, Traffic(0, 0, 0.0, 0.0))
        totals[kind] = total.plus(traffic_of(instruction, kind, node_of), runs)
    return {kind: totals[kind] for kind in KINDS if kind in totals}


def traffic_of(instruction: Instruction, kind: str, node_of: Sequence[int]) -> Traffic:
    """The traffic of one instruction that runs once."""
    result, is_start = instruction.result, instruction.operation.endswith("-start")
    size = _bytes(result, has_operands=is_start and (kind != "all-reduce" or result.startswith("((")))
    if kind == "collective-permute":
        return Traffic(1, size, size, size if is_across(instruction.line, node_of) else 0)
    return Traffic(1, size, *bytes_sent(kind, size, first_group(instruction.line, len(node_of)), node_of))


def _sent(
    program: Program, chip: Chip, name: str | None, runs: int, under_way: frozenset[str]
) -> Iterator[tuple[Instruction, int]]:
    """The collectives that ``runs`` executions of a computation start, and how often."""
    for step in steps(program, name or "", under_way):
        instruction = step.instruction
        yield from ((piece, runs) for piece in step.starts.values())
        called = [] if _is_fusion(instruction) else [(name, runs) for name in instruction.called]
        if kind_of_collective(instruction):
            called = []
            if not instruction.operation.endswith("-done"):
                yield instruction, runs
        elif instruction.operation == "while":
            called = [(body_of(instruction), runs * program.trips(instruction))]
        elif instruction.operation == "conditional":
            called = [(longest_branch(program, instruction, chip), runs)]
        for inner, times in called:
            yield from _sent(program, chip, inner, times, step.under_way)


def _is_fusion(instruction: Instruction) -> bool:
    return instruction.operation in ("fusion", "fusion-start")


def _pieces(program: Program, instruction: Instruction) -> dict[str, Instruction]:
    """Collectives that a fusion sends while it computes, whole or a piece of them, by what their pieces share."""
    if not _is_fusion(instruction):
        return {}
    found = (inner for _, inner in inside(program, instruction) if kind_of_collective(inner))
    return {_shared_name(instruction, inner): inner for inner in found}


def _shared_name(fusion: Instruction, inner: Instruction) -> str:
    channel = _CHANNEL.search(inner.line)
    return channel[1] if channel and _IN_PIECES in inner.line else f"{fusion.name}/{inner.name}"


def _bytes(result: str, has_operands: bool) -> int:
    """Bytes of the arrays in a result type. An asynchronous start lists its operands before its results."""
    sizes = [array.bytes for array in arrays(_CONTEXT.sub("", result))]
    return sum(sizes[len(sizes) // 2 :]) if has_operands else sum(sizes)
