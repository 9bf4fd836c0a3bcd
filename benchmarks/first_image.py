"""Seconds from the start of a process to its first image, with an empty cache of programs and with a full one.

    python -m benchmarks.first_image --model=runs/demo/model

Each process is ``main.py --mode=generate`` with one prompt, from Python's start to the file of the image. The first one
compiles; the others read the programs from the user's cache, which lies in a temporary folder here.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks import record

WARM = 3


def seconds(model: str, folder: Path, name: str) -> float:
    """How long a process takes that draws one image."""
    command = [sys.executable, "main.py", "--mode=generate", f"--model={model}", "--prompt=a handwritten three"]
    started = time.monotonic()
    subprocess.run(
        [*command, f"--output={folder / name}", "--quiet"],
        env=os.environ | {"XDG_CACHE_HOME": str(folder / "cache")},
        check=True,
        stdout=subprocess.DEVNULL,
    )
    found = time.monotonic() - started
    assert (folder / name / "0000.png").is_file()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.first_image", description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="runs/demo/model", help="a model folder")
    parser.add_argument("--output", default="benchmarks/results/first_image.json", help="JSON file to write")
    options = parser.parse_args()
    result = record.circumstances(len(os.sched_getaffinity(0)), ("jax", "flax", "numpy"))
    with tempfile.TemporaryDirectory() as folder:
        cold, *warm = (seconds(options.model, Path(folder), str(count)) for count in range(1 + WARM))
    figures = {
        "empty_cache_s": round(cold, 2),
        "full_cache_s": round(statistics.median(warm), 2),
        "ratio": round(cold / statistics.median(warm), 2),
    }
    print(figures)
    record.write(result | {"processes": 1 + WARM, "figures": figures}, options.output)
    print(f"written to {options.output}")


if __name__ == "__main__":
    main()
