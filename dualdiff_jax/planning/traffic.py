"""Bytes that the instructions of a compiled program read from a device's memory and write to it.

An instruction reads its operands and writes its result. What is fused stays in registers, so a fusion reads its
parameters and writes its root. Three exceptions: of an operand that is only sliced, the slices are read; an update in
place writes the update alone, and a scatter reads the rows that it adds to; and arrays in a TPU's fast memory, S(1) in
a layout, or in the host's, S(5), do not count. An update whose result a fusion does not return is no update in place.
"""

import re
from collections import defaultdict
from collections.abc import Iterable

from dualdiff_jax.planning.hlo import Array, Computation, Instruction, Program
from dualdiff_jax.planning.operations import is_gemm, is_library_convolution

SLICES = ("dynamic-slice", "slice", "gather")
UPDATES = ("dynamic-update-slice", "scatter")
VIEWS = ("bitcast", "get-tuple-element")
_ELSEWHERE = re.compile(r"S\([15]\)")
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
    if instruction.operation in UPDATES:
        return _of_update(computation, instruction)
    if instruction.operation in BACKGROUND:  # two arrays, and a context, which is no data
        return _in_background(instruction)
    results = instruction.results
    if is_gemm(instruction) or is_library_convolution(instruction):
        results = results[:1]  # without the library's workspace
    return _size(results) + sum(operands)


def _size(arrays: Iterable[Array]) -> int:
    return sum(array.bytes for array in arrays if not _ELSEWHERE.search(array.layout))


def _parts(update: Instruction) -> tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]:
    """Names of the arrays that an update changes, of the indices of a scatter, and of what is put there."""
    if update.operation == "scatter":  # of several arrays at once, of which it lists first all, then all updates
        count = len(update.operands) // 2
        return update.operands[:count], update.operands[count : count + 1], update.operands[count + 1 :]
    return update.operands[:1], (), update.operands[1:2]  # the index of a slice has a few bytes


def _changed(computation: Computation, update: Instruction) -> int:
    """Bytes that an update writes over."""
    return sum(computation[name].arrays[0].bytes for name in _parts(update)[2] if name in computation)


def _of_update(computation: Computation, update: Instruction) -> int:
    _, indices, parts = _parts(update)
    read = sum(_size(computation[name].arrays) for name in (*indices, *parts) if name in computation)
    passes = 2 if update.operation == "scatter" else 1
    return read + (passes * _changed(computation, update) if _size(update.arrays) else 0)


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
    read = sum(_read(program, body, users, one) for one in parameters)
    return read + sum(_written(program, body, one) for one in results)


def _users(body: Computation) -> dict[str, list[Instruction]]:
    """Name of a value -> the instructions that take it."""
    users: dict[str, list[Instruction]] = defaultdict(list)
    for instruction in body.values():
        for name in dict.fromkeys(instruction.operands):
            users[name].append(instruction)
    return users


def _read(
    program: Program,
    body: Computation,
    users: dict[str, list[Instruction]],
    parameter: Instruction,
    is_returned: bool = True,
) -> int:
    """Bytes that a fusion reads of one of its parameters.

    Args:
        program: that it is part of.
        body: the fusion's.
        users: of the values of ``body``.
        parameter: one of ``body``.
        is_returned: whether what it updates in place and returns is in memory, and not read by an outer fusion.
    """
    whole, total = _size(parameter.arrays), 0
    pending = [(parameter, user, False) for user in users[parameter.name]]
    while pending:
        value, user, is_updated = pending.pop()
        is_target = user.operation in UPDATES and value.name in _parts(user)[0]
        changes = is_target and user.operands.count(value.name) == 1
        if user.operation in VIEWS or changes:
            total += _changed(body, user) if user.operation == "scatter" and whole else 0
            is_updated |= changes
            if user.is_root and not (is_updated and is_returned):
                return whole
            pending += [(user, next_user, is_updated) for next_user in users[user.name]]
        elif user.operation in SLICES:  # its index has a few bytes
            total += _size(user.arrays) if whole else 0
        elif user.operation == "fusion":
            total += _read_inside(program, users, value, user) if whole else 0
        elif not (user.operation == "tuple" and user.is_root and is_updated and is_returned):
            return whole
    return min(total, whole)


def _read_inside(program: Program, outer: dict[str, list[Instruction]], value: Instruction, fusion: Instruction) -> int:
    """Bytes that a fusion inside another one, whose users are ``outer``, reads of a value."""
    inner = next((program.computations[name] for name in fusion.called if name in program.computations), {})
    places = {f"parameter({place})" for place, name in enumerate(fusion.operands) if name == value.name}
    parameters = [one for one in inner.values() if any(place in one.line for place in places)]
    is_returned = all(user.is_root and user.operation in ("tuple", *VIEWS) for user in outer[fusion.name])
    read = sum(_read(program, inner, _users(inner), one, is_returned) for one in parameters)
    return read if len(parameters) == len(places) else _size(value.arrays)


def _written(program: Program, body: Computation, result: Instruction) -> int:
    """Bytes that a fusion writes for one of its results."""
    source = result
    while source.operation in VIEWS and source.operands[0] in body:
        source = body[source.operands[0]]
    if source.operation in UPDATES and _size(result.arrays):
        return _changed(body, source)
    inner = next((program.computations[name] for name in source.called if name in program.computations), {})
    root = next((one for one in inner.values() if one.is_root and one.operation != "tuple"), None)
    if source.operation == "fusion" and root is not None and _size(result.arrays):
        return _written(program, inner, root)
    return _size(result.arrays)
