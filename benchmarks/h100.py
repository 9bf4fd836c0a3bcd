"""The 2B model on one NVIDIA H100, next to the same model in PyTorch, in one run of under nine minutes.

    python -m benchmarks.h100 [--output=FILE] [--cache=DIR] [--wheels=DIR] [--phases=A,B] [--seconds=520] [--batch=N]
    python -m benchmarks.h100 --size=tiny --platform=cpu     # tries every phase with a toy

Random weights of the published sizes (dualdiff_jax/config/published.py), no download, no data. The phases, in bf16:
  *_training    a step at 512 px and 256 tokens, the largest batch that fits, remat ``dots``; with T5-XXL and the
                autoencoder in the step, and from stored latents and caption embeddings; an 8192^3 product for reference
  *_sampling    text to image (28 steps, guidance 7, to pixels), image to text (128 tokens, 32 steps), batch 1 and 16
  *_attention   joint attention alone, 1024 + 256 and 1024 + 128 tokens, forward, and forward with backward
  numerics      bf16 passes compared with fp32 passes of the same weights
  agreement     a check that both sides compute the same (a toy in fp32 on the card)
PyTorch runs eagerly, then with its repeated blocks compiled; fused AdamW and EMA on both sides.

Each phase runs in its own process, because neither side returns memory. A figure is written to the output as soon as
it is measured; ``not_measured`` lists the figures that failed or for which no time was left. ``--cache`` keeps compiled
programs, so that a second run spends its time on measuring.
The JAX side needs jax, flax, optax, orbax-checkpoint and transformers; the torch side torch, transformers and
diffusers. ``--wheels=DIR`` unpacks wheels of missing packages (diffusers needs importlib_metadata) and puts them at the
front of the path; without diffusers, the torch figures are in ``not_measured``, with that reason.
"""

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks import record

PACKAGES = ("jax", "jaxlib", "flax", "optax", "torch", "diffusers", "transformers", "triton")
MARK = "figure: "  # begins a line of a phase's output that contains a figure
PHASES = (
    "jax_training",
    "torch_training",
    "jax_sampling",
    "torch_sampling",
    "jax_attention",
    "torch_attention",
    "numerics",
    "agreement",
)
BOTH_SIDES = ("agreement",)
DEFAULT_SECONDS = 520.0
NO_TIME = "no time was left"
POLL = 0.1  # seconds


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.h100", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/h100.json"), help="JSON file to write")
    parser.add_argument("--size", choices=("full", "tiny"), default="full", help="the 2B model, or a toy")
    parser.add_argument("--platform", choices=("cuda", "cpu"), default="cuda", help="where both sides run")
    parser.add_argument("--phases", default=",".join(PHASES), help="comma-separated; in the order given")
    parser.add_argument("--seconds", type=float, default=DEFAULT_SECONDS, help="wall clock for the whole run")
    parser.add_argument("--batch", type=int, help="pairs in a training step, with which the search begins")
    parser.add_argument("--cache", type=Path, help="folder for compiled programs; default: a temporary one")
    parser.add_argument("--wheels", type=Path, help="folder of wheels to put on the path")
    parser.add_argument("--phase", choices=PHASES, help=argparse.SUPPRESS)  # for the processes that this one starts
    options = parser.parse_args()
    options.phases = options.phases.split(",")
    if unknown := [name for name in options.phases if name not in PHASES]:
        parser.error(f"--phases: {', '.join(unknown)} is unknown; give some of {', '.join(PHASES)}")
    if options.wheels and not any(options.wheels.glob("*.whl")):
        parser.error(f"--wheels={options.wheels}: contains no *.whl; name the folder with the wheels")
    if options.batch is not None and options.batch < 1:
        parser.error(f"--batch={options.batch}: give at least 1")
    return options


def main() -> None:
    options = parse()
    if options.phase:
        run_phase(options)
        return
    deadline = time.monotonic() + options.seconds
    with tempfile.TemporaryDirectory(prefix="h100_") as scratch:
        site = Path(scratch) / "site"
        for wheel in sorted(options.wheels.glob("*.whl")) if options.wheels else ():
            zipfile.ZipFile(wheel).extractall(site)
        sys.path.insert(0, str(site))  # so that their versions are recorded
        cache = options.cache or Path(scratch) / "cache"
        report = measure(options, deadline, site, cache.absolute())
    print(json.dumps(report["ratios"], indent=2))
    print(f"{len(report['figures'])} figures, {len(report['not_measured'])} not measured; written to {options.output}")


def measure(options: argparse.Namespace, deadline: float, site: Path, cache: Path) -> dict[str, Any]:
    """Runs the phases one after the other and writes the report after each figure."""
    started = time.monotonic()
    about = record.circumstances(os.cpu_count(), PACKAGES)
    about |= {"size": options.size, "platform": options.platform, "seconds_allowed": options.seconds}
    figures: list[dict[str, Any]] = []
    faults = dict.fromkeys(options.phases, NO_TIME)
    os.environ["JAX_PLATFORMS"] = "cpu"  # this process stays off the card
    from benchmarks.h100_phases import names
    from benchmarks.h100_sizes import SIZES

    plan = {phase: names(SIZES[options.size]())[phase] for phase in options.phases}
    batch = options.batch

    def report() -> dict[str, Any]:
        known = about | {"seconds": round(time.monotonic() - started, 1), "figures": figures, "ratios": ratios(figures)}
        found = known | {"not_measured": not_measured(plan, figures, faults)}
        record.write(found, options.output)
        return found

    for phase in options.phases:
        environment = environment_of(phase, options.platform, site, cache)
        command = [sys.executable, "-m", "benchmarks.h100", f"--phase={phase}", f"--size={options.size}"]
        command += [f"--platform={options.platform}"] + ([f"--batch={batch}"] if batch else [])
        for found in phase_figures(command, environment, deadline, phase, faults):
            figures.append(found | {"phase": phase, "at_s": round(time.monotonic() - started, 1)})
            print(json.dumps(found), flush=True)
            if (found["name"], found["side"]) == ("training_step", "jax"):
                batch = found.get("batch", batch)  # torch does the same work
            report()
    return report()


