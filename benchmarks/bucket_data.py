"""Images read per second from a bucket, next to the same files on a disk.

    python -m benchmarks.bucket_data

The records are JPEGs of 512 x 512 with real detail (parts of scikit-learn's photos), read at that size by 16 threads.
The bucket is the tests' emulator on this machine, which answers each request 20 ms late; nothing is kept on the disk
(data.local_cache is ""). A bucket's own server takes no processor time of this machine's, so the emulator keeps the
last core to itself, and the reader has the others in both cases. Rounds alternate, and the ratio is the bucket's rate
over the disk's. One Parquet file has eight row groups, as many as stay in memory, and another has 32, most of which
are read again for each of their rows. ``requests_per_image`` is what a bill counts.
"""

import argparse
import io
import json
import os
import statistics
import tarfile
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmarks import record
from benchmarks.data import BATCH, CAPTION, add_member
from demo.data import write_tokenizer
from dualdiff_jax.config import DataConfig
from dualdiff_jax.config.resolve import resolve
from dualdiff_jax.data.formats.array_record import write_records
from dualdiff_jax.data.mixture import Mixture
from dualdiff_jax.data.records.record import Record
from dualdiff_jax.data.tokenizer import Tokenizer
from dualdiff_jax.files import as_path
from dualdiff_jax.runtime import environment
from tests.buckets.server import Bucket, serving

SIDE = 512
DELAY = 0.02  # seconds of each request
IN_FLIGHT = 16
WARM = 16  # batches of each round that are not timed
FILES = {
    "json": ("json", "list.json"),
    "json lines": ("json", "list.jsonl"),
    "tar": ("tar", "0.tar"),
    "parquet": ("parquet", "8.parquet"),
    "parquet, 32 row groups": ("parquet", "32.parquet"),
    "array_record": ("array_record", "0.array_record"),
}


def jpegs(count: int) -> list[bytes]:
    """``count`` different JPEGs of quality 90."""
    from sklearn.datasets import load_sample_images

    photos, rng, found = load_sample_images().images, np.random.default_rng(0), []
    for index in range(count):
        tile = np.tile(photos[index % 2], (2, 1, 1))
        top, left = rng.integers(tile.shape[0] - SIDE), rng.integers(tile.shape[1] - SIDE)
        stream = io.BytesIO()
        Image.fromarray(tile[top : top + SIDE, left : left + SIDE]).save(stream, "JPEG", quality=90)
        found.append(stream.getvalue())
    return found


