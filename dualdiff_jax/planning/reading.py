"""What a compiled program costs, read from its text: by kind, by place, and the MFU that it allows.

A lower bound for this program, to compare versions of it by, and no measured time: gaps between kernels, caches, tiles
that do not fill, and what runs between devices are not in it.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from dualdiff_jax.hardware import Chip
from dualdiff_jax.planning.hlo import Program
from dualdiff_jax.planning.kernels import KINDS, Kernel, kernels, rates

PLACES = 10
Reading = dict[str, Any]


def reading(program: Program, chip: Chip, model_flops: float, node_of: Sequence[int] | None = None) -> Reading:
    """Reads what one call of a program costs one device.

    Args:
        program: compiled for ``chip``.
        chip: of the device.
        model_flops: operations of the networks in one call on one device, none of them twice, for the MFU.
        node_of: the node of each device, in the mesh's order; None puts all devices into one node.

    Returns:
        A dict that JSON can hold. ``kernels``, ``operations``, ``bytes`` and ``seconds`` in total; ``kinds``: the same
        for each of ``kernels.KINDS``; ``places``: the same for the most expensive places, in their order. ``mfu``: an
        upper bound; None where the text has no time. ``unknown_loops``: how many loops there are whose count the text
        does not tell; each is taken to make as many ``iterations``. ``rates``: ``operations`` and ``bytes`` per second
        that are taken to be reached; ``clock``: cycles per second, of a TPU.
    """
    found = kernels(program, chip, node_of)
    total = _sum(found)
    flops_rate, bytes_rate = rates(chip)
    places = _grouped(found, lambda kernel: kernel.place)
    return {
        **total,
        "mfu": model_flops / (total["seconds"] * chip.flops) if total["seconds"] else None,
        "unknown_loops": program.unknown_loops,
        "iterations": program.unknown_trips,
        "rates": {"operations": flops_rate, "bytes": bytes_rate, "clock": chip.clock or None},
        "kinds": {kind: _sum(kernel for kernel in found if kernel.kind == kind) for kind in KINDS},
        "places": [{"place": place, **sums} for place, sums in places[:PLACES]],
    }


def _sum(found: Iterable[Kernel]) -> dict[str, float]:
    found = list(found)
    return {
        "kernels": sum(kernel.runs for kernel in found),
        "operations": sum(kernel.operations for kernel in found),
        "bytes": sum(kernel.bytes for kernel in found),
        "seconds": sum(kernel.seconds for kernel in found),
    }


def _grouped(found: Iterable[Kernel], key: Callable[[Kernel], str]) -> list[tuple[str, dict[str, float]]]:
    """The sums of each group, the most expensive first."""
    groups: dict[str, list[Kernel]] = {}
    for kernel in found:
        groups.setdefault(key(kernel), []).append(kernel)
    return sorted(((name, _sum(group)) for name, group in groups.items()), key=lambda item: -item[1]["seconds"])


def lines(read: Reading) -> list[str]:
    """A reading as lines of a page for people."""
    taken = read["rates"]
    how = (
        f"the compiler's cycles at {taken['clock'] / 1e9:g} GHz, attention at {taken['operations'] / 1e12:.0f} TFLOP/s"
        if taken["clock"]
        else f"at {taken['operations'] / 1e12:.0f} TFLOP/s and {taken['bytes'] / 1e12:.2f} TB/s"
    )
    width = max(len(sums["place"]) for sums in [*read["places"], {"place": "elementwise"}])
    head = f"  {'':<{width}}{'kernels':>9}{'TFLOP':>10}{'GB':>10}{'ms':>10}{'%':>7}"
    rows = [*read["kinds"].items(), ("total", read), *((sums["place"], sums) for sums in read["places"])]
    table = [_row(name, width, sums, read["seconds"]) for name, sums in rows]
    summed = len(read["kinds"]) + 1
    page = [f"as compiled, one device, without what runs between devices: at least ({how})", head, *table[:summed]]
    if read["mfu"] is not None:
        page += [f"  MFU at most {100 * read['mfu']:.1f} % (all networks, nothing twice, data sheet rate)"]
    if read["unknown_loops"]:
        page += [f"  {read['unknown_loops']} loops of unknown count, taken as {read['iterations']} iterations each"]
    return [*page, "", "the most expensive places as compiled", head, *table[summed:]]


def _row(name: str, width: int, sums: Reading, seconds: float) -> str:
    columns = f"{sums['kernels']:>9}{sums['operations'] / 1e12:>10.2f}{sums['bytes'] / 1e9:>10.2f}"
    return f"  {name:<{width}}{columns}{1e3 * sums['seconds']:>10.2f}{100 * sums['seconds'] / (seconds or 1):>7.1f}"
