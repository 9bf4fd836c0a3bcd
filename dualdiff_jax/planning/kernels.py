"""The kernels of a compiled program, in the order in which they run, and the least time that each of them takes.

(1)  on a GPU   max(operations / rate of products, bytes / rate of memory)
(2)  on a TPU   the compiler's estimate in cycles; for an attention kernel, of which the compiler knows nothing, its
                operations at the chip's peak; nothing for copies in the background; (1) for what else has no estimate,
                such as a sort. Single numbers, fusions that send and other custom calls, which have none either, are
                no kernels
A kernel in a loop runs as often as the loop iterates. In a conditional, the branch counts whose kernels and collectives
take longest, one after the other. Collectives are not kernels here: ``collectives.py`` counts them.
"""

import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from dualdiff_jax.hardware import Chip
from dualdiff_jax.planning.hlo import (
    Computation,
    Instruction,
    Program,
    body_of,
    branches_of,
    inside,
    kind_of_collective,
)
from dualdiff_jax.planning.operations import attention_products, is_gemm, is_library_convolution, operations
from dualdiff_jax.planning.places import place_of
from dualdiff_jax.planning.sending import is_fusion, seconds_to_send, steps
from dualdiff_jax.planning.traffic import BACKGROUND, SLICES, VIEWS, bytes_moved

KINDS = ("products", "attention", "elementwise", "copies")  # what only moves or casts is a copy

# What an H100 was seen to give in large bfloat16 products and copies, of the 989 TFLOP/s and 3.35 TB/s of its data
# sheet. Other GPUs are taken to give the same shares of theirs.
SHARE_OF_FLOPS, SHARE_OF_BANDWIDTH = 790 / 989, 3.0 / 3.35

_CYCLES = re.compile(r'"estimated_cycles":"(\d+)"')
_UNKNOWN_CYCLES = 1 << 60  # what the compiler writes where it has no estimate is beyond
_FREE = (*VIEWS, "parameter", "constant", "tuple", "after-all", "iota", "partition-id", "replica-id", "opt-barrier")
_CALLS = ("while", "conditional", "call", "async-start")  # whose kernels are those of the computations that they call
_MOVES = frozenset(
    (*_FREE, *SLICES, *BACKGROUND, "dynamic-update-slice", "copy", "transpose", "reshape", "convert", "concatenate")
    + ("pad", "broadcast", "reverse", "fusion", "fusion-start")
)


class Kernel(NamedTuple):
    """One kernel, over all of its executions on one device."""

    name: str
    kind: str  # one of ``KINDS``
    place: str
    runs: int
    operations: float
    bytes: float
    seconds: float

    def times(self, count: int) -> "Kernel":
        """This kernel in a loop that iterates ``count`` times."""
        totals = (count * self.operations, count * self.bytes, count * self.seconds)
        return Kernel(self.name, self.kind, self.place, count * self.runs, *totals)


def rates(chip: Chip) -> tuple[float, float]:
    """(operations per second of products, bytes per second of memory) that a program is taken to reach."""
    shares = (SHARE_OF_FLOPS, SHARE_OF_BANDWIDTH) if chip.platform == "gpu" else (1.0, 1.0)
    return shares[0] * chip.flops, shares[1] * chip.bandwidth


def kernels(program: Program, chip: Chip, node_of: Sequence[int] | None = None) -> list[Kernel]:
    """The kernels of one call of a program.

    Args:
        program: compiled.
        chip: that it is compiled for.
        node_of: the node of each device, in the mesh's order; None puts all devices into one node.
    """
    node_of = [0] * program.devices if node_of is None else node_of
    return list(_of_computation(program, program.entry or "", chip, node_of))


def sent(
    program: Program,
    name: str,
    chip: Chip,
    node_of: Sequence[int],
    runs: int = 1,
    under_way: frozenset[str] = frozenset(),
) -> Iterator[tuple[Instruction, int]]:
    """The collectives that ``runs`` executions of a computation start, and how often.

    Args:
        program: compiled.
        name: of the computation.
        chip: that the program is compiled for.
        node_of: the node of each device, in the mesh's order.
        runs: executions of the computation.
        under_way: collectives that an outer computation has started and not ended.
    """
    for step in steps(program, name, under_way):
        instruction = step.instruction
        yield from ((piece, runs) for piece in step.starts.values())
        called = [] if is_fusion(instruction) else [(inner, runs) for inner in instruction.called]
        if kind_of_collective(instruction):
            called = []
            if not instruction.operation.endswith("-done"):
                yield instruction, runs
        elif instruction.operation == "while":
            called = [(body_of(instruction), runs * program.trips(instruction))]
        elif instruction.operation == "conditional":
            called = [(longest_branch(program, instruction, chip, node_of), runs)]
        for inner, times in called:
            yield from sent(program, inner, chip, node_of, times, step.under_way)


