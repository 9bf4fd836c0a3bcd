"""From an image file to the array the model sees; one way for training and inference.

Decode the first frame, turn by EXIF, to RGB (alpha over white, 16 bit to 8), bicubic resize until the
target is covered, centre crop, [0, 255] -> [-1, 1]. Resize and crop are one operation (``resample.py``).

A JPEG that is much larger than the target is decoded at 1/2, 1/4 or 1/8 of its size, but never below
``SPARE`` times the target; the resize, which goes on from there, decides what the eye can see.
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

MIN_SIDE = 2  # pixels; below this there is no picture to resize
MAX_PIXELS = 1 << 27  # of what has to be decoded; above this a file is taken for a bomb
SPARE = 2.0  # 44 dB and more from decoding all of it; 1 would be 32 dB, and visibly sharper
ORIENTATION = 0x0112  # EXIF; from 5 on, height and width are exchanged
# The bound is ours, so Pillow need not warn of a lower one.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)

Extent = tuple[float, float]  # (width, height) in pixels
ImageSource = str | os.PathLike | bytes | Image.Image | np.ndarray


def read_image(source: ImageSource, height: int, width: int, name: str = "the image") -> np.ndarray:
    """(height, width, 3) fp32 in [-1, 1]: all of the above. Raises ``DataError`` as ``open_image`` does."""
    return normalize(read_pixels(source, height, width, name))


def read_pixels(source: ImageSource, height: int, width: int, name: str = "the image") -> np.ndarray:
    """(height, width, 3) uint8: all but the last step."""
    image, extent = _open(source, name, (height, width))
    return _cover(image, height, width, extent)


def normalize(pixels: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
    """[0, 255] -> [-1, 1] in fp32, into ``out`` where it is given."""
    out = np.empty(pixels.shape, np.float32) if out is None else out
    out[...] = pixels
    out /= 127.5
    out -= 1.0
    return out


def open_image(source: ImageSource, name: str = "the image") -> Image.Image:
    """RGB image from a path, a file's bytes, a PIL image, or an array (h, w, 3) or (h, w) of uint8.

    Raises ``DataError``, a ``UserError``, that names the file (or ``name``) and what is wrong with it.
    """
    return _open(source, name, None)[0]


def _open(source: ImageSource, name: str, target: tuple[int, int] | None) -> tuple[Image.Image, Extent]:
    """The image, and how far its picture reaches in it: a JPEG decoded smaller may end within its last pixel."""
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
        raise DataError(OVERSIZED, f"{name}: is too large to be decoded ({error}); scale it down") from error
    except Exception as error:  # Pillow's readers raise many kinds, all of which mean a damaged file
        cause = TRUNCATED if "truncated" in str(error).lower() else UNREADABLE
        raise DataError(cause, f"{name}: is not an image that can be read ({reason(error)})") from error


def image_size(source: bytes | Path, name: str = "the image") -> tuple[int, int]:
    """(height, width) after EXIF orientation, from the head of the file alone. Raises ``DataError``."""
    name = name if isinstance(source, bytes) else str(source)
    try:
        with Image.open(_stream(source, name)) as image:
            is_turned = image.getexif().get(ORIENTATION, 1) >= 5
            return image.size if is_turned else image.size[::-1]
    except DataError:
        raise
    except Exception as error:  # as above
        raise DataError(UNREADABLE, f"{name}: is not an image that can be read ({reason(error)})") from error


def fit(image: Image.Image, height: int, width: int) -> np.ndarray:
    """(height, width, 3) fp32 in [-1, 1]: resized to cover, then the centre."""
    return normalize(_cover(image, height, width, image.size))


def _cover(image: Image.Image, height: int, width: int, extent: Extent) -> np.ndarray:
    """Resized and cropped; what is cropped is not computed. ``extent`` is what the picture fills, from the corner."""
    pixels = np.asarray(image)
    if image.size == (width, height):
        return pixels
    wide, high = extent
    scale = max(height / high, width / wide)
    covering = (max(width, round(wide * scale)), max(height, round(high * scale)))
    left, top = (covering[0] - width) // 2, (covering[1] - height) // 2
    across, down = wide / covering[0], high / covering[1]
    right, bottom = min((left + width) * across, wide), min((top + height) * down, high)
    return resample(pixels, (left * across, top * down, right, bottom), height, width)


def to_pil(image: np.ndarray) -> Image.Image:
    """(h, w, 3) in [-1, 1] -> PIL."""
    return Image.fromarray(np.clip(np.round((image + 1.0) * 127.5), 0, 255).astype(np.uint8))


def _stream(source: str | os.PathLike | bytes, name: str) -> Any:
    """What Pillow opens; ``DataError`` where there is nothing to open."""
    try:
        if not isinstance(source, bytes):
            path = Path(source)
            if path.is_dir():
                raise DataError(UNREADABLE, f"{path}: is a folder; name an image file")
            source = path.read_bytes()
    except FileNotFoundError:
        raise DataError(MISSING, f"{name}: there is no such file") from None
    except PermissionError:
        raise DataError(UNREADABLE, f"{name}: may not be read; change its permissions") from None
    except OSError as error:
        raise DataError(UNREADABLE, f"{name}: cannot be read ({error.strerror})") from error
    if not source:
        raise DataError(EMPTY, f"{name}: is not an image that can be read (it is empty)")
    return io.BytesIO(source)


def _draft(image: Image.Image, height: int, width: int) -> Extent | None:
    """Lets an upright JPEG decode itself smaller on the way to (height, width); its extent if it will."""
    if image.format not in ("JPEG", "MPO") or image.getexif().get(ORIENTATION, 1) != 1:
        return None
    scale = SPARE * max(height / image.height, width / image.width)
    drafted = image.draft(None, (math.ceil(image.width * scale), math.ceil(image.height * scale)))
    return drafted[1][2:] if drafted else None


def _to_rgb(image: Image.Image, name: str) -> Image.Image:
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
    """Grey of 16 bits or more: 65535 is white; floats in [0, 1] when they fit there."""
    values: Any = np.asarray(image, np.float64)
    top = 1.0 if image.mode == "F" and values.max() <= 1.0 else 65535.0
    return Image.fromarray(np.clip(np.round(values * (255.0 / top)), 0, 255).astype(np.uint8))