def phase_figures(
    command: list[str], environment: dict[str, str], deadline: float, phase: str, faults: dict[str, str]
) -> Iterator[dict[str, Any]]:
    """Runs a phase in a process of its own, which ends with its workers at the deadline.

    Args:
        command: of the process.
        environment: of the process.
        deadline: by ``time.monotonic``.
        phase: its name.
        faults: phase -> why figures of it may be missing; the entry of ``phase`` is set.

    Yields:
        The figures that the phase prints, as they come.
    """
    left = deadline - time.monotonic()
    if left <= 0:
        return
    # A file instead of a pipe, because a compiler's worker that outlives its parent would keep a pipe open.
    with tempfile.NamedTemporaryFile("w") as sink, open(sink.name, encoding="utf-8") as source:
        process = subprocess.Popen(command, env=environment, stdout=sink, start_new_session=True)
        try:
            has_ended, rest = False, ""
            while not has_ended:
                has_ended = process.poll() is not None
                *lines, rest = (rest + source.read()).split("\n")
                yield from (json.loads(line.removeprefix(MARK)) for line in lines if line.startswith(MARK))
                if time.monotonic() > deadline:
                    break
                time.sleep(POLL)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # its workers too
            process.wait()
    if process.returncode and time.monotonic() < deadline:
        faults[phase] = f"the phase ended with code {process.returncode}; see its messages on stderr"
    elif not process.returncode:
        faults[phase] = "the phase did not report it"


def environment_of(phase: str, platform: str, site: Path, cache: Path) -> dict[str, str]:
    """The environment of a phase's process; the user's settings take precedence over our defaults."""
    is_torch = phase.startswith("torch")
    on_card = "cuda" if platform == "cuda" else "cpu"
    folders = [str(site)] * site.is_dir() + [os.environ.get("PYTHONPATH", "")]
    ours = {
        "JAX_COMPILATION_CACHE_DIR": str(cache),
        "TORCHINDUCTOR_CACHE_DIR": str(cache / "inductor"),
        "TRITON_CACHE_DIR": str(cache / "triton"),
        "XLA_PYTHON_CLIENT_MEM_FRACTION": "0.95",  # the default leaves a quarter of the card unused
        "PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True",
        "TF_CPP_MIN_LOG_LEVEL": "2",
    }
    if phase in BOTH_SIDES:
        ours["XLA_PYTHON_CLIENT_PREALLOCATE"] = "false"
    fixed = {"JAX_PLATFORMS": "cpu" if is_torch else on_card, "PYTHONPATH": os.pathsep.join(filter(None, folders))}
    if platform == "cpu":
        fixed |= {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    return ours | os.environ | fixed


def run_phase(options: argparse.Namespace) -> None:
    """Runs one phase in this process and prints its figures."""
    from dualdiff_jax.runtime import environment

    environment.prepare()
    from benchmarks import h100_phases
    from benchmarks.h100_sizes import SIZES

    size, name = SIZES[options.size](), f"phase_{options.phase}"
    if not hasattr(h100_phases, name):
        try:
            from benchmarks import h100_torch_phases as phases
        except ImportError as error:
            for figure, side in h100_phases.names(size)[options.phase]:
                why = f"needs {error.name}; give its wheel with --wheels"
                print_figure({"name": figure, "side": side, "error": why})
            return
    else:
        phases = h100_phases
    for found in getattr(phases, name)(size, options.batch):
        print_figure(found)


def print_figure(figure: dict[str, Any]) -> None:
    print(MARK + json.dumps(figure), flush=True)


def not_measured(
    plan: dict[str, list[tuple[str, str]]], figures: list[dict[str, Any]], faults: dict[str, str]
) -> list[dict[str, str]]:
    """Every planned figure without a value, with the reason."""
    by_name = {(figure["name"], figure["side"]): figure for figure in figures}
    missing = []
    for phase, pairs in plan.items():
        for name, side in pairs:
            figure = by_name.get((name, side))
            reason = faults[phase] if figure is None else figure.get("error")
            if reason is not None:
                missing.append({"phase": phase, "name": name, "side": side, "reason": reason})
    return missing


def ratios(figures: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Name -> seconds of each torch side over those of our first side; above 1, ours is faster."""
    medians: dict[str, dict[str, float]] = {}
    for figure in figures:
        if "median_s" in figure:
            medians.setdefault(figure["name"], {})[figure["side"]] = figure["median_s"]
    found = {}
    for name, sides in medians.items():
        ours = next((side for side in sides if side.startswith("jax")), None)
        others = {side: seconds for side, seconds in sides.items() if side.startswith("torch")}
        if ours and others:
            found[name] = {f"{side}_over_{ours}": round(seconds / sides[ours], 3) for side, seconds in others.items()}
    return found


if __name__ == "__main__":
    main()
