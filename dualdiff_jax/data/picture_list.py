"""The metadata of a folder of pictures, in the format of ``formats/json_list.py``.

A picture's caption is the text beside it, ``dog.txt`` for ``dog.jpg``, as trainers of LoRAs have it; else one caption
that all others share.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from dualdiff_jax.data.formats.tar_index import IMAGE_ENDINGS
from dualdiff_jax.data.images import image_size, read_pixels
from dualdiff_jax.data.records.record import DataError
from dualdiff_jax.data.records.unicode import mend_text
from dualdiff_jax.errors import UserError, quoted, reason
from dualdiff_jax.files import read_regular
from dualdiff_jax.files.listing import file_sizes
from dualdiff_jax.progress import Progress

METADATA = "metadata.json"
FOREIGN_ENDINGS = ("heic", "heif", "dng", "cr2", "cr3", "nef", "arw", "raf", "jxl")  # pictures that Pillow cannot open
SIDE = 256  # pixels; of the decoding that shows whether a picture is whole
MOST_TEXT = 1 << 20  # bytes of a text beside a picture
SHOWN = 3  # faults that a message names


class PictureList(NamedTuple):
    """``records`` for a metadata file, and a sentence for each picture that is ``left_out``."""

    records: list[dict[str, Any]]
    left_out: list[str]


def list_pictures(folder: Path, caption: str | None, progress: Progress | None = None) -> PictureList:
    """Reads every picture in ``folder`` and below, so that a damaged one is found now and not while a model trains.

    Args:
        folder: with the pictures; files and folders whose name begins with a dot are passed over.
        caption: of each picture that has no text beside it.
        progress: called after each picture with (pictures read, all of them).

    Returns:
        Records with ``image_path`` (relative to ``folder``), ``height`` and ``width`` in upright pixels, ``ratio``
        (width / height) and ``caption``, sorted by path.

    Raises:
        UserError: there is no such folder or no good picture in it; or a picture has no caption, or an empty one.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: there is no such folder; name the folder of the pictures in --images")
    names = sorted(name for name in file_sizes(folder) if not any(part.startswith(".") for part in Path(name).parts))
    pictures = [name for name in names if _ending(name) in IMAGE_ENDINGS]
    left_out = [f"{name}: is {_ending(name).upper()}; export it as JPEG" for name in names if _is_foreign(name)]
    left_out += [
        f"{quoted(name)}: its name is no valid text; rename it" for name in pictures if mend_text(name) != name
    ]
    pictures = [name for name in pictures if mend_text(name) == name]
    captions = {name: _caption(folder, name, caption) for name in pictures}
    _check(folder, [name for name in pictures if captions[name] is None])
    records = []
    for number, name in enumerate(pictures, start=1):
        try:
            height, width = image_size(folder / name)
            read_pixels(folder / name, SIDE, SIDE)
        except DataError as error:
            left_out.append(str(error))
        else:
            size = {"height": height, "width": width, "ratio": width / height}
            records.append({"image_path": name, **size, "caption": captions[name]})
        if progress:
            progress(number, len(pictures))
    if not records:
        raise UserError(_none_found(folder, left_out))
    return PictureList(records, left_out)


def _ending(name: str) -> str:
    return Path(name).suffix[1:].lower()


def _is_foreign(name: str) -> bool:
    return _ending(name) in FOREIGN_ENDINGS


def _caption(folder: Path, name: str, caption: str | None) -> str | None:
    """The text beside a picture, in one line; else ``caption``."""
    file = (folder / name).with_suffix(".txt")
    if not file.exists():
        return caption
    try:
        text = " ".join(mend_text(read_regular(file, MOST_TEXT).decode("utf-8-sig", "replace")).split())
    except OSError as error:
        raise UserError(f"{file}: cannot be read ({reason(error)}); write the picture's caption into it") from error
    if not text:
        raise UserError(f"{file}: is empty; write the picture's caption, or remove the file and give --text")
    return text


def _check(folder: Path, without: Sequence[str]) -> None:
    if without:
        raise UserError(
            f"{folder}: {len(without)} pictures have no caption, such as {quoted(without[0])}; give --text, a caption "
            f"for all of them, or write each one's into a text file beside it, {quoted(_text_of(without[0]))}"
        )


def _text_of(name: str) -> str:
    return str(Path(name).with_suffix(".txt"))


def _none_found(folder: Path, left_out: Sequence[str]) -> str:
    if not left_out:
        return f"{folder}: holds no pictures; their names end in {', '.join(IMAGE_ENDINGS)}"
    return f"{folder}: none of its {len(left_out)} pictures can be read: {'; '.join(left_out[:SHOWN])}"
