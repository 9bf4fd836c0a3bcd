"""What a config needs on a topology, as a dict and as a table for people."""

import dataclasses
import logging
from typing import Any

import jax

from dualdiff_jax.config import RunConfig
from dualdiff_jax.hardware import GIB
from dualdiff_jax.models.bundle import rules_of
from dualdiff_jax.planning.collectives import collectives
from dualdiff_jax.planning.cost import REMATERIALISATION, program_flops, roofline
from dualdiff_jax.planning.hlo import parse
from dualdiff_jax.planning.programs import CompiledProgram, bytes_of, compile_program
from dualdiff_jax.planning.reading import lines as lines_of_reading
from dualdiff_jax.planning.reading import reading
from dualdiff_jax.planning.topology import Topology, open_topology, quiet_backends
from dualdiff_jax.planning.waiting import lines as lines_of_waiting
from dualdiff_jax.planning.waiting import waiting
from dualdiff_jax.sharding import batch_parts, make_mesh, nodes_of, rules_in_force

log = logging.getLogger(__name__)

POLICIES = ("none", "dots", "save_attention", "full")  # from the fastest to the one that needs least memory
CONFIRMATIONS = 6  # plans that a search compiles after the first two, at most
Report = dict[str, Any]

# Program -> the part of a call that it leaves to another program, and what a page says of that.
LEFT_OUT = {
    "text_to_image": ("autoencoder", "the program ends at latents; the decoder, which it does not run, comes on top")
}


def plan(config: RunConfig, topology: str, program: str = "train") -> Report:
    """Compiles a program for a topology and reports what one device needs for it.

    Args:
        config: the run's.
        topology: a name as ``topology.py`` lists them.
        program: a name in ``programs.PROGRAMS``.

    Returns:
        A dict that JSON can hold, of one call of the program. ``memory``: bytes of one device. ``flops``: operations
        of one device, by part. ``collectives``: by kind, for one device; None where the program cannot be printed.
        ``waiting``: what ``waiting`` finds, and ``as_compiled``: what ``reading`` finds, or None likewise.
        ``roofline``: seconds. ``largest_batch_at_least``: a batch of all devices that fits. A plan of
        ``text_to_image`` ends at latents, so none of this counts the decoder.

    Raises:
        UserError: the topology is unknown, its compiler is missing, or the config does not fit it.
    """
    target = _open(topology)
    compiled = compile_program(config, program, target.devices, target.chip.platform)
    count = len(target.devices)
    memory = _memory(compiled, target)
    left_out, _ = LEFT_OUT.get(program, ("", ""))
    parts = program_flops(config, program, compiled.examples)
    flops = {part: value / count for part, value in parts.items() if part != left_out}
    once = sum(value for part, value in flops.items() if part != REMATERIALISATION)
    text = _text(compiled)
    printed = None if text is None else parse(text, compiled.passes)
    node_of = nodes_of(list(compiled.mesh.devices.flat))
    sent = {} if printed is None else collectives(printed, target.chip, node_of)
    is_training = program.startswith("train")
    microbatches = config.train.microbatches if is_training else 1
    moved = memory["arguments"] + memory["results"] + 2 * memory["temporaries"]
    return {
        "topology": topology,
        "chip": target.chip.name,
        "devices": count,
        "nodes": target.nodes,
        "mesh": dict(compiled.mesh.shape),
        "of": program,
        "batch": compiled.examples,
        "batch_per_device": compiled.examples / count,
        "microbatches": microbatches,
        "remat": config.train.remat if is_training else "none",
        "memory": memory,
        "largest_batch_at_least": _largest(compiled.examples, memory, compiled.batch_parts * microbatches),
        "flops": flops | {"total": sum(flops.values())},
        "collectives": None if printed is None else {kind: traffic._asdict() for kind, traffic in sent.items()},
        "waiting": None if printed is None else waiting(printed, target.chip, node_of),
        "as_compiled": None if printed is None else reading(printed, target.chip, once, node_of),
        "roofline": roofline(
            target.chip,
            sum(flops.values()),
            moved,
            sum(traffic.moved for traffic in sent.values()),
            sum(traffic.across for traffic in sent.values()),
        ),
        "compile_seconds": compiled.seconds,
    }


