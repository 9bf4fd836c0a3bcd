"""Data sets of a few photos whose records a test edits, written in every format anew."""

import dataclasses
import json
import shutil
import tarfile
from collections.abc import Callable, Sequence
from pathlib import Path

import pyarrow
import pyarrow.parquet

from dualdiff_jax.data.formats.array_record import write_records
from dualdiff_jax.data.records.record import Record
from tests.unit.data import photos


@dataclasses.dataclass(frozen=True)
class Photo:
    """One record; ``name`` is the stem of its image's file."""

    name: str
    caption: str
    image: bytes

    def fields(self) -> dict:
        return {"image_path": f"images/{self.name}.jpg", "caption": self.caption, "re_caption": "A photo."}


PHOTOS = [Photo(f"{index:04d}", f"caption {index}", photos.jpeg(index)) for index in range(photos.COUNT)]


def other_image(image: bytes) -> bytes:
    """An image of the same size, in bytes and in pixels, with another last row of pixels."""
    return image[:-12] + bytes(byte ^ 1 for byte in image[-12:-4]) + image[-4:]


# What a user may do to the records: name -> (records -> records).
EDITS: dict[str, Callable[[list[Photo]], Sequence[Photo]]] = {
    "a caption edited": lambda p: [*p[:2], dataclasses.replace(p[2], caption="another 2"), *p[3:]],
    "the last caption edited": lambda p: [*p[:-1], dataclasses.replace(p[-1], caption="another 5")],
    "an image replaced": lambda p: [*p[:2], dataclasses.replace(p[2], image=other_image(p[2].image)), *p[3:]],
    "one removed and one added": lambda p: [*p[1:], dataclasses.replace(p[0], name="new", caption="new")],
    "another order": lambda p: [p[1], p[0], *p[2:]],
    "one removed": lambda p: p[:-1],
}


def _write_images(root: Path, rows: Sequence[Photo]) -> None:
    (root / "images").mkdir(parents=True, exist_ok=True)
    for row in rows:
        file = root / "images" / f"{row.name}.jpg"
        if not file.exists() or file.read_bytes() != row.image:
            file.write_bytes(row.image)


def _json(root: Path, rows: Sequence[Photo]) -> str:
    _write_images(root, rows)
    (root / "list.json").write_text(json.dumps([row.fields() for row in rows]))
    return "list.json"


def _lines(root: Path, rows: Sequence[Photo]) -> str:
    _write_images(root, rows)
    (root / "list.jsonl").write_text("\n".join(json.dumps(row.fields()) for row in rows))
    return "list.jsonl"


def _tar(root: Path, rows: Sequence[Photo]) -> str:
    """Two shards."""
    for number, shard in enumerate((rows[:3], rows[3:])):
        with tarfile.open(root / f"{number:05d}.tar", "w") as archive:
            for row in shard:
                photos.add(archive, f"{row.name}.jpg", row.image)
                photos.add(archive, f"{row.name}.json", json.dumps(row.fields()).encode())
    return "*.tar"


def _parquet(root: Path, rows: Sequence[Photo]) -> str:
    """Two files with row groups of two."""
    for number, part in enumerate((rows[:3], rows[3:])):
        table = pyarrow.Table.from_pylist([row.fields() | {"image_path": {"bytes": row.image}} for row in part])
        pyarrow.parquet.write_table(table, root / f"{number}.parquet", row_group_size=2)
    return "*.parquet"


def _array_record(root: Path, rows: Sequence[Photo]) -> str:
    records = (Record(row.name, row.image, captions={"caption": (row.caption,)}) for row in rows)
    write_records(root / "all.array_record", records)
    return "all.array_record"


def _vqa_v2(root: Path, rows: Sequence[Photo]) -> str:
    """The caption is the question; an image's number is its row, or 99 for a new one."""
    numbers = [int(row.name) if row.name.isdecimal() else 99 for row in rows]
    (root / "train2014").mkdir(parents=True, exist_ok=True)
    for number, row in zip(numbers, rows, strict=True):
        (root / f"train2014/COCO_train2014_{number:012d}.jpg").write_bytes(row.image)
    questions = [
        {"image_id": number, "question_id": number, "question": row.caption}
        for number, row in zip(numbers, rows, strict=True)
    ]
    annotations = [{"question_id": number, "multiple_choice_answer": "yes", "answers": []} for number in numbers]
    (root / "v2_OpenEnded_mscoco_train2014_questions.json").write_text(json.dumps({"questions": questions}))
    (root / "v2_mscoco_train2014_annotations.json").write_text(json.dumps({"annotations": annotations}))
    return ""


# Name -> (format, how to write records; returns ``files``).
WRITERS: dict[str, tuple[str, Callable[[Path, Sequence[Photo]], str]]] = {
    "json": ("json", _json),
    "json lines": ("json", _lines),
    "tar": ("tar", _tar),
    "parquet": ("parquet", _parquet),
    "array_record": ("array_record", _array_record),
    "vqa_v2": ("vqa_v2", _vqa_v2),
}


def write(root: Path, kind: str, rows: Sequence[Photo] = PHOTOS) -> dict:
    """Writes ``rows`` in a format; returns the fields of the source's config that read them."""
    root.mkdir(parents=True, exist_ok=True)
    form, writer = WRITERS[kind]
    fields = {"root": str(root), "files": writer(root, rows), "format": form, "name": "photos"}
    if form == "vqa_v2":
        return fields | {"task": "instruction"}
    return fields | {"task": "captioning", "caption_keys": ("caption",), "image_key": "image_path"}


def copy_with_new_times(root: Path, target: Path) -> Path:
    """A copy of all files but the indexes; each has the time at which it was copied."""
    ignore = shutil.ignore_patterns(".dualdiff_index")
    return Path(shutil.copytree(root, target, copy_function=shutil.copyfile, ignore=ignore))
