"""The images of a folder, checked before any of them is scored."""

import dataclasses
import logging
from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image

from dualdiff_jax.data.decoding import content, from_file
from dualdiff_jax.data.records.record import DataError
from dualdiff_jax.errors import UserError, reason
from dualdiff_jax.files.listing import file_sizes

log = logging.getLogger(__name__)

SUFFIXES = (".bmp", ".jpg", ".jpeg", ".png", ".ppm", ".pgm", ".tif", ".tiff", ".webp")
THREADS = 16  # that read images
SHOWN = 3  # faults that a message names

Size = tuple[int, int]  # (width, height) in pixels


@dataclasses.dataclass(frozen=True)
class ImageFolder:
    """Some images of a folder and of the folders in it.

    Attributes:
        path: the folder.
        names: of the files, relative to ``path``, sorted.
    """

    path: Path
    names: tuple[str, ...]

    def read(self, name: str) -> np.ndarray:
        """An image's pixels as FID scorers read them, (h, w, 3) uint8: in RGB as stored, without alpha.

        Raises:
            DataError: it is missing or damaged.
        """
        file = self.path / name
        return from_file(content(file, str(file)), str(file), lambda image, _: np.asarray(image.convert("RGB")))

    def size(self, name: str) -> Size:
        """An image's size, after all of it was decoded, a JPEG at an eighth of its size. Exceptions: ``read``."""
        file = self.path / name

        def look(image: Image.Image, _: bytes) -> Size:
            size = image.size
            image.draft("RGB", (1, 1))
            image.load()
            return size

        return from_file(content(file, str(file)), str(file), look)


def open_folder(path: Path) -> ImageFolder:
    """Lists the images of a folder and of the folders in it; names that begin with a dot do not count.

    Raises:
        UserError: there is no such folder, or no image in it.
    """
    if not path.is_dir():
        raise UserError(f"{path}: there is no such folder; give a folder of images")
    try:
        found = file_sizes(path)
    except OSError as error:
        raise UserError(f"{path}: cannot be listed ({reason(error)})") from error
    names = tuple(name for name in found if name.lower().endswith(SUFFIXES) and not _is_hidden(name))
    if not names:
        raise UserError(f"{path}: holds no image ({', '.join(SUFFIXES)}); give a folder of images")
    return ImageFolder(path, names)


def check_images(folder: ImageFolder, names: Sequence[str], *, alike: bool) -> Counter[Size]:
    """Decodes images once, and warns where they are of several sizes.

    Args:
        folder: of the images.
        names: of the images to look at.
        alike: whether they should have one size, as generated images have.

    Returns:
        Size -> how many images have it.

    Raises:
        UserError: some cannot be read; with the first of them and how many they are.
    """

    def look(name: str) -> Size | str:
        try:
            return folder.size(name)
        except DataError as error:
            return str(error)

    with ThreadPoolExecutor(THREADS) as pool:
        found = list(pool.map(look, names))
    faults = [each for each in found if isinstance(each, str)]
    if faults:
        more = f", and {len(faults) - SHOWN} more" if len(faults) > SHOWN else ""
        raise UserError(
            f"{folder.path}: {len(faults)} of {len(names)} images cannot be read, and FID would leave them out: "
            f"{'; '.join(faults[:SHOWN])}{more}"
        )
    sizes = Counter(each for each in found if not isinstance(each, str))
    if alike and len(sizes) > 1:
        log.warning("%s: has images of %d sizes, %s; each is resized by itself", folder.path, len(sizes), _shown(sizes))
    return sizes


def _shown(sizes: Counter[Size]) -> str:
    return ", ".join(f"{count} of {width} x {height}" for (width, height), count in sizes.most_common(SHOWN))


def _is_hidden(name: str) -> bool:
    return any(part.startswith(".") for part in name.split("/"))


def share(names: Sequence[str], batch: int, part: int, parts: int) -> Iterable[tuple[Sequence[str], int]]:
    """What one of several processes reads of each batch.

    Args:
        names: of all images.
        batch: rows of all processes together, a multiple of ``parts``.
        part, parts: the process, and how many there are.

    Yields:
        The names of this process's rows, which are repeated where there are too few, and how many of them count.
    """
    rows = batch // parts
    for start in range(0, len(names), batch):
        own = names[start + part * rows : start + (part + 1) * rows]
        yield [*own, *[names[0]] * (rows - len(own))], len(own)
