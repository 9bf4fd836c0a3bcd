"""The text of a compiled program, as XLA prints it, taken apart into computations and instructions.

A loop's body appears once in the text and runs as often as the loop iterates. XLA for GPUs writes the count next to the
loop; for TPUs it follows from the counter's first value, what an iteration adds to it, and the constant that the loop's
condition compares it with. A first value that the text does not show is taken as 0. Where the condition joins several
comparisons, the one that ends the loop first counts. A loop whose condition reads an array ends when the data say so,
and the text does not tell its count.
"""

import math
import operator
import re
from collections.abc import Iterator
from typing import NamedTuple

_DEVICES = re.compile(r"num_partitions=(\d+)")
_HEADER = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\) -> .* \{$")
_INSTRUCTION = re.compile(r"^\s+(ROOT )?%?([\w.\-]+) = (\(.*?\)|\S+) ([\w\-]+)\(([^)]*)\)?")
_OPERAND = re.compile(r"%([\w.\-]+)")
_ARRAY = re.compile(r"\b(pred|[sufc]\d+|bf16|f[48]e\w+)\[([\d,]*)\](?:\{([^}]*)\})?")
_CALLED = re.compile(r"(?:calls|to_apply|body|async_wrapped|called_computation)=%?([\w.\-]+)")
_BODY = re.compile(r"\bbody=%?([\w.\-]+)")
_BRANCHES = re.compile(r"branch_computations=\{([^}]*)\}|(?:true|false)_computation=%?([\w.\-]+)")
_CONDITION = re.compile(r"\bcondition=%?([\w.\-]+)")
_CONSTANT = re.compile(r"= [su]\d+\[\]\S* constant\((-?\d+)\)")
_DIRECTION = re.compile(r"\bdirection=(LT|LE|GT|GE|NE|EQ)\b")
_MIRRORED = {"LT": "GT", "LE": "GE", "GT": "LT", "GE": "LE", "NE": "NE", "EQ": "EQ"}  # of b and a
_NEGATED = {"LT": "GE", "LE": "GT", "GT": "LE", "GE": "LT", "NE": "EQ", "EQ": "NE"}
_HOLDS = {name: getattr(operator, name.lower()) for name in _NEGATED}
_INDEX = re.compile(r"\bindex=(\d+)")
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')
COLLECTIVES = (
    *("all-gather", "reduce-scatter", "all-reduce", "all-to-all", "collective-permute"),
    *("ragged-all-to-all", "collective-broadcast"),
)
_BITS = re.compile(r"[a-z]+(\d+)")  # at the start of a dtype


class Array(NamedTuple):
    """One array in the type of a result."""

    dtype: str
    dims: tuple[int, ...]
    layout: str

    @property
    def elements(self) -> int:
        return math.prod(self.dims)

    @property
    def bytes(self) -> int:
        bits = _BITS.match(self.dtype)  # a pred has a byte
        return math.ceil(self.elements * (int(bits[1]) if bits else 8) / 8)


class Instruction(NamedTuple):
    """One instruction of a computation."""

    name: str
    result: str  # its type
    operation: str
    operands: tuple[str, ...]  # names
    is_root: bool
    line: str  # the whole of it

    @property
    def arrays(self) -> list[Array]:
        """The arrays of the result; several if it is a tuple."""
        return arrays(self.result)

    @property
    def base(self) -> str:
        """The operation, also where this instruction is its start or its end."""
        return self.operation.removesuffix("-start").removesuffix("-done")

    @property
    def results(self) -> list[Array]:
        """The arrays that it computes. The start of another operation lists its operands before them."""
        lists_operands = self.operation.endswith("-start") and self.result.startswith("((")
        return self.arrays[len(self.operands) :] if lists_operands else self.arrays

    @property
    def called(self) -> list[str]:
        """The computations that run once whenever the instruction does; those of a loop or a conditional do not."""
        return [] if self.operation in ("while", "conditional") else _CALLED.findall(self.line)


Computation = dict[str, Instruction]  # by name, in the text's order


class Program(NamedTuple):
    """A compiled program."""

    computations: dict[str, Computation]
    entry: str | None
    devices: int  # that run it
    unknown_trips: int  # iterations of a loop whose count is known only at run time

    def trips(self, loop: Instruction) -> int:
        """How often a loop iterates."""
        count = self._count(loop)
        return self.unknown_trips if count is None else count

    @property
    def unknown_loops(self) -> int:
        """How many loops the program has whose count the text does not tell."""
        every = (one for computation in self.computations.values() for one in computation.values())
        return sum(one.operation == "while" and self._count(one) is None for one in every)

    def _count(self, loop: Instruction) -> int | None:
        """How often a loop iterates; None where the text does not tell."""
        known = _TRIPS.search(loop.line)
        if known:
            return int(known[1])
        condition = self.computations.get(_CONDITION.findall(loop.line)[0], {})
        constants = {name: int(found[1]) for name, one in condition.items() if (found := _CONSTANT.search(one.line))}
        reads_data = any(
            array.elements > 1 for one in condition.values() if one.operation != "parameter" for array in one.arrays
        )
        if not constants or reads_data:
            return None
        root = next((one for one in condition.values() if one.is_root), None)
        found = list(_comparisons(condition, root, constants))
        if not found:
            counter = next((one for one in condition.values() if one.operation == "get-tuple-element"), None)
            found = [_Comparison("LT", counter, max(constants.values()))]
        counts = [self._passes(loop, comparison) for comparison in found]
        return min((count for count in counts if count is not None), default=None)

    def _passes(self, loop: Instruction, comparison: "_Comparison") -> int | None:
        """How often a comparison of a loop's counter holds before it fails; None where the text does not tell."""
        counter = _INDEX.search(comparison.counter.line) if comparison.counter is not None else None
        index = int(counter[1]) if counter else None
        first, step = self._first(loop, index), self._step(loop, index)
        count = _iterations(comparison.direction, first or 0, comparison.limit, step)
        return count if count or first is not None else None

    def _first(self, loop: Instruction, index: int | None) -> int | None:
        """The first value of a loop's counter; None where the text does not show it."""
        around = next((one for one in self.computations.values() if one.get(loop.name) is loop), {})
        state = around.get(loop.operands[0]) if loop.operands else None
        if state is None or index is None or state.operation != "tuple" or index >= len(state.operands):
            return None
        return _value(around, state.operands[index])

    def _step(self, loop: Instruction, index: int | None) -> int:
        """What an iteration adds to the loop's counter, 1 where the text does not show it; 0 if it is no addition.

        A TPU that takes two pieces of a ring at once adds 2.
        """
        body = self.computations.get(body_of(loop), {})
        root = next((one for one in body.values() if one.is_root and one.operation == "tuple"), None)
        if index is None or root is None or index >= len(root.operands):
            return 1
        added = _copied(body, root.operands[index])
        if added is None or added.operation in ("fusion", "get-tuple-element"):
            return 1
        terms = [value for name in added.operands if (value := _value(body, name)) is not None]
        if added.operation not in ("add", "subtract"):
            return 0
        return (terms[0] if added.operation == "add" else -terms[0]) if terms else 1


class _Comparison(NamedTuple):
    """What keeps a loop running: its counter before, after, or other than a limit."""

    direction: str
    counter: Instruction | None
    limit: int


def _copied(computation: Computation, name: str) -> Instruction | None:
    """An instruction, or what it copies."""
    one = computation.get(name)
    while one is not None and one.operation in ("copy", "bitcast") and one.operands:
        one = computation.get(one.operands[0])
    return one


def _value(computation: Computation, name: str) -> int | None:
    """The number that an instruction, or what it copies, is; None if it is no constant."""
    one = _copied(computation, name)
    found = _CONSTANT.search(one.line) if one is not None else None
    return int(found[1]) if found else None


def _comparisons(
    condition: Computation, one: Instruction | None, constants: dict[str, int], is_negated: bool = False
) -> Iterator[_Comparison]:
    """The comparisons with a constant that all have to hold, so that an instruction of a loop's condition does."""
    if one is None:
        return
    joins = {"copy": False, "bitcast": False, "not": True, "or" if is_negated else "and": False}
    if one.operation in joins:
        for name in one.operands:
            yield from _comparisons(condition, condition.get(name), constants, is_negated ^ joins[one.operation])
    direction = _DIRECTION.search(one.line) if one.operation == "compare" else None
    known = [place for place, name in enumerate(one.operands) if name in constants]
    if direction and len(one.operands) == 2 and len(known) == 1:
        [place] = known
        name = direction[1] if place == 1 else _MIRRORED[direction[1]]
        counter = _copied(condition, one.operands[1 - place])
        yield _Comparison(_NEGATED[name] if is_negated else name, counter, constants[one.operands[place]])


def _iterations(direction: str, first: int, limit: int, step: int) -> int | None:
    """How often a counter that starts at ``first`` passes ``direction`` of ``limit``; None if no step ends that."""
    if not _HOLDS[direction](first, limit):
        return 0
    distance, size = (limit - first, step) if step > 0 else (first - limit, -step)
    if direction == "NE" and step:
        return distance // size if distance > 0 and distance % size == 0 else None
    if direction not in (("LT", "LE") if step > 0 else ("GT", "GE") if step else ()):
        return None
    return -(-distance // size) if direction in ("LT", "GT") else distance // size + 1


def parse(text: str, unknown_trips: int = 1) -> Program:
    """Takes a program apart.

    Args:
        text: of ``jax.stages.Compiled.as_text``.
        unknown_trips: how often a loop iterates whose count is known only at run time.
    """
    computations: dict[str, Computation] = {}
    current, entry, name = None, None, None
    for line in text.splitlines():
        header = _HEADER.match(line)
        if header:
            current, name = computations.setdefault(header[2], {}), None
            entry = header[2] if header[1] else entry
        elif line == "}":
            current, name = None, None
        elif current is None:
            continue
        elif found := _INSTRUCTION.match(line):
            root, name, result, operation, operands = found.groups()
            current[name] = Instruction(name, result, operation, tuple(_OPERAND.findall(operands)), bool(root), line)
        elif name is not None:  # the attributes of a Pallas kernel take several lines
            current[name] = current[name]._replace(line=current[name].line + line)
    devices = _DEVICES.search(text[: text.find("\n")])
    return Program(computations, entry, int(devices[1]) if devices else 1, unknown_trips)


def arrays(result: str) -> list[Array]:
    """The arrays in the text of a type."""
    return [
        Array(dtype, tuple(int(dim) for dim in dims.split(",") if dim), layout)
        for dtype, dims, layout in _ARRAY.findall(result)
    ]


def body_of(loop: Instruction) -> str:
    """The computation that a loop repeats."""
    return _BODY.findall(loop.line)[0]


def branches_of(conditional: Instruction) -> list[str]:
    """The computations of which a conditional runs one."""
    found = (listed or single for listed, single in _BRANCHES.findall(conditional.line))
    return [name.strip().lstrip("%") for names in found for name in names.split(",")]


def kind_of_collective(instruction: Instruction) -> str | None:
    """The kind of a collective, of its start or of its end; None for other instructions."""
    return instruction.base if instruction.base in COLLECTIVES else None


def inside(program: Program, instruction: Instruction) -> Iterator[tuple[Computation, Instruction]]:
    """Every instruction of a fusion, and of the fusions in it, with its computation."""
    for name in instruction.called:
        computation = program.computations.get(name, {})
        for inner in computation.values():
            yield computation, inner
            if inner.operation == "fusion":
                yield from inside(program, inner)
