"""What a compiled program sends, read off its text.

A loop's body stands in the text once and runs as often as the loop turns: its trip count multiplies what is inside,
through loops in loops. XLA for GPUs writes the count beside the loop; for TPUs it is the constant of the condition.
Where a TPU sends while it computes, one collective stands in several fusions, all with its channel: it counts once.
Over several dimensions of a slice's torus, XLA for TPUs turns reduce-scatters, and on a v5p gathers, into all-reduces
that use all links at once; they are counted as what they became.
"""

import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from dualdiff_jax.planning.groups import first_group, is_across, sent

KINDS = ("all-gather", "reduce-scatter", "all-reduce", "all-to-all", "collective-permute")
_COMPUTATION = re.compile(r"^(?:ENTRY )?%?([\w.\-]+) \(.*\) -> .* \{$")
_LOOP = re.compile(r" while\(.*condition=%?([\w.\-]+), body=%?([\w.\-]+)")
_LIMIT = re.compile(r"= s32\[\]\S* constant\((\d+)\)")
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')
_CALLED = re.compile(r"(?:calls|to_apply|body|condition|async_wrapped|called_computation)=%?([\w.\-]+)")
_SENT = re.compile(rf"= (.*?) ({'|'.join(KINDS)})(-start)?\(")
_ARRAY = re.compile(r"(pred|[suf]\d+|bf16|f8\w+)\[([\d,]*)\]")
_DEVICES = re.compile(r"num_partitions=(\d+)")
_CHANNEL = re.compile(r"channel_id=(\d+)")
_CONTEXT = re.compile(r", u32\[\](\{[^}]*\})?")  # what the start of a TPU's collective-permute gives beside arrays
_IN_PIECES = "async_collective_fusion_config"
_WIDTH = {"pred": 1, "bf16": 2}


class Sent(NamedTuple):
    """Of one kind of collective, in one call and on one device."""

    count: int  # how many run
    bytes: int  # of their results
    moved: float  # bytes that the device sends for them at the least
    across: float  # those of ``moved`` that go to other nodes


def collectives(text: str, node_of: Sequence[int] | None = None) -> dict[str, Sent]:
    """Kind -> what one call of the program sends. ``node_of``: the node of each device in the mesh's order."""
    devices = int(found[1]) if (found := _DEVICES.search(text)) else 1
    node_of = [0] * devices if node_of is None else node_of
    lines = _computations(text)
    times: dict[str, int] = defaultdict(int)
    entry = next((name for name in lines if f"ENTRY %{name} " in text or f"ENTRY {name} " in text), None)
    _count(entry, 1, lines, times)
    totals: dict[str, list[float]] = defaultdict(lambda: [0, 0, 0.0, 0.0])
    seen: set[str] = set()  # channels of what stands in pieces
    for name, runs in sorted(times.items(), key=lambda item: -item[1]):
        for line in lines.get(name, ()):
            match = _SENT.search(line)
            if not match:
                continue
            channel = _CHANNEL.search(line)
            if channel and _IN_PIECES in line:
                if channel[1] in seen:
                    continue
                seen.add(channel[1])
            one = _sent(line, match, node_of)
            for index, value in enumerate(one):
                totals[match[2]][index] += runs * value
    return {kind: Sent(*totals[kind]) for kind in KINDS if kind in totals}


def _sent(line: str, match: re.Match, node_of: Sequence[int]) -> Sent:
    """Of one instruction that runs once."""
    result, kind, start = match.groups()
    size = _bytes(result, has_operands=bool(start) and (kind != "all-reduce" or result.startswith("((")))
    if kind == "collective-permute":
        return Sent(1, size, size, size if is_across(line, node_of) else 0)
    return Sent(1, size, *sent(kind, size, first_group(line, len(node_of)), node_of))


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


def _bytes(result: str, has_operands: bool) -> int:
    """Of the arrays in a result type. An asynchronous start names its operands before its results."""
    sizes = []
    for kind, dims in _ARRAY.findall(_CONTEXT.sub("", result)):
        count = 1
        for dim in filter(None, dims.split(",")):
            count *= int(dim)
        width = _WIDTH.get(kind) or (1 if kind.startswith("f8") else int(kind[1:]) // 8)
        sizes.append(count * width)
    return sum(sizes[len(sizes) // 2 :]) if has_operands else sum(sizes)
