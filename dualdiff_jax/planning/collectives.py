"""The collectives of a compiled program, read from its text.

The text contains a loop's body once, and the body runs as often as the loop iterates: the trip count multiplies what is
inside, also through nested loops. XLA for GPUs writes the count next to the loop; for TPUs it is the constant of the
loop's condition. Where a TPU communicates while it computes, one collective appears in several fusions, all with its
channel, and is counted once.
Over several dimensions of a slice's torus, XLA for TPUs turns reduce-scatters, and on a v5p gathers, into all-reduces
that use all links at once; they are counted as all-reduces.
"""

import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from dualdiff_jax.planning.groups import bytes_sent, first_group, is_across

KINDS = ("all-gather", "reduce-scatter", "all-reduce", "all-to-all", "collective-permute")
_COMPUTATION = re.compile(r"^(?:ENTRY )?%?([\w.\-]+) \(.*\) -> .* \{$")
_LOOP = re.compile(r" while\(.*condition=%?([\w.\-]+), body=%?([\w.\-]+)")
_LIMIT = re.compile(r"= s32\[\]\S* constant\((\d+)\)")
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')
_CALLED = re.compile(r"(?:calls|to_apply|body|condition|async_wrapped|called_computation)=%?([\w.\-]+)")
_COLLECTIVE = re.compile(rf"= (.*?) ({'|'.join(KINDS)})(-start)?\(")
_ARRAY = re.compile(r"(pred|[suf]\d+|bf16|f8\w+)\[([\d,]*)\]")
_DEVICES = re.compile(r"num_partitions=(\d+)")
_CHANNEL = re.compile(r"channel_id=(\d+)")
_CONTEXT = re.compile(r", u32\[\](\{[^}]*\})?")  # results of a TPU's collective-permute-start that are no data
_IN_PIECES = "async_collective_fusion_config"
_WIDTH = {"pred": 1, "bf16": 2}


class Traffic(NamedTuple):
    """The collectives of one kind, on one device, in one call of a program."""

    count: int  # executions
    bytes: int  # of their results
    moved: float  # bytes that the device sends for them, a lower bound
    across: float  # those of ``moved`` that go to other nodes

    def plus(self, other: "Traffic", times: int) -> "Traffic":
        """The sum of this and ``times`` executions of ``other``."""
        return Traffic(
            self.count + times * other.count,
            self.bytes + times * other.bytes,
            self.moved + times * other.moved,
            self.across + times * other.across,
        )


def collectives(text: str, node_of: Sequence[int] | None = None) -> dict[str, Traffic]:
    """Counts what one call of a program sends.

    Args:
        text: the compiled program, as XLA prints it.
        node_of: the node of each device, in the mesh's order; None puts all devices into one node.

    Returns:
        Kind -> traffic of one device, for the kinds that occur.
    """
    devices = int(found[1]) if (found := _DEVICES.search(text)) else 1
    node_of = [0] * devices if node_of is None else node_of
    lines = _computations(text)
    runs_of: dict[str, int] = defaultdict(int)
    entry = next((name for name in lines if f"ENTRY %{name} " in text or f"ENTRY {name} " in text), None)
    _count_runs(entry, 1, lines, runs_of)
    totals: dict[str, Traffic] = {}
    counted_channels: set[str] = set()  # of collectives in several fusions
    for name, runs in sorted(runs_of.items(), key=lambda item: -item[1]):
        for line in lines.get(name, ()):
            match = _COLLECTIVE.search(line)
            if not match:
                continue
            channel = _CHANNEL.search(line)
            if channel and _IN_PIECES in line:
                if channel[1] in counted_channels:
                    continue
                counted_channels.add(channel[1])
            total = totals.get(match[2], Traffic(0, 0, 0.0, 0.0))
            totals[match[2]] = total.plus(_traffic(line, match, node_of), runs)
    return {kind: totals[kind] for kind in KINDS if kind in totals}


def _traffic(line: str, match: re.Match, node_of: Sequence[int]) -> Traffic:
    """The traffic of one instruction that runs once."""
    result, kind, start = match.groups()
    size = _bytes(result, has_operands=bool(start) and (kind != "all-reduce" or result.startswith("((")))
    if kind == "collective-permute":
        return Traffic(1, size, size, size if is_across(line, node_of) else 0)
    return Traffic(1, size, *bytes_sent(kind, size, first_group(line, len(node_of)), node_of))


def _computations(text: str) -> dict[str, list[str]]:
    """Name of a computation -> its lines."""
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


def _count_runs(name: str | None, runs: int, lines: dict[str, list[str]], runs_of: dict[str, int]) -> None:
    """Adds ``runs`` executions of a computation, and of all that it calls, to ``runs_of``."""
    if name not in lines:
        return
    runs_of[name] += runs
    for line in lines[name]:
        loop = _LOOP.search(line)
        for called in set(_CALLED.findall(line)):
            trips = _trips(line, lines.get(loop[1], ())) if loop and called == loop[2] else 1
            _count_runs(called, runs * trips, lines, runs_of)


def _trips(loop: str, condition: Iterable[str]) -> int:
    """How often a loop iterates; 1 where that is known only at run time."""
    known = _TRIPS.search(loop)
    if known:
        return int(known[1])
    return max((int(limit[1]) for limit in map(_LIMIT.search, condition) if limit), default=1)


def _bytes(result: str, has_operands: bool) -> int:
    """Bytes of the arrays in a result type. An asynchronous start lists its operands before its results."""
    sizes = []
    for kind, dims in _ARRAY.findall(_CONTEXT.sub("", result)):
        count = 1
        for dim in filter(None, dims.split(",")):
            count *= int(dim)
        width = _WIDTH.get(kind) or (1 if kind.startswith("f8") else int(kind[1:]) // 8)
        sizes.append(count * width)
    return sum(sizes[len(sizes) // 2 :]) if has_operands else sum(sizes)