def longest_branch(program: Program, conditional: Instruction, chip: Chip, node_of: Sequence[int]) -> str:
    """The computation of a conditional whose kernels and collectives take longest; empty where the text names none."""

    def cost(branch: str) -> float:
        computed = sum(kernel.seconds for kernel in _of_computation(program, branch, chip, node_of))
        found = sent(program, branch, chip, node_of)
        return computed + sum(runs * seconds_to_send(collective, chip, node_of) for collective, runs in found)

    return max(branches_of(conditional), key=cost, default="")


def seconds_of(program: Program, computation: Computation, instruction: Instruction, chip: Chip) -> float:
    """The least time of one execution of an instruction; 0 for a loop, a conditional, a call and what is no kernel."""
    if _is_no_kernel(instruction) or instruction.operation in _CALLS or not _is_timed(program, instruction, chip):
        return 0.0
    return _kernel(program, computation, instruction, chip).seconds


def _is_no_kernel(instruction: Instruction) -> bool:
    is_end = instruction.operation.endswith("-done")
    return instruction.operation in _FREE or is_end or bool(kind_of_collective(instruction))


def _of_computation(program: Program, name: str, chip: Chip, node_of: Sequence[int]) -> Iterator[Kernel]:
    computation = program.computations.get(name, {})
    for instruction in computation.values():
        operation = instruction.operation
        if _is_no_kernel(instruction):
            continue
        if operation == "while":
            trips = program.trips(instruction)
            inner = _of_computation(program, body_of(instruction), chip, node_of)
            yield from (kernel.times(trips) for kernel in inner)
        elif operation == "conditional":
            branch = longest_branch(program, instruction, chip, node_of)
            yield from _of_computation(program, branch, chip, node_of)
        elif operation in _CALLS:
            for called in instruction.called:
                yield from _of_computation(program, called, chip, node_of)
        elif _is_timed(program, instruction, chip):
            yield _kernel(program, computation, instruction, chip)


def _kernel(program: Program, computation: Computation, instruction: Instruction, chip: Chip) -> Kernel:
    flops, moved = operations(program, computation, instruction), bytes_moved(program, computation, instruction)
    kind = _kind(program, computation, instruction, flops)
    flops_rate, bytes_rate = rates(chip)
    seconds = max(flops / flops_rate, moved / bytes_rate)
    if chip.platform == "tpu" and kind == "attention":
        seconds = flops / flops_rate
    elif chip.platform == "tpu" and instruction.operation in BACKGROUND:
        seconds = 0.0
    elif chip.platform == "tpu":
        seconds = _cycles(instruction) / chip.clock or seconds
    return Kernel(instruction.name, kind, place_of(instruction.line), 1, flops, moved, seconds)


def _is_timed(program: Program, instruction: Instruction, chip: Chip) -> bool:
    """Whether an instruction is a kernel. Equation (2) says what of a TPU's is none."""
    is_known = chip.platform != "tpu" or instruction.operation in BACKGROUND
    if is_known or _cycles(instruction) or attention_products(instruction):
        return True
    sends = any(kind_of_collective(inner) for _, inner in inside(program, instruction))
    return not sends and instruction.base != "custom-call" and any(array.elements > 1 for array in instruction.arrays)


def _cycles(instruction: Instruction) -> int:
    """The compiler's estimate; 0 without one."""
    found = _CYCLES.search(instruction.line)
    return int(found[1]) if found and int(found[1]) < _UNKNOWN_CYCLES else 0


def _kind(program: Program, computation: Computation, instruction: Instruction, flops: float) -> str:
    if attention_products(instruction):
        return "attention"
    if flops or is_gemm(instruction) or is_library_convolution(instruction):
        return "products"
    parts = [(computation, instruction), *inside(program, instruction)]
    work = (part for there, part in parts if _has_several(there, part))  # not an index's arithmetic
    return "copies" if all(part.operation in _MOVES for part in work) else "elementwise"


def _has_several(computation: Computation, instruction: Instruction) -> bool:
    """Whether it computes or takes an array of several numbers."""
    taken = (computation[name] for name in instruction.operands if name in computation)
    return any(array.elements > 1 for one in (instruction, *taken) for array in one.arrays)
