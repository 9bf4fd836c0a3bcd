"""How much of a program's communication its computation hides, by the order in which the compiler has put both.

A device computes its kernels one after the other, and sends its collectives one after the other, beside them. Its two
clocks follow the program's order:
(1)  a kernel              computed += seconds of the kernel
(2)  a collective starts   sent = max(sent, computed) + seconds of the collective
(3)  its end is awaited    alone += max(0, its sent - computed);  computed = max(computed, its sent)
A collective without a start of its own is awaited where it stands. One that a TPU sends during a fusion starts before
it and is awaited after it; where it is sent in pieces, before the first fusion and after the last. A collective takes
its bytes at the data sheet's rate of the links that they pass, so what is alone is a lower bound: starts, congestion
and waiting for other devices come on top.
"""

from collections import defaultdict
from collections.abc import Sequence

from dualdiff_jax.hardware import Chip
from dualdiff_jax.planning.collectives import IN_PIECES, KINDS, channel_of, kind_of_collective, traffic_of
from dualdiff_jax.planning.hlo import Computation, Instruction, Program, body_of, branches_of, inside
from dualdiff_jax.planning.kernels import seconds_of

Waiting = dict[str, dict[str, float]]


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

    def run(self, name: str, times: int) -> None:
        """One execution of a computation, whose sums count ``times``."""
        computation = self.program.computations.get(name, {})
        pieces = {one.name: self._pieces(one) for one in computation.values()}
        last = {channel: one for one, found in pieces.items() for channel in found}
        started: dict[str, tuple[str, float]] = {}  # start or channel -> kind, when it has been sent
        for instruction in computation.values():
            for channel, piece in pieces[instruction.name].items():
                if channel not in started:
                    started[channel] = self._start(piece, times)
            self._execute(computation, instruction, started, times)
            for channel in pieces[instruction.name]:
                if last[channel] == instruction.name:
                    self._wait(*started[channel], times)

    def _execute(
        self, computation: Computation, instruction: Instruction, started: dict[str, tuple[str, float]], times: int
    ) -> None:
        kind, operation = kind_of_collective(instruction), instruction.operation
        if kind and operation.endswith("-done"):
            awaited = next((started[name] for name in instruction.operands if name in started), None)
            if awaited is not None:
                self._wait(*awaited, times)
        elif kind:
            started[instruction.name] = self._start(instruction, times)
            if not operation.endswith("-start"):
                self._wait(*started[instruction.name], times)
        elif operation == "while":
            self._loop(body_of(instruction), times, self.program.trips(instruction))
        elif operation == "conditional":
            branches = branches_of(instruction)
            if branches:
                self.run(max(branches, key=lambda branch: self._length(branch)), times)
        elif operation in ("call", "async-start"):
            for called in instruction.called:
                self.run(called, times)
        else:
            self.computed += seconds_of(self.program, computation, instruction, self.chip)

    def _loop(self, body: str, times: int, trips: int) -> None:
        """Follows the first iteration, which may queue behind what is under way, and one that stands for the rest."""
        if trips:
            self.run(body, times)
        if trips > 1:
            before, seconds = self.computed, self.sent
            self.run(body, times * (trips - 1))
            self.sent += (trips - 2) * (self.computed - before) if self.sent > seconds else 0.0
            self.computed += (trips - 2) * (self.computed - before)

    def _length(self, name: str) -> float:
        """Seconds that a computation takes by its kernels alone."""
        alone = _Clocks(self.program, self.chip, self.node_of)
        alone.run(name, 1)
        return alone.computed

    def _pieces(self, instruction: Instruction) -> dict[str, Instruction]:
        """Collectives that a fusion sends while it computes, whole or a piece of them, by what their pieces share."""
        if instruction.operation != "fusion" or not instruction.called:
            return {}
        found = (inner for _, inner in inside(self.program, instruction) if kind_of_collective(inner))
        return {
            channel_of(inner) if IN_PIECES in inner.line else f"{instruction.name}/{inner.name}": inner
            for inner in found
        }

    def _start(self, collective: Instruction, times: int) -> tuple[str, float]:
        kind = kind_of_collective(collective) or ""
        traffic = traffic_of(collective, kind, self.node_of)
        seconds = self.chip.network.seconds(traffic.moved, traffic.across)
        self.seconds[kind] += times * seconds
        self.sent = max(self.sent, self.computed) + seconds
        return kind, self.sent

    def _wait(self, kind: str, sent: float, times: int) -> None:
        self.alone[kind] += times * max(0.0, sent - self.computed)
        self.computed = max(self.computed, sent)
