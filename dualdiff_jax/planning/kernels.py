"""The kernels of a compiled program, in the order in which they run, and the least time that each of them takes.

(1)  on a GPU   max(operations / rate of products, bytes / rate of memory)
(2)  on a TPU   the compiler's estimate in cycles; for an attention kernel, of which the compiler knows nothing, its
                operations at the chip's peak; nothing for copies in the background. What else has no estimate does
                nothing and is no kernel
A kernel in a loop runs as often as the loop iterates. In a conditional, the branch that takes longest counts.
Collectives are not kernels here: ``collectives.py`` counts them.
"""

import re
from collections.abc import Iterator
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
from dualdiff_jax.planning.traffic import BACKGROUND, SLICES, UPDATE, VIEWS, bytes_moved

KINDS = ("products", "attention", "elementwise", "copies")  # what only moves or casts is a copy

# What an H100 was seen to give in large bfloat16 products and copies, of the 989 TFLOP/s and 3.35 TB/s of its data
# sheet. Other GPUs are taken to give the same shares of theirs.
SHARE_OF_FLOPS, SHARE_OF_BANDWIDTH = 790 / 989, 3.0 / 3.35

_CYCLES = re.compile(r'"estimated_cycles":"(\d+)"')
_UNKNOWN_CYCLES = 1 << 60  # what the compiler writes where it has no estimate is beyond
_FREE = (*VIEWS, "parameter", "constant", "tuple", "after-all", "iota", "partition-id", "replica-id", "opt-barrier")
_CALLS = ("while", "conditional", "call", "async-start")  # whose kernels are those of the computations that they call
_MOVES = frozenset(
    (*_FREE, *SLICES, UPDATE, *BACKGROUND, "copy", "transpose", "reshape", "convert", "concatenate", "pad")
    + ("broadcast", "reverse", "fusion", "fusion-start")
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


def kernels(program: Program, chip: Chip) -> list[Kernel]:
    """The kernels of one call of a program.

    Args:
        program: compiled.
        chip: that it is compiled for.
    """
    return [] if program.entry is None else list(_of_computation(program, program.entry, chip))


def longest_branch(program: Program, conditional: Instruction, chip: Chip) -> str:
    """The computation of a conditional whose kernels take longest; empty where the text names none.

    Of two whose kernels take the same time, the one with more collectives.
    """

    def cost(branch: str) -> tuple[float, int]:
        sent = sum(bool(kind_of_collective(one)) for one in program.computations.get(branch, {}).values())
        return sum(kernel.seconds for kernel in _of_computation(program, branch, chip)), sent

    return max(branches_of(conditional), key=cost, default="")


def seconds_of(program: Program, computation: Computation, instruction: Instruction, chip: Chip) -> float:
    """The least time of one execution of an instruction; 0 for a loop, a conditional, a call and what is no kernel."""
    if _is_no_kernel(instruction) or instruction.operation in _CALLS or not _is_timed(instruction, chip):
        return 0.0
    return _kernel(program, computation, instruction, chip).seconds


def _is_no_kernel(instruction: Instruction) -> bool:
    is_end = instruction.operation.endswith("-done")
    return instruction.operation in _FREE or is_end or bool(kind_of_collective(instruction))


def _of_computation(program: Program, name: str, chip: Chip) -> Iterator[Kernel]:
    computation = program.computations.get(name, {})
    for instruction in computation.values():
        operation = instruction.operation
        if _is_no_kernel(instruction):
            continue
        if operation == "while":
            trips = program.trips(instruction)
            yield from (kernel.times(trips) for kernel in _of_computation(program, body_of(instruction), chip))
        elif operation == "conditional":
            yield from _of_computation(program, longest_branch(program, instruction, chip), chip)
        elif operation in _CALLS:
            for called in instruction.called:
                yield from _of_computation(program, called, chip)
        elif _is_timed(instruction, chip):
            yield _kernel(program, computation, instruction, chip)


def _kernel(program: Program, computation: Computation, instruction: Instruction, chip: Chip) -> Kernel:
    flops, moved = operations(program, computation, instruction), bytes_moved(program, computation, instruction)
    kind = _kind(program, instruction, flops)
    flops_rate, bytes_rate = rates(chip)
    if chip.platform != "tpu":
        seconds = max(flops / flops_rate, moved / bytes_rate)
    elif kind == "attention":
        seconds = flops / flops_rate
    else:
        seconds = _cycles(instruction) / chip.clock
    return Kernel(instruction.name, kind, place_of(instruction.line), 1, flops, moved, seconds)


def _is_timed(instruction: Instruction, chip: Chip) -> bool:
    """Whether an instruction is a kernel; a TPU's are those that its compiler gives cycles, attention and copies."""
    is_known = chip.platform != "tpu" or instruction.operation in BACKGROUND
    return is_known or bool(_cycles(instruction)) or bool(attention_products(instruction))


def _cycles(instruction: Instruction) -> int:
    """The compiler's estimate; 0 without one."""
    found = _CYCLES.search(instruction.line)
    return int(found[1]) if found and int(found[1]) < _UNKNOWN_CYCLES else 0


def _kind(program: Program, instruction: Instruction, flops: float) -> str:
    if attention_products(instruction):
        return "attention"
    if flops or is_gemm(instruction) or is_library_convolution(instruction):
        return "products"
    parts = [instruction, *(inner for _, inner in inside(program, instruction))]
    work = (part for part in parts if any(array.elements > 1 for array in part.arrays))  # not an index's arithmetic
    return "copies" if all(part.operation in _MOVES for part in work) else "elementwise"
