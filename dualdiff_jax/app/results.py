"""Results as a page shows them, and as files that hold their settings."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from dualdiff_jax.app.calls import Call
from dualdiff_jax.app.studio import Studio
from dualdiff_jax.app.uploads import PICTURE

SETTINGS, RESULT, SOFTWARE = "dualdiff", "dualdiff result", "Software"  # keys of a PNG's texts


class Result(NamedTuple):
    """What one call found, or the part of it that is there so far."""

    images: Sequence[Image.Image | str] = ()  # pictures, or files of them
    html: str = ""  # escaped
    files: Sequence[str] = ()  # to download
    python: str = ""
    command: str = ""


def finished(
    studio: Studio,
    call: Call,
    *,
    images: Sequence[Image.Image] = (),
    html: str = "",
    text: str = "",
    sources: Mapping[str, Image.Image] | None = None,
) -> Result:
    """Writes the files of a result.

    Args:
        studio: whose folder they are written into.
        call: that makes the result again, in a folder with the ``sources``.
        images: that it drew.
        html: what else the page shows, escaped.
        text: that it wrote, for the metadata.
        sources: images that the call reads, by their names.
    """
    folder, settings = studio.new_folder(), call.settings(studio)
    drawn = [_write(folder / f"{number:04d}.png", image, settings, text) for number, image in enumerate(images)]
    read = [_write(folder / name, image, settings, text) for name, image in (sources or {}).items()]
    return Result(drawn, html, [*drawn, *read], call.python(studio), call.command(studio))


def source(file: Path) -> dict[str, Image.Image]:
    """The visitor's picture among a result's sources."""
    with Image.open(file) as image:
        return {PICTURE: image.copy()}


def _write(file: Path, image: Image.Image, settings: str, text: str) -> str:
    """Writes a PNG with its settings, and returns its path."""
    info = PngInfo()
    info.add_itxt(SOFTWARE, "dualdiff_jax")
    info.add_itxt(SETTINGS, settings)
    if text:
        info.add_itxt(RESULT, text)
    image.save(file, "PNG", pnginfo=info)
    return str(file)
