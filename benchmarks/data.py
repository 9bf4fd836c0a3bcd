"""Images read per second, next to two other loaders: from JSON, tar and ArrayRecord, with 1 and 2 readers.

    python -m benchmarks.data

Each JPEG has about 1 megapixel of real detail (scikit-learn's photos, tiled) and is read at 512 x 512, on as many cores
as readers. The peers do what the original does, a full decode and torchvision's operations (resize, crop, to tensor,
normalize), in a plain loop over files and in webdataset's pipeline (pip install webdataset torch). Both sides produce
batches of the same arrays. Rounds alternate, and the ratio is ours over theirs, in images a second. The loader's own
part is its processor time outside of decoding, resizing and scaling images.
"""

import argparse
import contextlib
import io
import json
import os
import statistics
import tarfile
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from PIL import Image

from benchmarks import record
from demo.data import write_tokenizer
from dualdiff_jax.config import DataConfig
from dualdiff_jax.config.resolve import resolve
from dualdiff_jax.data import examples, mixture
from dualdiff_jax.data import images as image_reading
from dualdiff_jax.data.formats.array_record import write_records
from dualdiff_jax.data.images import fit, normalize
from dualdiff_jax.data.mixture import Mixture
from dualdiff_jax.data.records.record import Record
from dualdiff_jax.data.tokenizer import Tokenizer
from dualdiff_jax.runtime import environment

SIDE = 512
BATCH = 8
CAPTION = "a three left of a seven"
WARM = 16  # batches before the loader's own part is measured
REPEATS = 100  # of the images, because a tiny set shuffles slowly
FORMATS = {"json": "list.json", "tar": "0.tar", "array_record": "0.array_record"}


def megapixel_jpegs(count: int, scale: int) -> list[bytes]:
    """``count`` different JPEGs of quality 90, each side of 1280 x 854 times ``scale``, with the two photos' detail."""
    from sklearn.datasets import load_sample_images

    photos, found = load_sample_images().images, []
    for index in range(count):
        turned = [np.roll(photos[(index + k) % 2], (37 * index, 91 * index), (0, 1)) for k in range(2)]
        tile = np.concatenate([np.concatenate(turned, 1), np.concatenate(turned[::-1], 1)[::-1]], 0)
        stream = io.BytesIO()
        Image.fromarray(np.tile(tile, (scale, scale, 1))).save(stream, "JPEG", quality=90)
        found.append(stream.getvalue())
    return found


def write_data(root: Path, images: list[bytes]) -> None:
    """Writes the same images as files with JSON, as a tar shard and as ArrayRecord, and a tokenizer."""
    (root / "images").mkdir()
    metadata = []
    with tarfile.open(root / FORMATS["tar"], "w") as archive:
        for index, image in enumerate(images):
            (root / f"images/{index}.jpg").write_bytes(image)
            metadata.append({"image_path": f"images/{index}.jpg", "caption": CAPTION})
            for ending, content in (("jpg", image), ("json", json.dumps({"caption": CAPTION}).encode())):
                add_member(archive, f"{index:06d}.{ending}", content)
    (root / FORMATS["json"]).write_text(json.dumps(metadata))
    records = (Record(str(i), image, {"caption": (CAPTION,)}) for i, image in enumerate(images))
    write_records(root / FORMATS["array_record"], records)
    write_tokenizer(root / "tokenizer")


