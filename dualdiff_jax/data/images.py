"""From an image file to the array that the model sees, in training and inference alike.

Decode the first frame, apply the EXIF orientation, convert to RGB (alpha over white, more than 8 bits to 8), resize
bicubically until the image covers the target, crop the centre, map [0, 255] to [-1, 1]. Resize and crop are one
operation (``resample.py``). With fit "letterbox", the whole image is resized to lie within the target, on grey.
"""

import os
import typing

import numpy as np
from PIL import Image

from dualdiff_jax.config.data import MAX_PIXELS, Fit
from dualdiff_jax.data.containers import png_exif
from dualdiff_jax.data.decoding import Extent, ImageSource, content, decode, from_file, orientation_of
from dualdiff_jax.data.resample import resample
from dualdiff_jax.errors import UserError, quoted

WIDTH, HEIGHT = 0x0100, 0x0101  # tags of a TIFF
GREY = 127  # of the border of a letterbox; the middle of the range


def read_image(
    source: ImageSource,
    height: int,
    width: int,
    name: str = "the image",
    *,
    fit: Fit = "crop",
    max_pixels: int = MAX_PIXELS,
) -> np.ndarray:
    """All of the above steps.

    Args:
        source: a path, the bytes of a file, a PIL image, or an array (h, w, 3) or (h, w) of uint8.
        height: of the result, in pixels.
        width: of the result, in pixels.
        name: names the image in messages if ``source`` is no path.
        fit: "crop" fills the result and cuts what is over; "letterbox" keeps the whole image, with grey borders.
        max_pixels: that a file may have; four times as many in a JPEG that is decoded smaller.

    Returns:
        (height, width, 3) fp32 in [-1, 1].

    Raises:
        DataError: the file is missing, damaged, too large or too small, or its numbers have no defined white.
        UserError: an array is not uint8, or has another shape; ``fit`` is no such name.
    """
    return normalize(read_pixels(source, height, width, name, fit=fit, max_pixels=max_pixels))


def read_pixels(
    source: ImageSource,
    height: int,
    width: int,
    name: str = "the image",
    *,
    fit: Fit = "crop",
    max_pixels: int = MAX_PIXELS,
) -> np.ndarray:
    """``read_image`` without its last step: (height, width, 3) uint8."""
    if fit not in typing.get_args(Fit):
        raise UserError(f"fit is {quoted(fit)}; give one of {', '.join(typing.get_args(Fit))}")
    choose = max if fit == "crop" else min
    image, extent = decode(source, name, lambda size: choose(height / size[1], width / size[0]), max_pixels)
    return _cover(image, height, width, extent) if fit == "crop" else _letterbox(image, height, width, extent)


def normalize(pixels: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
    """Maps [0, 255] to [-1, 1] in fp32; the result is ``out`` if that is given."""
    out = np.empty(pixels.shape, np.float32) if out is None else out
    out[...] = pixels
    out /= 127.5
    out -= 1.0
    return out


def open_image(
    source: ImageSource, name: str = "the image", *, max_pixels: int = MAX_PIXELS, background: str = "white"
) -> Image.Image:
    """The image in RGB at its own size, upright, alpha over ``background``. The rest is as in ``read_image``."""
    return decode(source, name, None, max_pixels, background)[0]


def image_size(source: bytes | os.PathLike, name: str = "the image") -> tuple[int, int]:
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

    def look(image: Image.Image, data: bytes) -> tuple[int, int]:
        if image.format == "PNG" and "exif" not in image.info and (exif := png_exif(data)):
            image.info["exif"] = exif  # it may follow the pixels
        tags = getattr(image, "tag_v2", {})  # of a TIFF, whose ``size`` may be that after the orientation
        width, height = tags.get(WIDTH, image.width), tags.get(HEIGHT, image.height)
        return (width, height) if orientation_of(image) >= 5 else (height, width)

    return from_file(content(source, name), name, look)


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


def _letterbox(image: Image.Image, height: int, width: int, extent: Extent) -> np.ndarray:
    """Resizes the whole image to lie within (height, width), its centre in the centre: (height, width, 3) uint8."""
    wide, high = extent
    scale = min(height / high, width / wide)
    inner = (min(max(round(high * scale), 1), height), min(max(round(wide * scale), 1), width))
    pixels = np.full((height, width, 3), GREY, np.uint8)
    top, left = (height - inner[0]) // 2, (width - inner[1]) // 2
    pixels[top : top + inner[0], left : left + inner[1]] = resample(np.asarray(image), (0, 0, wide, high), *inner)
    return pixels


def to_pil(image: np.ndarray) -> Image.Image:
    """(h, w, 3) in [-1, 1], clipped and rounded, as a PIL image."""
    return Image.fromarray(np.clip(np.round((image + 1.0) * 127.5), 0, 255).astype(np.uint8))