def search(config: RunConfig, topology: str) -> list[Report]:
    """Finds, for each remat policy, the largest batch of one microbatch that fits.

    Two plans of small batches show how memory grows with the batch. Each further plan tries the largest batch on the
    line through earlier ones, until the next larger batch is known not to fit, or ``CONFIRMATIONS`` plans are made.

    Args:
        config: the run's; its batch, microbatches and remat policy are replaced.
        topology: as in ``plan``.

    Returns:
        One report for each of ``POLICIES``: of the largest batch that fits, or of the smallest batch where none fits.
    """
    target = _open(topology)
    with rules_in_force(rules_of(config.mesh, config.model)):
        parts = batch_parts(make_mesh(config.mesh, target.devices))
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
    """The batch to try next, or one of ``totals`` if the largest that fits is known.

    It lies on the line through the largest batch that fits and the smallest that does not, and between the two;
    halfway, where two did not fit. If all batches so far fit, it lies on the line through the two largest.

    Args:
        totals: batch -> bytes of one device.
        available: bytes of one device.
    """
    fitting = sorted(n for n, total in totals.items() if total <= available)
    if not fitting:
        return 1
    low, others = fitting[-1], [n for n in totals if n not in fitting]
    other = min(others) if others else fitting[-2]
    slope = (totals[other] - totals[low]) / (other - low)
    if len(others) > 1:  # the line has misled: a larger batch may need less memory than a smaller one
        guess = (low + other) // 2
    else:
        guess = low + int((available - totals[low]) / slope) if slope > 0 else 2 * low
    guess = max(guess, low + 1)
    return min(guess, max(other - 1, low)) if others else guess


def _with(config: RunConfig, policy: Any, size: int) -> RunConfig:
    train = dataclasses.replace(config.train, remat=policy, global_batch_size=size, microbatches=1)
    return dataclasses.replace(config, train=train)


def _open(topology: str) -> Topology:
    jax.config.update("jax_platforms", "cpu")  # nothing runs, so the machine's own devices are not needed
    jax.config.update("jax_enable_compilation_cache", False)  # without devices, these programs cannot be read from it
    quiet_backends()
    return open_topology(topology)


def _text(compiled: CompiledProgram) -> str | None:
    """The compiled program as text, if it can be printed."""
    if compiled.executable is None:
        log.warning("the compiler refuses a program that does not fit, so it is not read: no collectives, no kernels")
        return None
    try:
        return compiled.executable.as_text()
    except Exception as error:  # jax 0.10 cannot print every TPU program
        log.warning("this version of JAX cannot print the program: no collectives, no kernels: %s", error)
        return None


def _memory(compiled: CompiledProgram, target: Topology) -> dict[str, Any]:
    """Bytes of one device."""
    parts = {name: bytes_of(tree) for name, tree in compiled.arguments.items()}
    if compiled.executable is None:
        arguments, results = sum(parts.values()), 0
        temporaries = compiled.bytes_needed - arguments
    else:
        found = compiled.executable.memory_analysis()
        arguments, temporaries = found.argument_size_in_bytes, found.temp_size_in_bytes
        results = found.output_size_in_bytes - found.alias_size_in_bytes
    total = arguments + results + temporaries
    return {
        **parts,
        "arguments": arguments,
        "results": results,
        "temporaries": temporaries,
        "total": total,
        "available": target.chip.memory,
        "fits": total <= target.chip.memory,
    }


def _largest(batch: int, memory: dict[str, Any], multiple: int) -> int:
    """A batch that fits if temporaries are proportional to it. Some depend on the weights alone, so more may fit.

    Args:
        batch: of the plan, on all devices.
        memory: of one device.
        multiple: of which every batch is one: the parts that the mesh splits a microbatch into, times the microbatches.
    """
    growing = memory["temporaries"] + memory["batch"]
    room = memory["available"] - memory["arguments"] - memory["results"] + memory["batch"]
    return max(int(batch * room / max(growing, 1)), 0) // multiple * multiple


def table(report: Report) -> str:
    """A report of ``plan`` as a table for people."""
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
    of_part, note = LEFT_OUT.get(report["of"], ("", ""))
    assumed = "temporaries taken as proportional" + (f", without the {of_part}" if of_part else "")
    lines += [f"  a batch of {report['largest_batch_at_least']} or more fits ({assumed})"]
    lines += [f"  {note}"] * bool(note) + ["", "operations of one device, TFLOP"]
    lines += [f"  {name:<18}{value / 1e12:10.2f}" for name, value in flops.items()]
    lines += ["", "sent by one device in one call"]
    sent = report["collectives"]
    lines += (
        ["  not counted"] if sent is None else [f"  {kind:<20}{_sent(**traffic)}" for kind, traffic in sent.items()]
    )
    if report["waiting"]:
        lines += ["", *lines_of_waiting(report["waiting"])]
    if report["as_compiled"] is not None:
        lines += ["", *lines_of_reading(report["as_compiled"])]
    lines += ["", "lower bound, seconds (data sheet rates)"]
    lines += [f"  {name:<10}{time[name]:10.4f}" for name in ("compute", "memory", "network")]
    return "\n".join([*lines, f"  bound by {time['bound']}"])


def _sent(count: int, bytes: int, moved: float, across: float) -> str:
    elsewhere = f", of which {across / 1e9:.2f} GB to other nodes" if across else ""
    return f"{count:>7} times {moved / 1e9:10.2f} GB{elsewhere}"
