"""Small real data: parts of scikit-learn's two photos, with captions, in every format that has a reader."""

import functools
import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
from PIL import Image
from sklearn.datasets import load_sample_images

from dualdiff_jax.config import SourceConfig
from dualdiff_jax.config.resolve import resolve
from dualdiff_jax.data.formats.array_record import write_records
from dualdiff_jax.data.records.record import Record, Turn

NAMES = ("china", "flower")
COUNT = 6
KEYS = ("caption", "re_caption")


@functools.cache
def photo(which: int) -> np.ndarray:
    """(427, 640, 3) uint8."""
    return load_sample_images().images[which]


@functools.cache
def jpeg(index: int) -> bytes:
    """Part ``index`` of the photos; each has its own size."""
    part = photo(index % 2)[20 * index : 20 * index + 80 + 8 * index, 60 * index : 60 * index + 120]
    stream = io.BytesIO()
    Image.fromarray(part).save(stream, "JPEG", quality=90)
    return stream.getvalue()


def size(index: int) -> tuple[int, int]:
    """(height, width)."""
    return 80 + 8 * index, 120


def fields(index: int) -> dict:
    """The metadata of one record."""
    height, width = size(index)
    return {
        "image_path": f"images/{index}.jpg",
        "ratio": width / height,
        "height": height,
        "width": width,
        "caption": f"{NAMES[index % 2]} {index}",
        "re_caption": f"Ein schönes Bild Nr. {index} 漢字",
        "question": f"which part is this? {index}",
        "answer": f"part {index}",
    }


def write_images(root: Path, count: int = COUNT) -> None:
    (root / "images").mkdir(parents=True, exist_ok=True)
    for index in range(count):
        (root / f"images/{index}.jpg").write_bytes(jpeg(index))


def write_json(root: Path) -> str:
    write_images(root)
    (root / "list.json").write_text(json.dumps([fields(i) for i in range(COUNT)], ensure_ascii=False, indent=1))
    return "list.json"


def write_lines(root: Path) -> str:
    write_images(root)
    lines = [json.dumps(fields(i), ensure_ascii=False) for i in range(COUNT)]
    (root / "lines.jsonl").write_text("\n".join(lines[:3]) + "\n\n" + "\r\n".join(lines[3:]))
    return "lines.jsonl"


def write_tar(root: Path, ending: str = "json") -> str:
    """Two shards of three samples."""
    root.mkdir(parents=True, exist_ok=True)
    for shard in range(2):
        with tarfile.open(root / f"{shard:05d}.tar", "w") as archive:
            for index in range(3 * shard, 3 * shard + 3):
                text = json.dumps(fields(index)) if ending == "json" else fields(index)["caption"]
                add(archive, f"sub/{index:04d}.jpg", jpeg(index))
                add(archive, f"sub/{index:04d}.{ending}", text.encode())
    return "{00000..00001}.tar"


def add(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    archive.addfile(member, io.BytesIO(content))


def write_array_record(root: Path) -> str:
    root.mkdir(parents=True, exist_ok=True)
    write_records(root / "all.array_record", map(record, range(COUNT)))
    return "all.array_record"


def record(index: int) -> Record:
    found = fields(index)
    return Record(
        record_id=f"photo {index}",
        image=jpeg(index),
        captions={key: (found[key],) for key in KEYS},
        turns=(Turn(found["question"], found["answer"]),),
        size=size(index),
    )


def write_parquet(root: Path) -> str:
    """As Hugging Face writes it: an image is a struct of bytes and path. Row groups of two."""
    root.mkdir(parents=True, exist_ok=True)
    rows = [fields(i) | {"image_path": {"bytes": jpeg(i), "path": f"{i}.jpg"}} for i in range(COUNT)]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), root / "train-00000.parquet", row_group_size=2)
    return "train-*.parquet"


WRITERS = {
    "json": ("json", write_json),
    "json lines": ("json", write_lines),
    "tar": ("tar", write_tar),
    "array_record": ("array_record", write_array_record),
    "parquet": ("parquet", write_parquet),
}


def source(root: Path, files: str, **changes) -> SourceConfig:
    """A captioning source over both captions, unless ``changes`` say otherwise."""
    given = {
        "name": "photos",
        "root": str(root),
        "files": files,
        "task": "captioning",
        "height": 64,
        "width": 64,
        "caption_keys": KEYS,
        "caption_weights": (0.5, 0.5),
    }
    return resolve(given | changes, SourceConfig)


def content(record: Record) -> bytes:
    return record.image if isinstance(record.image, bytes) else record.image.read_bytes()