def add_member(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    archive.addfile(member, io.BytesIO(content))


def our_batches(root: Path, form: str, readers: int) -> Iterator[np.ndarray]:
    """Our loader, over both streams, with ``readers`` threads."""
    place = dict(root=str(root), files=FORMATS[form])
    common = dict(format=form, height=SIDE, width=SIDE, roots=(place,) * REPEATS, **place)
    sources = [dict(name=task, task=task, **common) for task in ("image_generation", "captioning")]
    given = {"sources": sources, "tokenizer": str(root / "tokenizer"), "read_threads": readers, "prefetch_batches": 2}
    tokenizer = Tokenizer(root / "tokenizer")
    data = Mixture(resolve(given, DataConfig), tokenizer, seed=0, global_batch_size=BATCH)
    for batch in data.batches():
        yield from (batch.image["image"], batch.text["image"])


def torchvision_operations() -> Callable[[Image.Image], Any]:
    """torchvision's Resize, CenterCrop, ToTensor and Normalize of a PIL image."""
    import torch

    half = torch.full((3, 1, 1), 0.5)

    def transform(image: Image.Image) -> Any:
        scale = SIDE / min(image.size)
        size = tuple(max(SIDE, int(side * scale)) for side in image.size)
        image = image.resize(size, Image.Resampling.BICUBIC)
        left, top = (round((side - SIDE) / 2) for side in image.size)
        image = image.crop((left, top, left + SIDE, top + SIDE))
        tensor = torch.from_numpy(np.array(image, np.uint8, copy=True)).permute(2, 0, 1).contiguous()
        return tensor.to(torch.float32).div(255).clone().sub_(half).div_(half)

    return transform


def file_batches(root: Path, readers: int) -> Iterator[Any]:
    """The original's way: a data set over JSON metadata, read by torch's loader."""
    import torch

    transform = torchvision_operations()
    metadata = json.loads((root / FORMATS["json"]).read_text())

    class Files(torch.utils.data.Dataset):
        def __len__(self) -> int:
            return 1 << 30

        def __getitem__(self, index: int) -> Any:
            found = metadata[index % len(metadata)]
            return transform(Image.open(root / found["image_path"]).convert("RGB"))

    yield from torch.utils.data.DataLoader(Files(), BATCH, num_workers=0 if readers == 1 else readers)


def webdataset_batches(root: Path, readers: int) -> Iterator[Any]:
    """webdataset's pipeline, decoding with PIL."""
    import torch
    import webdataset

    transform = torchvision_operations()
    shards = [str(root / FORMATS["tar"])] * readers
    pipeline = webdataset.WebDataset(shards, shardshuffle=False, empty_check=False).repeat().decode("pil")
    pipeline = pipeline.to_tuple("jpg", "json").map_tuple(transform, lambda fields: fields["caption"])
    batched = pipeline.batched(BATCH, collation_fn=lambda rows: torch.stack([image for image, _ in rows]))
    yield from torch.utils.data.DataLoader(batched, batch_size=None, num_workers=0 if readers == 1 else readers)


def rate(batches: Iterator[Any], count: int) -> float:
    """Images a second over ``count`` batches, after two that are not timed."""
    for _ in range(2):
        next(batches)
    start = time.perf_counter()
    for _ in range(count):
        next(batches)
    return count * BATCH / (time.perf_counter() - start)


def own_part(root: Path, form: str, count: int) -> float:
    """Share of the loader's processor time that is not spent on reading images, over ``count`` batches.

    Reading an image is decoding, resizing and scaling to [-1, 1], without fetching the file's bytes.
    """
    with (
        spent(examples, "read_pixels") as pixels,
        spent(mixture, "normalize") as scaling,
        spent(image_reading, "_stream") as bytes_of_files,
    ):
        batches = our_batches(root, form, 1)
        for _ in range(WARM):
            next(batches)
        parts = (pixels, scaling, bytes_of_files)
        start, before = time.process_time(), [part[0] for part in parts]
        for _ in range(count):
            next(batches)
        total = time.process_time() - start
        pixels_s, scaling_s, bytes_s = (part[0] - earlier for part, earlier in zip(parts, before, strict=True))
        batches.close()
        time.sleep(1.0)  # its threads finish the work they began, which must not count for the next figure
    return 1 - (pixels_s + scaling_s - bytes_s) / total


@contextlib.contextmanager
def spent(module: ModuleType, name: str) -> Iterator[list[float]]:
    """Times a function of ``module``: a list of one number, the processor seconds that all threads have spent in it."""
    function, seconds, lock = getattr(module, name), [0.0], threading.Lock()

    def timed(*args, **kwargs):
        start = time.thread_time()
        try:
            return function(*args, **kwargs)
        finally:
            taken = time.thread_time() - start
            with lock:
                seconds[0] += taken

    setattr(module, name, timed)
    try:
        yield seconds
    finally:
        setattr(module, name, function)


def resizing(images: list[bytes], rounds: int) -> dict[str, Any]:
    """The resize alone, ours next to Pillow's, on the same decoded pictures."""
    pictures = [Image.open(io.BytesIO(image)).convert("RGB") for image in images[:8]]
    pairs = []
    for _ in range(rounds):
        seconds = []
        for resize in (_pillow_resize, fit):
            start = time.process_time()
            for picture in pictures:
                resize(picture, SIDE, SIDE)
            seconds.append((time.process_time() - start) / len(pictures))
        pairs.append(seconds)
    mine, theirs = (statistics.median(seconds) * 1e3 for seconds in list(zip(*pairs, strict=True))[::-1])
    return {"what": "resize", "milliseconds": round(mine, 2), "pillow_milliseconds": round(theirs, 2)}


def _pillow_resize(picture: Image.Image, height: int, width: int) -> np.ndarray:
    """The same result as ``fit``, by Pillow's resize of the picture's centre box."""
    scale = max(height / picture.height, width / picture.width)
    left, top = (picture.width - width / scale) / 2, (picture.height - height / scale) / 2
    box = (left, top, picture.width - left, picture.height - top)
    return normalize(np.asarray(picture.resize((width, height), Image.Resampling.BICUBIC, box=box)))


def loading(root: Path, images: list[bytes], rounds: int, count: int, own_count: int) -> Iterator[dict[str, Any]]:
    """Yields the figure of the resize alone, then one for each number of readers, format and peer."""
    import torch

    torch.set_num_threads(1)
    environment.keep_memory()  # the allocator's settings hold for both sides
    cores = sorted(os.sched_getaffinity(0))
    yield resizing(images, rounds)
    peers = {"files": file_batches, "webdataset": webdataset_batches}
    for readers in (1, 2):
        if readers > len(cores):
            break
        os.sched_setaffinity(0, cores[:readers])
        for form in FORMATS:
            for peer, theirs in peers.items():
                pairs = []
                for _ in range(rounds):
                    ours = our_batches(root, form, readers)
                    mine = rate(ours, count)
                    ours.close()
                    pairs.append((mine, rate(theirs(root, readers), count)))
                ratios = [mine / other for mine, other in pairs]
                yield {
                    "format": form,
                    "readers": readers,
                    "peer": peer,
                    "images_per_second": round(statistics.median(mine for mine, _ in pairs), 1),
                    "peer_images_per_second": round(statistics.median(other for _, other in pairs), 1),
                    "ratio": {
                        "median": round(statistics.median(ratios), 3),
                        "min": round(min(ratios), 3),
                        "max": round(max(ratios), 3),
                    },
                }
            if readers == 1:
                parts = [own_part(root, form, own_count) for _ in range(rounds)]
                yield {"format": form, "readers": 1, "own_part": round(statistics.median(parts), 3)}
    os.sched_setaffinity(0, cores)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.data", description=__doc__.splitlines()[0])
    parser.add_argument("--output", default="benchmarks/results/data.json", help="JSON file to write")
    parser.add_argument("--images", type=int, default=64, help="different JPEGs to read")
    parser.add_argument("--scale", type=int, default=1, help="factor on each side of 1280 x 854 pixels")
    parser.add_argument("--rounds", type=int, default=5, help="how often each pair is measured")
    parser.add_argument("--batches", type=int, default=24, help="batches of 8 images in a round")
    parser.add_argument("--own-batches", type=int, default=60, help="batches in a round of the loader's own part")
    options = parser.parse_args()
    packages = ("pillow", "grain", "array_record", "numpy", "torch", "webdataset")
    result = record.circumstances(len(os.sched_getaffinity(0)), packages)
    with tempfile.TemporaryDirectory() as folder:
        images = megapixel_jpegs(options.images, options.scale)
        write_data(Path(folder), images)
        result["image"] = {"pixels": list(Image.open(io.BytesIO(images[0])).size), "to": SIDE}
        figures = record.print_all(loading(Path(folder), images, options.rounds, options.batches, options.own_batches))
    record.write(result | {"figures": figures}, options.output)
    print(f"written to {options.output}")


if __name__ == "__main__":
    main()
