"""From an image file to the array that the model sees, in training and inference alike.

Decode the first frame, apply the EXIF orientation, convert to RGB (alpha over white, 16 bit to 8), resize bicubically
until the image covers the target, crop the centre, map [0, 255] to [-1, 1]. Resize and crop are one operation
(``resample.py``).

A JPEG that is much larger than the target is decoded at 1/2, 1/4 or 1/8 of its size, but never below ``SPARE`` times
the target. The resize that follows decides which detail remains visible.
"""

import io
import math
import os
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from dualdiff_jax.data.records.record import EMPTY, MISSING, OVERSIZED, TOO_SMALL, TRUNCATED, UNREADABLE, DataError
from dualdiff_jax.data.resample import resample
from dualdiff_jax.errors import UserError, reason

MIN_SIDE = 2  # pixels
MAX_PIXELS = 1 << 27  # to decode; a file with more is taken for a decompression bomb
SPARE = 2.0  # at least 44 dB PSNR against a full decode; 1 would be 32 dB, and visibly sharper
ORIENTATION = 0x0112  # EXIF tag; values from 5 on exchange height and width
# MAX_PIXELS is the bound here, so Pillow's warning at a lower one is off.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)

Extent = tuple[float, float]  # (width, height) in pixels
ImageSource = str | os.PathLike | bytes | Image.Image | np.ndarray


def read_image(source: ImageSource, height: int, width: int, name: str = "the image") -> np.ndarray:
    """All of the above steps.

    Args:
        source: a path, the bytes of a file, a PIL image, or an array (h, w, 3) or (h, w) of uint8.
        height: of the result, in pixels.
        width: of the result, in pixels.
        name: names the image in messages if ``source`` is no path.

    Returns:
        (height, width, 3) fp32 in [-1, 1].

    Raises:
        DataError: the file is missing, damaged, too large or too small.
        UserError: an array is not uint8, or has another shape.
    """
    return normalize(read_pixels(source, height, width, name))


def read_pixels(source: ImageSource, height: int, width: int, name: str = "the image") -> np.ndarray:
    """``read_image`` without its last step: (height, width, 3) uint8."""
    image, extent = _open(source, name, (height, width))
    return _cover(image, height, width, extent)


