"""How a figure is measured, and the circumstances that are written with it."""

import contextlib
import datetime
import importlib.metadata
import json
import os
import platform
import statistics
import subprocess
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

REST = 0.02  # seconds between two timed calls, in which the other side's spinning threads go to sleep
FEWEST_PAIRS, MOST_PAIRS = 3, 31
CALM = 0.1  # a sample counts if other processes kept at most so many cores busy
PATIENCE = 3  # attempts per wanted pair

Side = Callable[[int], int | None]  # seed -> number of network evaluations, if that varies


class BusyMachineError(RuntimeError):
    """Other work disturbed too many samples."""


class Sample(NamedTuple):
    """Some calls in a row. Seconds are per call; ``others`` is the number of cores that other processes kept busy."""

    wall_s: float
    cpu_s: float
    others: float
    counts: list[int]


def take(side: Side, seeds: Iterable[int]) -> Sample:
    """Calls ``side`` once with each seed."""
    seeds = list(seeds)
    busy, cpu, wall = _busy_seconds(), time.process_time(), time.perf_counter()
    counts = [side(seed) for seed in seeds]
    wall, cpu, busy = time.perf_counter() - wall, time.process_time() - cpu, _busy_seconds() - busy
    known = [count for count in counts if count is not None]
    return Sample(wall / len(seeds), cpu / len(seeds), max(0.0, busy - cpu) / wall, known)


def interleave(
    ours: Side, theirs: Side, *, budget_s: float, sample_s: float = 0.5, allow_busy: bool = False
) -> dict[str, Any]:
    """Times two sides in turn, A B A B, for about ``budget_s`` seconds after a warm-up of both.

    Args:
        ours: our side.
        theirs: the other side.
        budget_s: seconds.
        sample_s: a sample is as many calls in a row as take so many seconds, the same number on both sides.
        allow_busy: keeps pairs during which other processes worked, which are discarded otherwise.

    Returns:
        The figure, with the ratio theirs / ours, taken pair by pair: above 1, ours is faster.

    Raises:
        BusyMachineError: too few pairs remain.
    """
    compiled = take(ours, [0]).wall_s
    theirs(0)
    warm = [take(side, [1]).wall_s for side in (ours, theirs)]
    calls = max(1, round(sample_s / max(warm)))
    wanted = int(min(MOST_PAIRS, max(FEWEST_PAIRS, budget_s / (calls * sum(warm)))))
    pairs: list[tuple[Sample, Sample]] = []
    for attempt in range(wanted * (1 if allow_busy else PATIENCE)):
        seeds = range(2 + attempt * calls, 2 + (attempt + 1) * calls)
        time.sleep(REST)
        our_sample = take(ours, seeds)
        time.sleep(REST)
        pair = our_sample, take(theirs, seeds)
        if allow_busy or max(sample.others for sample in pair) <= CALM:
            pairs.append(pair)
        if len(pairs) == wanted:
            break
    if len(pairs) < FEWEST_PAIRS:
        raise BusyMachineError(f"other work ran during all but {len(pairs)} of {attempt + 1} pairs of samples")
    figure = {name: _summary([pair[at] for pair in pairs]) for at, name in enumerate(("jax", "torch"))}
    figure["jax"]["compile_s"] = round(compiled - figure["jax"]["median_s"], 3)
    return figure | {
        "torch_over_jax": _spread([theirs.wall_s / ours.wall_s for ours, theirs in pairs], "{}", 4),
        "torch_over_jax_cpu_time": _spread([theirs.cpu_s / ours.cpu_s for ours, theirs in pairs], "{}", 4),
        "pairs": len(pairs),
        "pairs_thrown_away": attempt + 1 - len(pairs),
        "calls_per_sample": calls,
        "others_cores": round(statistics.median(sample.others for pair in pairs for sample in pair), 2),
    }


def alone(side: Side, *, budget_s: float, calls: int = 1) -> dict[str, Any]:
    """Times one side for about ``budget_s`` seconds after a first call, which compiles; at least three samples.

    Args:
        side: what is timed.
        budget_s: seconds.
        calls: how many calls ``side`` makes itself; seconds in the figure are those of one of them.
    """
    first, *samples = (take(side, [seed]) for seed in (0, 1))
    wanted = int(min(MOST_PAIRS, max(FEWEST_PAIRS, budget_s / samples[0].wall_s)))
    samples += [take(side, [seed]) for seed in range(2, 1 + wanted)]
    counts = [count for sample in samples for count in sample.counts]
    found = _spread([sample.wall_s / calls for sample in samples], "{}_s", 9) | {"samples": wanted}
    found["compile_s"] = round(max(0.0, first.wall_s - samples[0].wall_s), 3)
    return found | ({"mean_evaluations": round(statistics.mean(counts), 2)} if counts else {})


