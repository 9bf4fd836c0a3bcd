"""How much of a program's communication its computation hides, by the order in which the compiler has put both.

A device computes its kernels one after the other, and sends its collectives one after the other, beside them. Its two
clocks follow the program's order:
(1)  a kernel              computed += seconds of the kernel
(2)  a collective starts   sent = max(sent, computed) + seconds of the collective
(3)  its end is awaited    alone += max(0, its sent - computed);  computed = max(computed, its sent)
A collective without a start of its own is awaited where it stands; those in the computation of an ``async-start`` start
with it and are awaited at its end. One that a TPU sends during a fusion starts before it and is awaited after it; where
it is sent in pieces, before the first fusion and after the last, also where loops between the two send pieces. In a
conditional, the branch that takes longest counts. A collective takes its bytes at the data sheet's rate of the links
that they pass, so what is alone is a lower bound: starts, congestion and waiting for other devices come on top.
"""

from collections import defaultdict
from collections.abc import Sequence

from dualdiff_jax.hardware import Chip
from dualdiff_jax.planning.hlo import COLLECTIVES as KINDS
from dualdiff_jax.planning.hlo import Computation, Instruction, Program, body_of, kind_of_collective
from dualdiff_jax.planning.kernels import longest_branch, seconds_of
from dualdiff_jax.planning.sending import Step, seconds_to_send, steps

Waiting = dict[str, dict[str, float]]
_Started = dict[str, list[tuple[str, float]]]  # what starts collectives -> their kinds, and when each has been sent


def waiting(program: Program, chip: Chip, node_of: Sequence[int] | None = None) -> Waiting:
    """The time of the collectives of one call of a program, and how much of it no computation hides.

    Args:
        program: compiled.
        chip: that it is compiled for.
        node_of: the node of each device, in the mesh's order; None puts all devices into one node.

    Returns:
        Kind -> ``seconds`` and ``alone`` of one device, for the kinds that occur, as JSON can hold them. One that is
        queued behind others is awaited for longer than it is sent, so its ``alone`` may exceed its ``seconds``.
    """
    clocks = _Clocks(program, chip, [0] * program.devices if node_of is None else node_of)
    if program.entry is not None:
        clocks.run(program.entry, 1)
    return {
        kind: {"seconds": clocks.seconds[kind], "alone": clocks.alone[kind]} for kind in KINDS if clocks.seconds[kind]
    }


def lines(found: Waiting) -> list[str]:
    """What ``waiting`` finds, as lines of a page for people."""
    rows = [*found.items(), ("total", {key: sum(row[key] for row in found.values()) for key in ("seconds", "alone")})]
    head = "time of one device's collectives, ms (data sheet rates), and how much of it no computation hides"
    return [head, *(f"  {kind:<20}{1e3 * row['seconds']:>10.2f}{1e3 * row['alone']:>10.2f}" for kind, row in rows)]


class _Clocks:
    """The two clocks, and the sums over all executions so far."""

    def __init__(self, program: Program, chip: Chip, node_of: Sequence[int]):
        self.program, self.chip, self.node_of = program, chip, node_of
        self.computed = self.sent = 0.0
        self.seconds: dict[str, float] = defaultdict(float)
        self.alone: dict[str, float] = defaultdict(float)

    def run(self, name: str, times: int, under_way: frozenset[str] = frozenset()) -> None:
        """One execution of a computation, whose sums count ``times``; ``under_way`` as for ``steps``."""
        computation = self.program.computations.get(name, {})
        started: _Started = {}
        for step in steps(self.program, name, under_way):
            for collective, piece in step.starts.items():
                started[collective] = [self._start(piece, times)]
            self._execute(computation, step, started, times)
            for collective in step.ends:
                self._wait(started[collective], times)

    def _execute(self, computation: Computation, step: Step, started: _Started, times: int) -> None:
        instruction, under_way = step.instruction, step.under_way
        kind, operation = kind_of_collective(instruction), instruction.operation
        if operation.endswith("-done"):
            self._wait([one for name in instruction.operands for one in started.get(name, ())], times)
        elif kind:
            started[instruction.name] = [self._start(instruction, times)]
            if not operation.endswith("-start"):
                self._wait(started[instruction.name], times)
        elif group := self._group(instruction):
            started[instruction.name] = [self._start(one, times) for one in group]
        elif operation == "while":
            self._loop(body_of(instruction), times, self.program.trips(instruction), under_way)
        elif operation == "conditional":
            self.run(longest_branch(self.program, instruction, self.chip, self.node_of), times, under_way)
        elif operation in ("call", "async-start"):
            for called in instruction.called:
                self.run(called, times, under_way)
        else:
            self.computed += seconds_of(self.program, computation, instruction, self.chip)

    def _group(self, start: Instruction) -> list[Instruction]:
        """The collectives that an instruction starts together."""
        called = start.called if start.operation == "async-start" else ()
        inner = (one for name in called for one in self.program.computations.get(name, {}).values())
        return [one for one in inner if kind_of_collective(one)]

    def _loop(self, body: str, times: int, trips: int, under_way: frozenset[str]) -> None:
        """Follows the first iteration, which may queue behind what is under way, and one that stands for the rest."""
        if trips:
            self.run(body, times, under_way)
        if trips > 1:
            before, seconds = self.computed, self.sent
            self.run(body, times * (trips - 1), under_way)
            self.sent += (trips - 2) * (self.computed - before) if self.sent > seconds else 0.0
            self.computed += (trips - 2) * (self.computed - before)

    def _start(self, collective: Instruction, times: int) -> tuple[str, float]:
        kind = kind_of_collective(collective) or ""
        seconds = seconds_to_send(collective, self.chip, self.node_of)
        self.seconds[kind] += times * seconds
        self.sent = max(self.sent, self.computed) + seconds
        return kind, self.sent

    def _wait(self, collectives: Sequence[tuple[str, float]], times: int) -> None:
        for kind, sent in collectives:
            self.alone[kind] += times * max(0.0, sent - self.computed)
            self.computed = max(self.computed, sent)
