"""The files of one benchmark's images in the folder of an evaluation."""

import contextlib
import json
from collections.abc import Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from typing import Any

from dualdiff_jax.data.records.unicode import mend_text
from dualdiff_jax.errors import UserError
from dualdiff_jax.evaluation import record
from dualdiff_jax.evaluation.generation.prompts import Prompt
from dualdiff_jax.files import new_file, read_regular, remove, write_text
from dualdiff_jax.files.listing import file_sizes
from dualdiff_jax.json_files import checked, parse_json

WRITERS = 8  # threads that compress images
METADATA = "metadata.jsonl"
NUMBERED = 3  # parts of the name of an image that has metadata: 00000/samples/0000.png
MOST = 1 << 30  # bytes of a list of images


def results_file(images: Path) -> Path:
    """Where the results of a scorer elsewhere belong, a line for each image of the folder ``images``."""
    return images.with_name(f"{images.name}.results.jsonl")


def listing_file(images: Path) -> Path:
    """The file that lists the images and prompts of the folder ``images``."""
    return images.with_name(f"{images.name}.images.jsonl")


def check_apart(images: Path, data: Path) -> None:
    """Raises ``UserError`` where the publisher's data lie in the folder ``images``, into which a task draws."""
    there = data.resolve()
    if images.resolve() in (there, *there.parents):
        raise UserError(f"{images}: holds the task's data, and images would be drawn into it; name another --output")


class ImageFiles:
    """The images of one task. Threads write them, so that the model does not wait.

    Args:
        task: its name.
        folder: of the evaluation; exists.
    """

    def __init__(self, task: str, folder: Path):
        self._record, self.images = folder / f"{task}.json", folder / task
        self._threads = ThreadPoolExecutor(WRITERS)
        self._writing: list[Future[None]] = []

    def begin(
        self, found: record.Record, prompts: Sequence[Prompt], rows: Sequence[dict[str, Any]], overwrite: bool
    ) -> set[str]:
        """Writes the record, the list of images and the metadata.

        Args:
            found: the record.
            prompts: all.
            rows: {"image", "prompt", "seed"} of each image.
            overwrite: whether to remove the images that this program drew there, and their results.

        Returns:
            The names of the images that are there.

        Raises:
            UserError: the images are of something else, a folder to be removed has other files, or a file cannot be
                written.
        """
        with record.file_faults(self.images, "written"):
            before = record.read_record(self._record)
            foreign = _foreign(self.images) if overwrite or before is None else []
            if overwrite and foreign:
                raise UserError(
                    f"{self.images}: holds other files, which --overwrite would remove, such as {foreign[0]}; name "
                    "another --output"
                )
            if overwrite:
                remove(results_file(self.images))
                remove(self.images)  # before the record, which would vouch for them
            there = file_sizes(self.images)
            if before is None and there and not overwrite:
                raise UserError(
                    f"{self.images}: has files, but no {self._record.name} beside it says what drew them; choose "
                    f"another --output{'' if foreign else ', or give --overwrite to replace them'}"
                )
            changed = [] if before is None or overwrite else record.differences(before, found)
            if changed:
                raise UserError(
                    f"{self._record}: is of images by another model, of other data or by other settings; choose "
                    "another --output, or give --overwrite to replace them. There -> here:\n  " + "\n  ".join(changed)
                )
            others = sorted(name for name in there.keys() - {row["image"] for row in rows} if _is_image(name))
            if others:
                raise UserError(
                    f"{self.images}: has {len(others)} images that are not asked for, such as {others[0]}; give the "
                    "--limit that drew them or a larger one, another --output, or --overwrite"
                )
            record.write_record(self._record, found)
            self.images.mkdir(parents=True, exist_ok=True)
            lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
            write_text(listing_file(self.images), mend_text(lines))
            list(self._threads.map(self._write_metadata, [each for each in prompts if each.metadata is not None]))
        return {name for name, size in there.items() if size}

    def _write_metadata(self, prompt: Prompt) -> None:
        folder = (self.images / prompt.folder).parent
        folder.mkdir(parents=True, exist_ok=True)
        write_text(folder / METADATA, json.dumps(prompt.metadata))

    def write(self, names: Sequence[str], images: Sequence[Any]) -> None:
        """Begins to write PIL images once earlier ones are written. Raises ``UserError`` where those cannot be."""
        self._flush()
        for folder in sorted({(self.images / name).parent for name in names}):
            with record.file_faults(folder, "written"):
                folder.mkdir(parents=True, exist_ok=True)
        self._writing = [
            self._threads.submit(_save, self.images / name, image) for name, image in zip(names, images, strict=True)
        ]

    def _flush(self) -> None:
        writing, self._writing = self._writing, []
        with record.file_faults(self.images, "written"):
            for each in writing:
                each.result()

    def close(self) -> None:
        """Writes what is left. Raises ``UserError`` where it cannot be written."""
        try:
            self._flush()
        finally:
            self._threads.shutdown()

    def end(self, found: record.Record) -> None:
        """Writes the complete record. Raises ``UserError`` where it cannot be written."""
        record.write_record(self._record, found)


def _foreign(images: Path) -> list[str]:
    """The files of the folder that no drawing wrote, as far as its list of images tells; all, where that is damaged."""
    there, own = file_sizes(images), set()
    listed: Iterable[str] = ()
    if there:
        with contextlib.suppress(UserError):
            listed = read_listing(images)
    for name in listed:
        path = PurePosixPath(name)
        written = [path, path.parent.parent / METADATA] if len(path.parts) == NUMBERED else [path]
        own |= {str(each.with_name(n)) for each in written for n in (each.name, f".{each.name}.partial")}
    return [name for name in there if name not in own]


def read_listing(images: Path) -> dict[str, str]:
    """Name -> prompt of each image of a folder that a drawing wrote.

    Raises:
        UserError: its list is missing or damaged.
    """
    file = listing_file(images)
    if not file.is_file():
        raise UserError(f"{file}: is missing; it says what the images of {images} were drawn of")
    found = {}
    with record.file_faults(file, "read"):
        lines = read_regular(file, MOST).split(b"\n")
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        place = f"{file}: line {number}"
        row = checked(parse_json(line.decode("utf-8", "replace"), place), dict, place)
        found[checked(row.get("image"), str, f"{place}: image")] = checked(row.get("prompt"), str, f"{place}: prompt")
    return found


def _is_image(name: str) -> bool:
    return name.endswith(".png") and not name.rpartition("/")[2].startswith(".")


def _save(file: Path, image: Any) -> None:
    with new_file(file) as partial:
        image.save(partial, "PNG")
