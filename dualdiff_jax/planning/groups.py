"""The devices of one group of a collective, what each of them sends, and how much of it goes to other nodes.

XLA writes groups in three ways:
    replica_groups={{0,1},{2,3}}                 lists of members
    replica_groups=[2,4]<=[4,2]T(1,0)            groups x members: the device numbers reshaped to [4,2], transposed
    replica_groups=mesh['a'=4,'b'=2] {'a':(2)2}  axes of a mesh, or a part of one: of size 2, with 2 before it
"""

import math
import re
from collections.abc import Sequence

import numpy as np

_LISTS = re.compile(r"replica_groups=\{\{([\d,]+)\}")
_IOTA = re.compile(r"replica_groups=\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?")
_MESH = re.compile(r"replica_groups=mesh\[([^\]]*)\] \{([^}]*)\}")
_AXIS = re.compile(r"'([^']+)'=(\d+)")
_TAKEN = re.compile(r"'([^']+)'(?::\((\d+)\)(\d+))?")
_PAIRS = re.compile(r"source_target_pairs=\{(\{.*?\})\}")


def first_group(line: str, devices: int) -> list[int]:
    """The members of an instruction's first group.

    Args:
        line: the instruction's text.
        devices: how many run the program; all of them are the group where the line names none.
    """
    lists, iota, mesh = _LISTS.search(line), _IOTA.search(line), _MESH.search(line)
    if lists:
        return _numbers(lists[1])
    if iota:
        shape, dims = _numbers(iota[1]), _numbers(iota[2])
        order = _numbers(iota[3]) if iota[3] else range(len(dims))
        return np.arange(math.prod(dims)).reshape(dims).transpose(order).reshape(shape)[0].tolist()
    if mesh:
        return _along_axes(dict(_AXIS.findall(mesh[1])), _TAKEN.findall(mesh[2]))
    return list(range(devices))


def is_across(line: str, node_of: Sequence[int]) -> bool:
    """Whether any pair of a collective-permute joins two nodes. ``node_of``: the node of each device."""
    found = _PAIRS.search(line)
    pairs = re.findall(r"\{(\d+),(\d+)\}", found[1]) if found else ()
    return any(node_of[int(source)] != node_of[int(target)] for source, target in pairs)


def bytes_sent(kind: str, result: int, group: Sequence[int], node_of: Sequence[int]) -> tuple[float, float]:
    """A lower bound on the bytes that each member of a group sends.

    A gather of R bytes by p members: each receives, and on average sends, R (p - 1) / p. A reduce-scatter is the same
    backwards, an all-reduce is both. With m nodes, each node brings in once what the others hold, R (m - 1) / m, shared
    by its p / m members.

    Args:
        kind: of the collective.
        result: bytes of its result on one device.
        group: its members.
        node_of: the node of each device.

    Returns:
        (bytes sent, those of them that go to other nodes).
    """
    members, nodes = len(group), len({node_of[device] for device in group})
    full = result * members if kind == "reduce-scatter" else result
    passes = 2 if kind == "all-reduce" else 1
    total = passes * full * (members - 1) / members
    if kind in ("all-to-all", "ragged-all-to-all"):
        return total, full * (nodes - 1) / nodes
    return total, passes * full * (nodes - 1) / members


def _along_axes(sizes: dict[str, str], taken: Sequence[tuple[str, str, str]]) -> list[int]:
    """The devices that differ along the taken axes only, and are first along the others."""
    strides, members = {}, np.zeros(1, int)
    stride = 1
    for name, size in reversed(sizes.items()):
        strides[name] = stride
        stride *= int(size)
    for name, before, part in taken:
        size = int(sizes[name])
        count = int(part) if part else size
        step = strides[name] * size // (int(before or 1) * count)
        members = (members[:, None] + step * np.arange(count)).ravel()
    return members.tolist()


def _numbers(text: str) -> list[int]:
    return [int(number) for number in text.split(",") if number]
