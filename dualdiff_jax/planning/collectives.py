"""What a compiled program sends, read off its text.

A loop's body stands in the text once and runs as often as the loop turns: its trip count multiplies what is inside,
through loops in loops. XLA for GPUs writes the count beside the loop; for TPUs it is the constant of the condition.
"""

import re
from collections import defaultdict
from collections.abc import Iterable
from typing import NamedTuple

KINDS = ("all-gather", "reduce-scatter", "all-reduce", "all-to-all", "collective-permute")
_COMPUTATION = re.compile(r"^(?:ENTRY )?%?([\w.\-]+) \(.*\) -> .* \{$")
_LOOP = re.compile(r" while\(.*condition=%?([\w.\-]+), body=%?([\w.\-]+)")
_LIMIT = re.compile(r"= s32\[\]\S* constant\((\d+)\)")
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')
_CALLED = re.compile(r"(?:calls|to_apply|body|condition|async_wrapped|called_computation)=%?([\w.\-]+)")
_SENT = re.compile(rf"= (.*?) ({'|'.join(KINDS)})(-start)?\(")
_ARRAY = re.compile(r"(pred|[suf]\d+|bf16|f8\w+)\[([\d,]*)\]")
_WIDTH = {"pred": 1, "bf16": 2}


class Sent(NamedTuple):
    """Of one kind of collective: how many run in one call, and the bytes of their results on one device."""

    count: int
    bytes: int


def collectives(text: str) -> dict[str, Sent]:
    """Kind -> what one call of the program sends."""
    lines = _computations(text)
    times: dict[str, int] = defaultdict(int)
    entry = next((name for name in lines if f"ENTRY %{name} " in text or f"ENTRY {name} " in text), None)
    _count(entry, 1, lines, times)
    found: dict[str, list[int]] = defaultdict(lambda: [0, 0])
    for name, runs in times.items():
        for line in lines.get(name, ()):
            sent = _SENT.search(line)
            if sent:
                found[sent[2]][0] += runs
                found[sent[2]][1] += runs * _bytes(sent[1], halves=bool(sent[3]) and sent[2] != "all-reduce")
    return {kind: Sent(*found[kind]) for kind in KINDS if kind in found}


def _computations(text: str) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    name = None
    for line in text.splitlines():
        header = _COMPUTATION.match(line)
        if header:
            name = header[1]
            found[name] = []
        elif name is not None:
            found[name].append(line)
    return found


def _count(name: str | None, runs: int, lines: dict[str, list[str]], times: dict[str, int]) -> None:
    """Adds ``runs`` of a computation and of all that it calls."""
    if name not in lines:
        return
    times[name] += runs
    for line in lines[name]:
        loop = _LOOP.search(line)
        for called in set(_CALLED.findall(line)):
            trips = _trips(line, lines.get(loop[1], ())) if loop and called == loop[2] else 1
            _count(called, runs * trips, lines, times)


def _trips(loop: str, condition: Iterable[str]) -> int:
    """How often a loop turns; 1 where that is not known before it runs."""
    known = _TRIPS.search(loop)
    if known:
        return int(known[1])
    return max((int(limit[1]) for limit in map(_LIMIT.search, condition) if limit), default=1)


def _bytes(result: str, halves: bool) -> int:
    """Of the arrays in a result type. An asynchronous start names its operands before its results."""
    sizes = []
    for kind, dims in _ARRAY.findall(result):
        count = 1
        for dim in filter(None, dims.split(",")):
            count *= int(dim)
        width = _WIDTH.get(kind) or (1 if kind.startswith("f8") else int(kind[1:]) // 8)
        sizes.append(count * width)
    return sum(sizes[len(sizes) // 2 :]) if halves else sum(sizes)