def _summary(samples: Sequence[Sample]) -> dict[str, float]:
    summary = _spread([sample.wall_s for sample in samples], "{}_s")
    summary["median_cpu_s"] = round(statistics.median(sample.cpu_s for sample in samples), 6)
    counts = [count for sample in samples for count in sample.counts]
    return summary | ({"mean_evaluations": round(statistics.mean(counts), 2)} if counts else {})


def _spread(values: Sequence[float], key: str, digits: int = 6) -> dict[str, float]:
    named = {"median": statistics.median(values), "min": min(values), "max": max(values)}
    return {key.format(name): round(value, digits) for name, value in named.items()}


def _busy_seconds() -> float:
    """Seconds that all cores together have been busy since boot; 0 where the system does not report it."""
    try:
        with open("/proc/stat", encoding="ascii") as file:
            user, nice, system, _, _, irq, softirq, steal = map(int, file.readline().split()[1:9])
    except (OSError, ValueError):
        return 0.0
    return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")


def circumstances(threads: int, packages: Sequence[str]) -> dict[str, Any]:
    """Machine, date, commit, number of threads, and the versions of those of ``packages`` that are installed."""
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "commit": _commit(),
        "machine": {
            "cpu": _cpu_model(),
            "cores": os.cpu_count(),
            "accelerators": _accelerators(),
            "system": platform.platform(),
        },
        "threads": threads,
        "load_before": round(os.getloadavg()[0], 2),
        "versions": {"python": platform.python_version()} | _versions(packages),
        "flags": {name: os.environ[name] for name in ("XLA_FLAGS", "OMP_NUM_THREADS") if name in os.environ},
    }


def print_all(figures: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """All figures as a list; each is printed as soon as it is measured."""
    measured = []
    for figure in figures:
        print(json.dumps(figure), flush=True)
        measured.append(figure)
    return measured


def write(record: dict[str, Any], file: str | Path) -> None:
    """Writes a record as JSON; its folder is made."""
    file = Path(file)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


def table(figures: Sequence[dict[str, Any]]) -> str:
    """One line a figure: medians in milliseconds, the ratio with its range, the ratio of processor time, compiling."""
    head = ("size", "figure", "peer", "batch", "jax ms", "torch ms", "torch/jax", "range", "CPU time", "compile s")
    rows = [head]
    for figure in figures:
        ratio = figure["torch_over_jax"]
        rows.append(
            (
                figure["size"],
                figure["figure"],
                figure.get("peer", ""),
                str(figure["batch"]),
                f"{1e3 * figure['jax']['median_s']:.1f}",
                f"{1e3 * figure['torch']['median_s']:.1f}",
                f"{ratio['median']:.2f}",
                f"{ratio['min']:.2f}-{ratio['max']:.2f}",
                f"{figure['torch_over_jax_cpu_time']['median']:.2f}",
                f"{figure['jax']['compile_s']:.1f}",
            )
        )
    widths = [max(len(row[column]) for row in rows) for column in range(len(head))]
    return "\n".join("  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in rows)


def _versions(packages: Sequence[str]) -> dict[str, str]:
    found = {}
    for package in packages:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[package] = importlib.metadata.version(package)
    return found


def _accelerators() -> list[str]:
    """Name, memory and driver of each NVIDIA GPU."""
    query = ["nvidia-smi", "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader"]
    try:
        run = subprocess.run(query, capture_output=True, text=True, check=True, timeout=30)
    except (OSError, subprocess.SubprocessError):
        return []
    return run.stdout.strip().splitlines()


def _commit() -> str | None:
    """The checkout's commit, marked if files differ from it; None outside a repository."""
    try:
        run = [
            subprocess.run(["git", *command], capture_output=True, text=True, check=True, timeout=30).stdout.strip()
            for command in (("rev-parse", "HEAD"), ("status", "--porcelain"))
        ]
    except (OSError, subprocess.SubprocessError):
        return None
    return f"{run[0]} with changes" if run[1] else run[0]


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "unknown")
