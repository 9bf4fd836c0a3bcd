"""What one collective sends, and where it starts and ends.

Where a TPU communicates while it computes, one collective appears in several fusions, all with its channel. It starts
with the first of them in a computation and ends with the last; what the loops between them send of it are pieces.
"""

import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from dualdiff_jax.hardware import Chip
from dualdiff_jax.planning.groups import bytes_sent, first_group, is_across
from dualdiff_jax.planning.hlo import Computation, Instruction, Program, arrays, inside, kind_of_collective

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


def traffic_of(instruction: Instruction, kind: str, node_of: Sequence[int]) -> Traffic:
    """The traffic of one instruction that runs once."""
    result, is_start = instruction.result, instruction.operation.endswith("-start")
    size = _bytes(result, has_operands=is_start and (kind != "all-reduce" or result.startswith("((")))
    if kind == "collective-permute":
        return Traffic(1, size, size, size if is_across(instruction.line, node_of) else 0)
    return Traffic(1, size, *bytes_sent(kind, size, first_group(instruction.line, len(node_of)), node_of))


def seconds_to_send(collective: Instruction, chip: Chip, node_of: Sequence[int]) -> float:
    """The time of one execution of a collective, at the data sheet's rate of the links."""
    traffic = traffic_of(collective, kind_of_collective(collective) or "", node_of)
    return chip.network.seconds(traffic.moved, traffic.across)


def is_fusion(instruction: Instruction) -> bool:
    """Whether it is a fusion, or the start of one."""
    return instruction.operation in ("fusion", "fusion-start")


def _pieces(program: Program, instruction: Instruction) -> dict[str, Instruction]:
    """Collectives that a fusion sends while it computes, whole or a piece of them, by what their pieces share."""
    if not is_fusion(instruction):
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
