"""What a config needs of a topology, as one dict, and as a table for people."""

import dataclasses
import logging
from typing import Any

import jax

from dualdiff_jax.config import RunConfig
from dualdiff_jax.hardware import GIB
from dualdiff_jax.planning.collectives import collectives
from dualdiff_jax.planning.cost import program_flops, roofline
from dualdiff_jax.planning.programs import Program, bytes_of, compile_program
from dualdiff_jax.planning.topology import Topology, open_topology, quiet_backends
from dualdiff_jax.sharding import batch_parts, make_mesh, nodes_of

log = logging.getLogger(__name__)

OF = ("train", "text_to_image", "image_to_text")
POLICIES = ("none", "dots", "save_attention", "full")  # from the fastest to the smallest
CONFIRMATIONS = 4  # plans of a search beside the two first ones, at the most
Report = dict[str, Any]


def plan(config: RunConfig, topology: str, of: str = "train") -> Report:
    """Compiles ``of`` for ``topology`` and reports memory, operations, collectives and the roofline of one device."""
    there = _open(topology)
    program = compile_program(config, of, list(there.devices), there.chip.platform)
    count = len(there.devices)
    memory = _memory(program, there)
    flops = {part: value / count for part, value in program_flops(config, of, program.examples).items()}
    text = _text(program)
    sent = {} if text is None else collectives(text, nodes_of(list(program.mesh.devices.flat)))
    moved = memory["arguments"] + memory["results"] + 2 * memory["temporaries"]
    return {
        "topology": topology,
        "chip": there.chip.name,
        "devices": count,
        "nodes": there.nodes,
        "mesh": dict(program.mesh.shape),
        "of": of,
        "batch": program.examples,
        "batch_per_device": program.examples / count,
        "microbatches": config.train.microbatches if of == "train" else 1,
        "remat": config.train.remat if of == "train" else "none",
        "memory": memory,
        "largest_batch_at_least": _largest(program.examples, memory, batch_parts(program.mesh)),
        "flops": flops | {"total": sum(flops.values())},
        "collectives": None if text is None else {kind: found._asdict() for kind, found in sent.items()},
        "roofline": roofline(
            there.chip,
            sum(flops.values()),
            moved,
            sum(found.moved for found in sent.values()),
            sum(found.across for found in sent.values()),
        ),
        "compile_seconds": program.seconds,
    }


def search(config: RunConfig, topology: str) -> list[Report]:
    """For each remat policy the largest batch of one microbatch that fits, as far as ``CONFIRMATIONS`` plans tell.

    Two plans of small batches tell how the memory grows with the batch; the next ones try the largest batch of that
    line, and draw it again, until the batch above the largest that fits is known not to. A policy's report is that of
    the largest batch that fits, or of the smallest that there is.
    """
    there = _open(topology)
    parts = batch_parts(make_mesh(config.mesh, list(there.devices)))
    return [_largest_that_fits(config, topology, policy, parts) for policy in POLICIES]


def _largest_that_fits(config: RunConfig, topology: str, policy: str, parts: int) -> Report:
    found = {n: plan(_with(config, policy, n * parts), topology) for n in (1, 2)}
    for _ in range(CONFIRMATIONS):
        guess = _guess({n: page["memory"]["total"] for n, page in found.items()}, found[1]["memory"]["available"])
        if guess in found:
            break
        found[guess] = plan(_with(config, policy, guess * parts), topology)
    return found[max((n for n in found if found[n]["memory"]["fits"]), default=1)]


def _guess(totals: dict[int, int], available: int) -> int:
    """The batch to try next; one of ``totals`` where the largest that fits is known.

    It is on the line through the largest that fits and the smallest that does not, and between the two. Where all
    that were compiled fit, on the line through the two largest.
    """
    fitting = sorted(n for n, total in totals.items() if total <= available)
    if not fitting:
        return 1
    low, others = fitting[-1], [n for n in totals if n not in fitting]
    other = min(others) if others else fitting[-2]
    slope = (totals[other] - totals[low]) / (other - low)
    guess = low + int((available - totals[low]) / slope) if slope > 0 else 2 * low
    guess = max(guess, low + 1)
    return min(guess, max(other - 1, low)) if others else guess


