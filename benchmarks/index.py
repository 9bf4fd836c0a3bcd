"""Seconds and memory to build, open, filter and train from a large index of records.

python -m benchmarks.index --records=10000000
"""

import argparse
import functools
import io
import json
import os
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmarks import record
from benchmarks.data import BATCH, add_member
from demo.data import write_tokenizer
from dualdiff_jax.config import DataConfig, SourceConfig
from dualdiff_jax.config.resolve import resolve
from dualdiff_jax.data.formats.registry import open_source
from dualdiff_jax.data.mixture import Mixture
from dualdiff_jax.data.records.index import IndexCache
from dualdiff_jax.data.tokenizer import Tokenizer

SHARD_SAMPLES = 100_000


def indexing(records: int) -> Iterator[dict[str, Any]]:
    """Yields seconds and resident memory of each step of ``LARGE``, on JSON Lines and on tar shards."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        write_tokenizer(root / "tokenizer")
        for form, write in (("json", _write_lines), ("tar", _write_shards)):
            files = write(root, records)
            for what in ("build", "open", "stream") + (("filter", "filtered stream") if form == "json" else ()):
                process = subprocess.run(
                    [sys.executable, "-m", "benchmarks.index", f"--large={form}:{what}:{root}:{files}"],
                    check=True,
                    capture_output=True,
                    text=True,
                )
                yield {"format": form, "what": what} | json.loads(process.stdout.splitlines()[-1])


def _write_lines(root: Path, records: int) -> str:
    line = '{{"image_path": "one.jpg", "height": 600, "width": 800, "caption": "{0}"}}\n'
    with (root / "lines.jsonl").open("w") as stream:
        for index in range(records):
            stream.write(line.format(index))
    (root / "one.jpg").write_bytes(_small_jpeg())
    return "lines.jsonl"


def _write_shards(root: Path, records: int) -> str:
    """One shard of small members, and hard links to it, which the loader takes for different shards."""
    samples, image = min(records, SHARD_SAMPLES), _small_jpeg()
    with tarfile.open(root / "00000.tar", "w") as archive:
        for index in range(samples):
            add_member(archive, f"{index:09d}.jpg", image)
            add_member(archive, f"{index:09d}.json", b'{"caption": "one"}')
    shards = records // samples
    for shard in range(1, shards):
        os.link(root / "00000.tar", root / f"{shard:05d}.tar")
    return f"{{00000..{shards - 1:05d}}}.tar"


def _small_jpeg() -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (8, 8)).save(stream, "JPEG")
    return stream.getvalue()


def large(form: str, what: str, root: str, files: str) -> dict[str, Any]:
    """Runs one step of ``LARGE`` in this process and measures its seconds and its memory."""
    given = dict(name="read", task="captioning", format=form, root=root, files=files, height=8, width=8)
    before = _most_resident()
    start = time.perf_counter()
    found = LARGE[what](given)
    seconds = time.perf_counter() - start
    return {
        **found,
        "seconds": round(seconds, 2),
        "resident_mib": round(_most_resident() / 1024),
        "resident_before_mib": round(before / 1024),
    }


def _most_resident() -> int:
    """Peak resident KiB of this program alone; getrusage is never below the peak of the parent process."""
    status = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in status if line.startswith("VmHWM:"))


def _open_large(given: dict[str, Any]) -> dict[str, int]:
    """Opens the source and reads a thousand records at random positions."""
    source = open_source(resolve(given, SourceConfig), IndexCache(f"{given['root']}/index"))
    for index in np.random.default_rng(0).integers(0, len(source), 1000).tolist():
        assert source[index].captions
    return {"records": len(source)}


def _stream_large(given: dict[str, Any], **filters: Any) -> dict[str, int]:
    """Opens both streams of a run and reads a hundred batches from the middle of their shuffled order."""
    root = Path(given["root"])
    sources = [given | filters, given | filters | {"name": "draw", "task": "image_generation"}]
    config = {"sources": sources, "tokenizer": str(root / "tokenizer"), "index_cache": str(root / "index")}
    data = Mixture(resolve(config, DataConfig), Tokenizer(root / "tokenizer"), seed=0, global_batch_size=BATCH)
    batches = data.batches(100_000)
    for _ in range(100):
        next(batches)
    batches.close()
    return {"records": min(data.counts().values())}


FILTERS = {"max_aspect": 4.0, "min_side": 4, "min_caption": 1, "max_caption": 100}
# Build the index (by the first call), open it, train from it; the same with filters, which read every record once.
LARGE = {
    "build": _open_large,
    "open": _open_large,
    "stream": _stream_large,
    "filter": functools.partial(_stream_large, **FILTERS),
    "filtered stream": functools.partial(_stream_large, **FILTERS),
}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.index", description=__doc__.splitlines()[0])
    parser.add_argument("--output", default="benchmarks/results/index.json", help="JSON file to write")
    parser.add_argument("--records", type=int, default=10_000_000, help="records of each of the two sources")
    parser.add_argument("--large", help=argparse.SUPPRESS)  # one of our own processes
    options = parser.parse_args()
    if options.large:
        print(json.dumps(large(*options.large.split(":", 3))))
        return
    result = record.circumstances(len(os.sched_getaffinity(0)), ("pillow", "grain", "array_record", "numpy"))
    record.write(result | {"figures": record.print_all(indexing(options.records))}, options.output)
    print(f"written to {options.output}")


if __name__ == "__main__":
    main()
