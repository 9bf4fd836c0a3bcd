"""Requests that a run makes of the bucket in which its workdir lies: a bill counts them, not bytes alone.

    python -m benchmarks.bucket_run

A small model on one device trains from local data; the bucket is the tests' emulator. Requests of class A write and
list, those of class B read (Google's terms). The checkpoint of a larger model has the same objects, but larger ones,
which are uploaded in more requests; each further host adds its own objects.
"""

import argparse
import collections
import os
import tempfile
from pathlib import Path
from typing import Any

import jax

from benchmarks import record
from dualdiff_jax.sharding import make_mesh
from dualdiff_jax.training import checkpoint, loop
from tests.buckets.server import Bucket, serving
from tests.small_run import small_run

STEPS, SAVE_EVERY = 8, 4


def count(folder: Path, bucket: Bucket) -> dict[str, dict[str, float]]:
    """Requests of each phase, by class."""
    train = {"steps": STEPS, "save_every": SAVE_EVERY, "log_every": 1}
    config, _ = small_run(folder / "data", train=train)
    mesh, seen, phases = make_mesh(config.mesh, jax.devices()[:1]), collections.Counter(), {}

    def phase(name: str, divisor: int = 1) -> None:
        now = classes(bucket.requests())
        phases[name] = {kind: round((now[kind] - seen[kind]) / divisor, 1) for kind in ("A", "B")}
        seen.update(now - seen)

    def at(step: int, weights: Any) -> None:
        if step == 1:
            phase("start")
        elif step == SAVE_EVERY - 1:
            phase("a step that logs", SAVE_EVERY - 2)

    save = checkpoint.Checkpoints.save

    def save_and_wait(checkpoints: checkpoint.Checkpoints, step: int, *arguments: Any) -> None:
        before = collections.Counter(classes(bucket.requests()))
        save(checkpoints, step, *arguments)
        checkpoints._manager.wait_until_finished()
        phases["a checkpoint"] = {kind: classes(bucket.requests())[kind] - before[kind] for kind in ("A", "B")}
        seen.update(classes(bucket.requests()) - seen)

    checkpoint.Checkpoints.save = save_and_wait
    loop.train(config, f"{bucket.root}/run", mesh, [(1, at)])
    phase("the model folder and the end")
    return phases


def classes(requests: dict[str, int]) -> collections.Counter[str]:
    """The emulator's counts by class; deletions are free."""
    found: collections.Counter[str] = collections.Counter()
    for kind, number in requests.items():
        method, _, what = kind.partition(" ")
        if method != "DELETE":
            found["B" if method == "GET" and what != "list" else "A"] += number
    return found


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.bucket_run", description=__doc__.splitlines()[0])
    parser.add_argument("--output", default="benchmarks/results/bucket_run.json", help="JSON file to write")
    options = parser.parse_args()
    result = record.circumstances(len(os.sched_getaffinity(0)), ("gcsfs", "tensorstore", "orbax-checkpoint"))
    with tempfile.TemporaryDirectory() as folder, serving() as bucket:
        os.environ.update(bucket.environment)
        phases = count(Path(folder), bucket)
    figures = record.print_all({"phase": name, "requests": found} for name, found in phases.items())
    record.write(result | {"figures": figures}, options.output)
    print(f"written to {options.output}")


if __name__ == "__main__":
    main()
