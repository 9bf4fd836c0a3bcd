"""Evaluates a trained demo: writes WORKDIR/report.html and WORKDIR/report.json and prints a table.

python -m demo.report --workdir=runs/demo
"""

import argparse
import datetime
import json
import math
import os
import platform
import sys
import time
from pathlib import Path

import flax
import jax
import numpy as np
import sklearn

from demo.digits import load
from demo.page import page
from demo.picture import picture
from demo.samples import sample
from demo.scores import MEASURES, DigitClassifier, judge, missed
from dualdiff_jax.config import ModelConfig
from dualdiff_jax.errors import UserError
from dualdiff_jax.files import write_text
from dualdiff_jax.models.bundle import leaf_specs
from dualdiff_jax.pipeline.pipeline import DualDiffusionPipeline
from dualdiff_jax.runtime import environment


def report(workdir: Path, started: float | None, seed: int, picture_file: Path | None) -> dict:
    """Samples, judges, and writes the page, the figures and the picture.

    Args:
        workdir: folder of the finished training.
        started: seconds since the epoch at which the whole demo was started, if known.
        seed: of all samples.
        picture_file: None for no picture.

    Returns:
        The figures, as in report.json.
    """
    metrics = read_metrics(workdir / "metrics.jsonl")
    pipeline = DualDiffusionPipeline.from_pretrained(workdir / "model")
    train, held_out = load()
    before = time.perf_counter()
    samples = sample(pipeline, held_out, seed)
    sampling_seconds = time.perf_counter() - before
    verdicts = judge(samples, DigitClassifier(train), held_out)
    figures = summary(verdicts) | {
        "train_seconds": metrics[-1]["seconds"],
        "train_steps": metrics[-1]["step"],
        "sampling_seconds": sampling_seconds,
        "total_seconds": None if started is None else time.time() - started,
        "parameters": count_parameters(pipeline.config),
        "seed": seed,
    }
    figures |= surroundings()
    if picture_file is not None:
        picture_file.parent.mkdir(parents=True, exist_ok=True)
        picture(samples).save(picture_file)
    write_text(workdir / "report.html", page(figures, samples, verdicts, metrics))
    write_text(workdir / "report.json", json.dumps(figures, indent=2) + "\n")
    return figures


def summary(verdicts: dict[str, np.ndarray]) -> dict:
    """Scores, the number of examples of each, the bounds, and the names of those that were missed."""
    scores = {name: float(is_right.mean()) for name, is_right in verdicts.items()}
    return scores | {
        "examples": {name: len(is_right) for name, is_right in verdicts.items()},
        "bounds": {name: measure.bound for name, measure in MEASURES.items() if measure.bound is not None},
        "missed": missed(scores),
    }


def read_metrics(file: Path) -> list[dict]:
    """The records that training logged, in the order of steps."""
    if not file.is_file():
        raise UserError(f"{file}: does not exist; name the --workdir of a finished training")
    records = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    if not records:
        raise UserError(f"{file}: is empty; name the --workdir of a finished training")
    return records


def count_parameters(config: ModelConfig) -> int:
    """Trainable numbers of the model."""
    return sum(math.prod(spec.shape) for spec in leaf_specs(config).values() if spec.trainable)


def surroundings() -> dict:
    """Where and when the figures were measured."""
    return {
        "versions": {
            "python": platform.python_version(),
            "jax": jax.__version__,
            "flax": flax.__version__,
            "numpy": np.__version__,
            "scikit-learn": sklearn.__version__,
        },
        "machine": {
            "platform": platform.platform(),
            "device": jax.devices()[0].device_kind,
            "cpu_count": os.cpu_count(),
        },
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }


def table(figures: dict) -> str:
    """The scores as plain text, and the bounds that were missed."""
    lines = []
    for name in MEASURES:
        bound = figures["bounds"].get(name)
        verdict = (
            "" if bound is None else f"{'MISSED' if name in figures['missed'] else 'met':>6}  (at least {bound:.2f})"
        )
        lines.append(f"{name:36} {figures[name]:.4f}  of {figures['examples'][name]:4}  {verdict}".rstrip())
    missed_bounds = ", ".join(figures["missed"]) or "none"
    return "\n".join([*lines, f"bounds missed: {missed_bounds}"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workdir", type=Path, default=Path("runs/demo"), help="folder of the finished training")
    parser.add_argument("--started", type=float, help="start of the whole demo, in seconds since the epoch")
    parser.add_argument("--seed", type=int, default=0, help="seed of all samples")
    parser.add_argument("--picture", type=Path, help="PNG file for a picture of the results")
    options = parser.parse_args()
    environment.prepare()
    try:
        figures = report(options.workdir, options.started, options.seed, options.picture)
    except UserError as error:
        sys.exit(f"error: {error}")
    print(table(figures))
    print(f"report: {options.workdir / 'report.html'}")


if __name__ == "__main__":
    main()
