"""Bytes that the instructions of a compiled program read from a device's memory and write to it.

An instruction reads its operands and writes its result. What is fused stays in registers, so a fusion reads its
parameters and writes its root. Three exceptions: of an operand that is only sliced, the slices are read; an update in
place writes the update alone; and arrays in a TPU's fast memory, S(1) in a layout, do not count.
"""

from collections import defaultdict
from collections.abc import Iterable

from dualdiff_jax.planning.hlo import Array, Computation, Instruction, Program
from dualdiff_jax.planning.operations import is_gemm, is_library_convolution

SLICES = ("dynamic-slice", "slice", "gather")
UPDATE = "dynamic-update-slice"
VIEWS = ("bitcast", "get-tuple-element")
BACKGROUND = ("copy-start", "slice-start", "dynamic-slice-start")  # on a TPU, beside what computes


def bytes_moved(program: Program, computation: Computation, instruction: Instruction) -> int:
    """Bytes that one execution of an instruction reads and writes.

    Args:
        program: that it is part of.
        computation: that it is part of.
        instruction: neither a loop nor a conditional.
    """
    fused = [program.computations[name] for name in instruction.called if name in program.computations]
    if fused and instruction.operation.removesuffix("-start") == "fusion":
        return sum(_of_fusion(program, body) for body in fused)
    operands = [_size(computation[name].arrays) for name in instruction.operands if name in computation]
    if instruction.operation in SLICES:
        return 2 * _size(instruction.arrays)
    if instruction.operation == UPDATE:
        return 2 * operands[1]
    if instruction.operation in BACKGROUND:  # two arrays, and a context, which is no data
        return _in_background(instruction)
    results = instruction.arrays
    if is_gemm(instruction) or is_library_convolution(instruction):
        results = results[:1]  # without the library's workspace
    return _size(results) + sum(operands)


def _size(arrays: Iterable[Array]) -> int:
    return sum(array.bytes for array in arrays if "S(1)" not in array.layout)


def _in_background(start: Instruction) -> int:
    """Bytes of a copy, whose result lists target and source, or of a slice, which lists source and target."""
    one, other = start.arrays[:2]
    moved = min(one.bytes, other.bytes)
    return moved * sum(_size([array]) > 0 for array in (one, other))


def _of_fusion(program: Program, body: Computation) -> int:
    root = next(instruction for instruction in body.values() if instruction.is_root)
    results = [body[name] for name in root.operands] if root.operation == "tuple" else [root]
    parameters = (instruction for instruction in body.values() if instruction.operation == "parameter")
    users = _users(body)
    return sum(_read(program, users, one) for one in parameters) + sum(_written(body, one) for one in results)


def _users(body: Computation) -> dict[str, list[Instruction]]:
    """Name of a value -> the instructions that take it."""
    users: dict[str, list[Instruction]] = defaultdict(list)
    for instruction in body.values():
        for name in dict.fromkeys(instruction.operands):
            users[name].append(instruction)
    return users


def _read(program: Program, users: dict[str, list[Instruction]], parameter: Instruction) -> int:
    """Bytes that a fusion reads of one of its parameters."""
    whole, total = _size(parameter.arrays), 0
    pending = [(parameter, user) for user in users[parameter.name]]
    while pending:
        value, user = pending.pop()
        if user.operation in VIEWS and user.is_root:
            return whole
        elif user.operation in VIEWS:
            pending += [(user, next_user) for next_user in users[user.name]]
        elif user.operation in SLICES:  # its index has a few bytes
            total += _size(user.arrays) if whole else 0
        elif user.operation == "fusion":
            total += _read_inside(program, value, user) if whole else 0
        elif user.operation != UPDATE or value.name in user.operands[1:]:
            return whole
    return min(total, whole)


def _read_inside(program: Program, value: Instruction, fusion: Instruction) -> int:
    """Bytes that a fusion inside another one reads of a value."""
    inner = next((program.computations[name] for name in fusion.called if name in program.computations), {})
    places = {f"parameter({place})" for place, name in enumerate(fusion.operands) if name == value.name}
    parameters = [one for one in inner.values() if any(place in one.line for place in places)]
    users = _users(inner)
    read = sum(_read(program, users, one) for one in parameters)
    return read if len(parameters) == len(places) else _size(value.arrays)


def _written(body: Computation, result: Instruction) -> int:
    """Bytes that a fusion writes for one of its results."""
    source = result
    while source.operation in VIEWS and source.operands[0] in body:
        source = body[source.operands[0]]
    if source.operation == UPDATE and _size(result.arrays):
        return body[source.operands[1]].arrays[0].bytes
    return _size(result.arrays)
