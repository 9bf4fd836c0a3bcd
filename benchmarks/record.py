"""How a figure is taken and what is written beside it."""

import datetime
import importlib.metadata
import json
import os
import platform
import statistics
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

REST = 0.02  # seconds between two timed calls, in which the other side's waiting threads fall asleep
FEWEST_PAIRS, MOST_PAIRS = 3, 31


def seconds_of(call: Callable[[], Any]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def interleave(
    ours: Callable[[int], int | None], theirs: Callable[[int], int | None], *, budget_s: float, sample_s: float = 0.3
) -> dict[str, Any]:
    """Times two sides in turn, A B A B, for about ``budget_s`` seconds after a warm-up of both.

    A side is a call with a number that it may draw from, and returns how often the network ran, where that
    varies. A sample is as many calls in a row as take ``sample_s`` seconds, the same number on both sides.
    The ratio is theirs / ours, pair by pair: above 1, ours is faster.
    """
    first = seconds_of(lambda: ours(0))
    theirs(0)
    warm = [seconds_of(lambda: ours(1)), seconds_of(lambda: theirs(1))]
    calls = max(1, round(sample_s / max(warm)))
    pairs = int(min(MOST_PAIRS, max(FEWEST_PAIRS, budget_s / (calls * sum(warm)))))
    times: dict[str, list[float]] = {"jax": [], "torch": []}
    evaluations: dict[str, list[int]] = {"jax": [], "torch": []}
    for pair in range(pairs):
        for name, side in (("jax", ours), ("torch", theirs)):
            time.sleep(REST)
            start = time.perf_counter()
            counts = [side(2 + pair * calls + call) for call in range(calls)]
            times[name].append((time.perf_counter() - start) / calls)
            evaluations[name] += [count for count in counts if count is not None]
    figure = {name: _spread(values, "{}_s") for name, values in times.items()}
    figure["jax"]["compile_s"] = round(first - figure["jax"]["median_s"], 3)
    for name, counts in evaluations.items():
        if counts:
            figure[name]["mean_evaluations"] = round(statistics.mean(counts), 2)
    ratios = [theirs / ours for ours, theirs in zip(times["jax"], times["torch"], strict=True)]
    return figure | {"torch_over_jax": _spread(ratios, "{}", 4), "pairs": pairs, "calls_per_sample": calls}


def _spread(values: Sequence[float], key: str, digits: int = 6) -> dict[str, float]:
    named = {"median": statistics.median(values), "min": min(values), "max": max(values)}
    return {key.format(name): round(value, digits) for name, value in named.items()}


def circumstances(threads: int, packages: Sequence[str]) -> dict[str, Any]:
    """Machine, versions, date, commit and threads."""
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "commit": _commit(),
        "machine": {"cpu": _cpu_model(), "cores": os.cpu_count(), "system": platform.platform()},
        "threads": threads,
        "load_before": round(os.getloadavg()[0], 2),
        "versions": {"python": platform.python_version()} | {p: importlib.metadata.version(p) for p in packages},
        "flags": {name: os.environ[name] for name in ("XLA_FLAGS", "OMP_NUM_THREADS") if name in os.environ},
    }


def write(record: dict[str, Any], file: str | Path) -> None:
    file = Path(file)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


def table(figures: Sequence[dict[str, Any]]) -> str:
    """One line a figure: medians in milliseconds, the ratio and its range."""
    head = ("size", "figure", "batch", "jax ms", "torch ms", "torch/jax", "range", "compile s")
    rows = [head]
    for figure in figures:
        ratio = figure["torch_over_jax"]
        rows.append(
            (
                figure["size"],
                figure["figure"],
                str(figure["batch"]),
                f"{1e3 * figure['jax']['median_s']:.1f}",
                f"{1e3 * figure['torch']['median_s']:.1f}",
                f"{ratio['median']:.2f}",
                f"{ratio['min']:.2f}-{ratio['max']:.2f}",
                f"{figure['jax']['compile_s']:.1f}",
            )
        )
    widths = [max(len(row[column]) for row in rows) for column in range(len(head))]
    return "\n".join("  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in rows)


def _commit() -> str | None:
    """The checkout's commit, marked where files differ from it; None outside a repository."""
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