def write_data(root: Path, images: list[bytes]) -> None:
    """Writes the same images in every format."""
    import pyarrow
    import pyarrow.parquet

    (root / "images").mkdir()
    rows = [{"image_path": f"images/{index}.jpg", "caption": CAPTION} for index in range(len(images))]
    (root / "list.json").write_text(json.dumps(rows))
    (root / "list.jsonl").write_text("\n".join(map(json.dumps, rows)))
    with tarfile.open(root / "0.tar", "w") as archive:
        for index, image in enumerate(images):
            (root / f"images/{index}.jpg").write_bytes(image)
            for ending, content in (("jpg", image), ("json", json.dumps({"caption": CAPTION}).encode())):
                add_member(archive, f"{index:06d}.{ending}", content)
    write_records(root / "0.array_record", (Record(str(i), im, {"caption": (CAPTION,)}) for i, im in enumerate(images)))
    table = pyarrow.Table.from_pylist([{"image_path": {"bytes": image}, "caption": CAPTION} for image in images])
    for groups in (8, 32):
        pyarrow.parquet.write_table(table, root / f"{groups}.parquet", row_group_size=-(-len(images) // groups))


def batches(root: str, name: str, tokenizer: Tokenizer) -> Iterator[Any]:
    """The loader's batches from one place."""
    form, files = FILES[name]
    source = dict(name="photos", task="captioning", format=form, root=root, files=files, height=SIDE, width=SIDE)
    given = {
        "sources": [source],
        "tokenizer": str(tokenizer.folder),
        "read_threads": IN_FLIGHT,
        "prefetch_batches": IN_FLIGHT,
    }
    data = Mixture(resolve(given, DataConfig), tokenizer, streams=("text",), seed=0, global_batch_size=BATCH)
    return data.batches()


def rate(found: Iterator[Any], count: int, bucket: Bucket) -> tuple[float, float]:
    """(images a second over ``count`` batches, requests for each image)."""
    for _ in range(WARM):
        next(found)
    start, before = time.perf_counter(), sum(bucket.requests().values())
    for _ in range(count):
        next(found)
    seconds, images = time.perf_counter() - start, count * BATCH
    requests = sum(bucket.requests().values()) - before
    found.close()  # pyright: ignore[reportAttributeAccessIssue]
    time.sleep(0.5)  # its threads finish what they began
    return images / seconds, requests / images


def keep_apart() -> None:
    """Gives the emulator, this process's only child, the last core, and this process the others."""
    emulator = int(Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()[-1])
    *others, last = sorted(os.sched_getaffinity(0))
    if others:
        os.sched_setaffinity(emulator, {last})
        os.sched_setaffinity(0, others)


def measure(root: Path, bucket: Bucket, rounds: int, count: int) -> Iterator[dict[str, Any]]:
    """Yields one figure for each format."""
    tokenizer = Tokenizer(root / "tokenizer")
    for name in FILES:
        pairs = [
            [rate(batches(place, name, tokenizer), count, bucket) for place in (bucket.root, str(root))]
            for _ in range(rounds)
        ]
        ratios = [remote[0] / disk[0] for remote, disk in pairs]
        yield {
            "format": name,
            "images_per_second": round(statistics.median(remote[0] for remote, _ in pairs), 1),
            "disk_images_per_second": round(statistics.median(disk[0] for _, disk in pairs), 1),
            "ratio": {
                "median": round(statistics.median(ratios), 3),
                "min": round(min(ratios), 3),
                "max": round(max(ratios), 3),
            },
            "requests_per_image": round(statistics.median(remote[1] for remote, _ in pairs), 2),
        }


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.bucket_data", description=__doc__.splitlines()[0])
    parser.add_argument("--output", default="benchmarks/results/bucket_data.json", help="JSON file to write")
    parser.add_argument("--images", type=int, default=256, help="different JPEGs to read")
    parser.add_argument("--rounds", type=int, default=7, help="how often each pair is measured")
    parser.add_argument("--batches", type=int, default=100, help="batches of 8 images in a round")
    options = parser.parse_args()
    environment.keep_memory()
    cores = len(os.sched_getaffinity(0))
    result = record.circumstances(cores, ("pillow", "grain", "array_record", "numpy", "gcsfs", "pyarrow"))
    with tempfile.TemporaryDirectory() as folder, serving() as bucket:
        keep_apart()
        os.environ.update(bucket.environment | {"XDG_CACHE_HOME": f"{folder}/cache"})
        root = Path(folder) / "data"
        root.mkdir()
        images = jpegs(options.images)
        write_data(root, images)
        for file in sorted(path for path in root.rglob("*") if path.is_file()):
            (as_path(bucket.root) / file.relative_to(root).as_posix()).upload(file)  # pyright: ignore
        write_tokenizer(root / "tokenizer")
        bucket.fail(delay=DELAY)
        result |= {
            "in_flight": IN_FLIGHT,
            "rounds": options.rounds,
            "delay_s": DELAY,
            "kilobytes_per_image": sum(map(len, images)) // len(images) // 1000,
        }
        figures = record.print_all(measure(root, bucket, options.rounds, options.batches))
    record.write(result | {"figures": figures}, options.output)
    print(f"written to {options.output}")


if __name__ == "__main__":
    main()
