"""The text of a compiled program, as XLA prints it, taken apart into computations and instructions.

A loop's body appears once in the text and runs as often as the loop iterates. XLA for GPUs writes the count next to the
loop; for TPUs it is the constant of the loop's condition. A loop whose condition reads an array ends when the data say
so, and the text does not tell its count.
"""

import math
import re
from collections.abc import Iterator
from typing import NamedTuple

_DEVICES = re.compile(r"num_partitions=(\d+)")
_HEADER = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\) -> .* \{$")
_INSTRUCTION = re.compile(r"^\s+(ROOT )?%?([\w.\-]+) = (\(.*?\)|\S+) ([\w\-]+)\(([^)]*)\)?")
_OPERAND = re.compile(r"%([\w.\-]+)")
_ARRAY = re.compile(r"\b(pred|[suf]\d+|bf16|f8\w+)\[([\d,]*)\](?:\{([^}]*)\})?")
_CALLED = re.compile(r"(?:calls|to_apply|body|async_wrapped|called_computation)=%?([\w.\-]+)")
_BODY = re.compile(r"\bbody=%?([\w.\-]+)")
_BRANCHES = re.compile(r"branch_computations=\{([^}]*)\}|(?:true|false)_computation=%?([\w.\-]+)")
_CONDITION = re.compile(r"\bcondition=%?([\w.\-]+)")
_LIMIT = re.compile(r"= [su]32\[\]\S* constant\((\d+)\)")
_INDEX = re.compile(r"\bindex=(\d+)")
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')
_WIDTH = {"pred": 1.0, "bf16": 2.0}


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
        width = _WIDTH.get(self.dtype) or (1 if self.dtype.startswith("f8") else int(self.dtype[1:]) / 8)
        return math.ceil(self.elements * width)


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
        known = _TRIPS.search(loop.line)
        if known:
            return int(known[1])
        condition = list(self.computations.get(_CONDITION.findall(loop.line)[0], {}).values())
        limits = [int(limit) for instruction in condition for limit in _LIMIT.findall(instruction.line)]
        reads_data = any(
            array.elements > 1
            for instruction in condition
            if instruction.operation != "parameter"
            for array in instruction.arrays
        )
        return -(-max(limits) // self._step(loop, condition)) if limits and not reads_data else self.unknown_trips

    def _step(self, loop: Instruction, condition: list[Instruction]) -> int:
        """What an iteration adds to the loop's counter: 2 where a TPU takes two pieces of a ring at once; else 1."""
        counter = next((_INDEX.findall(one.line) for one in condition if one.operation == "get-tuple-element"), [])
        body = self.computations.get(body_of(loop), {})
        root = next((one for one in body.values() if one.is_root and one.operation == "tuple"), None)
        if not counter or root is None or int(counter[0]) >= len(root.operands):
            return 1
        added = body.get(root.operands[int(counter[0])])
        terms = [body[name].line for name in added.operands if name in body] if added else []
        steps = [int(step) for line in terms for step in _LIMIT.findall(line)]
        return max(steps, default=1) or 1


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


def inside(program: Program, instruction: Instruction) -> Iterator[tuple[Computation, Instruction]]:
    """Every instruction of a fusion, and of the fusions in it, with its computation."""
    for name in instruction.called:
        computation = program.computations.get(name, {})
        for inner in computation.values():
            yield computation, inner
            if inner.operation == "fusion":
                yield from inside(program, inner)