def _with(config: RunConfig, policy: str, size: int) -> RunConfig:
    train = dataclasses.replace(config.train, remat=policy, global_batch_size=size, microbatches=1)
    return dataclasses.replace(config, train=train)


def _open(topology: str) -> Topology:
    jax.config.update("jax_platforms", "cpu")  # nothing is run, and the machine's own devices are not asked for
    jax.config.update("jax_enable_compilation_cache", False)  # these programs cannot be read from it without devices
    quiet_backends()
    return open_topology(topology)


def _text(program: Program) -> str | None:
    """The compiled program, where there is one that can be printed."""
    if program.compiled is None:
        log.warning("the compiler refuses a program that does not fit, so collectives are not counted")
        return None
    try:
        return program.compiled.as_text()
    except Exception as error:  # jax 0.10 cannot print every TPU program
        log.warning("this version of JAX cannot print the program, so collectives are not counted: %s", error)
        return None


def _memory(program: Program, there: Topology) -> dict[str, Any]:
    """Bytes of one device."""
    parts = {name: bytes_of(tree) for name, tree in program.arguments.items()}
    if program.compiled is None:
        arguments, results = sum(parts.values()), 0
        temporaries = program.needed - arguments
    else:
        found = program.compiled.memory_analysis()
        arguments, temporaries = found.argument_size_in_bytes, found.temp_size_in_bytes
        results = found.output_size_in_bytes - found.alias_size_in_bytes
    total = arguments + results + temporaries
    return {
        **parts,
        "arguments": arguments,
        "results": results,
        "temporaries": temporaries,
        "total": total,
        "available": there.chip.memory,
        "fits": total <= there.chip.memory,
    }


def _largest(batch: int, memory: dict[str, Any], parts: int) -> int:
    """Examples that fit if temporaries grew in proportion to the batch; some are the weights', so more may fit."""
    room = memory["available"] - memory["arguments"] - memory["results"]
    return int(batch * room / max(memory["temporaries"], 1)) // parts * parts if room > 0 else 0


def table(report: Report) -> str:
    """One report for people."""
    memory, flops, time = report["memory"], report["flops"], report["roofline"]
    mesh = " x ".join(f"{name} {size}" for name, size in report["mesh"].items() if size > 1) or "one device"
    lines = [
        f"{report['of']} on {report['topology']}: {report['devices']} {report['chip']}, mesh {mesh}",
        f"batch {report['batch']} ({report['batch_per_device']:g} a device, {report['microbatches']} microbatches), "
        f"remat {report['remat']}, compiled in {report['compile_seconds']:.0f} s",
        "",
        "memory of one device, GiB",
    ]
    skipped = ("arguments", "total", "available", "fits")
    lines += [f"  {name:<14}{size / GIB:8.2f}" for name, size in memory.items() if name not in skipped]
    spare = (memory["available"] - memory["total"]) / GIB
    verdict = f"fits, {spare:.2f} to spare" if memory["fits"] else f"does not fit, {-spare:.2f} too much"
    lines += [f"  {'total':<14}{memory['total'] / GIB:8.2f}  of {memory['available'] / GIB:.1f}: {verdict}"]
    lines += [f"  a batch of {report['largest_batch_at_least']} or more fits (temporaries taken as proportional)", ""]
    lines += ["operations of one device, TFLOP"]
    lines += [f"  {name:<18}{value / 1e12:10.2f}" for name, value in flops.items()]
    lines += ["", "sent by one device in one call"]
    sent = report["collectives"]
    lines += ["  not counted"] if sent is None else [f"  {kind:<20}{_sent(**found)}" for kind, found in sent.items()]
    lines += ["", "at the least, seconds (data sheet rates)"]
    lines += [f"  {name:<10}{time[name]:10.4f}" for name in ("compute", "memory", "network")]
    return "\n".join([*lines, f"  bound by {time['bound']}"])


def _sent(count: int, bytes: int, moved: float, across: float) -> str:
    elsewhere = f", of that {across / 1e9:.2f} GB to other nodes" if across else ""
    return f"{count:>7} times {moved / 1e9:10.2f} GB{elsewhere}"