def normalize(pixels: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
    """Maps [0, 255] to [-1, 1] in fp32; the result is ``out`` if that is given."""
    out = np.empty(pixels.shape, np.float32) if out is None else out
    out[...] = pixels
    out /= 127.5
    out -= 1.0
    return out


def open_image(source: ImageSource, name: str = "the image") -> Image.Image:
    """The image in RGB at its own size, upright. Arguments and exceptions are those of ``read_image``."""
    return _open(source, name, None)[0]


def _open(source: ImageSource, name: str, target: tuple[int, int] | None) -> tuple[Image.Image, Extent]:
    """(image, extent of the picture in it): a JPEG decoded smaller may end within its last pixel.

    ``target`` (height, width) allows a JPEG to be decoded smaller; None decodes all of it.
    """
    if isinstance(source, np.ndarray):
        if source.dtype != np.uint8 or source.ndim not in (2, 3):
            raise UserError(f"an image array must be uint8 of (h, w, 3) or (h, w), found {source.dtype} {source.shape}")
        source, name = Image.fromarray(source), "the array"
    if isinstance(source, Image.Image):
        image = _to_rgb(source, name)
        return image, image.size
    name = name if isinstance(source, bytes) else str(source)
    try:
        with Image.open(_stream(source, name)) as image:
            extent = _draft(image, *target) if target else None
            if image.width * image.height > MAX_PIXELS:
                raise Image.DecompressionBombError(f"{image.width} x {image.height} pixels")
            image = _to_rgb(image, name)
            return image, extent or image.size
    except DataError:
        raise
    except Image.DecompressionBombError as error:
        raise DataError(OVERSIZED, f"{name}: is too large to decode ({error}); scale it down") from error
    except Exception as error:  # Pillow's decoders raise many kinds, all of which mean a damaged file
        cause = TRUNCATED if "truncated" in str(error).lower() else UNREADABLE
        raise DataError(cause, f"{name}: is not an image that can be read ({reason(error)})") from error


def image_size(source: bytes | Path, name: str = "the image") -> tuple[int, int]:
    """Reads an image's size without decoding it.

    Args:
        source: a path, or the bytes of a file, whose end may be missing.
        name: names the image in messages if ``source`` is no path.

    Returns:
        (height, width) in pixels, after the EXIF orientation.

    Raises:
        DataError: the file is missing or damaged.
    """
    name = name if isinstance(source, bytes) else str(source)
    try:
        with Image.open(_stream(source, name)) as image:
            width, height = image.size
            return (width, height) if image.getexif().get(ORIENTATION, 1) >= 5 else (height, width)
    except DataError:
        raise
    except Exception as error:  # as above
        raise DataError(UNREADABLE, f"{name}: is not an image that can be read ({reason(error)})") from error


def fit(image: Image.Image, height: int, width: int) -> np.ndarray:
    """Resizes an RGB image to cover (height, width) and crops the centre: (height, width, 3) fp32 in [-1, 1]."""
    return normalize(_cover(image, height, width, image.size))


def _cover(image: Image.Image, height: int, width: int, extent: Extent) -> np.ndarray:
    """Resizes and crops at once, so that what is cropped is never computed: (height, width, 3) uint8.

    The window is that of torchvision's ``Resize(side)`` and ``CenterCrop(side)``, for any (height, width): the side
    that limits the scale becomes the target's, the other one is rounded down, and half of an odd margin is rounded to
    even. The picture has the extent (w, h) from the upper left corner.
    """
    pixels = np.asarray(image)
    if image.size == (width, height):
        return pixels
    wide, high = extent
    if height * wide >= width * high:
        covering = (int(height * wide / high), height)
    else:
        covering = (width, int(width * high / wide))
    left, top = round((covering[0] - width) / 2), round((covering[1] - height) / 2)
    across, down = wide / covering[0], high / covering[1]
    right, bottom = min((left + width) * across, wide), min((top + height) * down, high)
    # Pillow begins with the rows, which is cheaper then.
    rows_first = high - covering[1] > max(2 * (wide - covering[0]), 0)
    return resample(pixels, (left * across, top * down, right, bottom), height, width, rows_first=rows_first)


def to_pil(image: np.ndarray) -> Image.Image:
    """(h, w, 3) in [-1, 1], clipped and rounded, as a PIL image."""
    return Image.fromarray(np.clip(np.round((image + 1.0) * 127.5), 0, 255).astype(np.uint8))


def _stream(source: str | os.PathLike | bytes, name: str) -> Any:
    """The file's bytes as a stream. Raises ``DataError`` if the file cannot be read or is empty."""
    try:
        if not isinstance(source, bytes):
            path = Path(source)
            if path.is_dir():
                raise DataError(UNREADABLE, f"{path}: is a folder; name an image file")
            source = path.read_bytes()
    except FileNotFoundError:
        raise DataError(MISSING, f"{name}: there is no such file") from None
    except PermissionError:
        raise DataError(UNREADABLE, f"{name}: is not readable; change its permissions") from None
    except OSError as error:
        raise DataError(UNREADABLE, f"{name}: cannot be read ({error.strerror})") from error
    if not source:
        raise DataError(EMPTY, f"{name}: is not an image that can be read (it is empty)")
    return io.BytesIO(source)


def _draft(image: Image.Image, height: int, width: int) -> Extent | None:
    """Makes an upright JPEG decode smaller, at no less than ``SPARE`` times (height, width).

    Returns:
        The extent of the picture in the decoded image; None if the image is decoded at its own size.
    """
    if image.format not in ("JPEG", "MPO") or image.getexif().get(ORIENTATION, 1) != 1:
        return None
    scale = SPARE * max(height / image.height, width / image.width)
    drafted = image.draft(None, (math.ceil(image.width * scale), math.ceil(image.height * scale)))
    return drafted[1][2:] if drafted else None


def _to_rgb(image: Image.Image, name: str) -> Image.Image:
    """Decodes the image: upright, 8 bits, alpha over white, RGB. Raises ``DataError`` if it is too small."""
    if min(image.size) < MIN_SIDE:
        raise DataError(
            TOO_SMALL,
            f"{name}: is {image.width} x {image.height} pixels; give an image of at least {MIN_SIDE} x {MIN_SIDE}",
        )
    if image.getexif().get(ORIENTATION, 1) != 1:
        image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I;16") or image.mode in ("I", "F"):
        image = _to_8_bit(image)
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        image = Image.new("RGBA", rgba.size, "white")
        image.alpha_composite(rgba)
    if image.mode != "RGB":
        return image.convert("RGB")
    image.load()
    return image


def _to_8_bit(image: Image.Image) -> Image.Image:
    """Grey of more than 8 bits: 65535 is white; of floats, 1.0 is white if none is larger."""
    values: Any = np.asarray(image, np.float64)
    top = 1.0 if image.mode == "F" and values.max() <= 1.0 else 65535.0
    return Image.fromarray(np.clip(np.round(values * (255.0 / top)), 0, 255).astype(np.uint8))
