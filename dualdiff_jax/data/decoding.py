"""Decoding of image files, and the bounds on what is decoded; the first step of ``images.py``.

A JPEG that is much larger than the target is decoded at 1/2, 1/4 or 1/8 of its size, but never below ``SPARE`` times
the target. The resize that follows decides which detail remains visible.

Only what decides the pixels has to be whole: a file with damaged metadata is read without it (``containers.py``). What
white is follows from the format, never from the numbers of one picture.
"""

import contextlib
import io
import logging
import math
import os
import warnings
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import numpy as np
from PIL import Image, UnidentifiedImageError

from dualdiff_jax.data.containers import without_metadata
from dualdiff_jax.data.records.record import EMPTY, MISSING, OVERSIZED, TOO_SMALL, TRUNCATED, UNREADABLE, DataError
from dualdiff_jax.errors import UserError, pointer_fault, quoted, reason
from dualdiff_jax.files import is_bucket, read_regular

MIN_SIDE = 2  # pixels
MAX_BYTES = 1 << 29  # of an image file
JPEG_FACTOR = 4  # a JPEG that is decoded smaller may have so many times the pixels
SPARE = 2.0  # at least 44 dB PSNR against a full decode; 1 would be 32 dB, and visibly sharper
HALF_STEP = 0.5 / 255.0  # floats that are so much below 0 or above 1 round to black or white
ORIENTATION = 0x0112  # EXIF tag; values from 5 on exchange height and width
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
PHOTOMETRIC, WHITE_IS_ZERO = 0x0106, 0  # a TIFF tag and its value
BITS, COMPRESSION, PLANES, SAMPLES = 0x0102, 0x0103, 0x011C, 0x0153  # and more of them
UNCOMPRESSED, SEPARATE, SIGNED = 1, 2, 2
logging.getLogger("PIL").setLevel(logging.CRITICAL)  # what it logs about a damaged file, it raises too
# ``max_pixels`` is the bound here, so Pillow's warning at another one is off; so are those about damaged metadata.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")

Extent = tuple[float, float]  # (width, height) in pixels
ImageSource = str | os.PathLike | bytes | Image.Image | np.ndarray
Found = TypeVar("Found")


def decode(
    source: ImageSource,
    name: str,
    scale: Callable[[Extent], float] | None,
    max_pixels: int,
    background: str = "white",
) -> tuple[Image.Image, Extent]:
    """(upright RGB image, extent of the picture in it): a JPEG decoded smaller may end within its last pixel.

    ``scale`` gives the least scale at which a JPEG of some (width, height) may be decoded; None decodes all of it.
    ``background`` is the colour behind what is transparent.
    """
    if isinstance(source, np.ndarray):
        if source.dtype != np.uint8 or source.ndim not in (2, 3) or source.shape[2:] not in ((), (3,)):
            raise UserError(f"an image array must be uint8 of (h, w, 3) or (h, w), found {source.dtype} {source.shape}")
        _check_size(source.shape[1], source.shape[0], name, max_pixels=None)
        source = Image.fromarray(source)
    if isinstance(source, Image.Image):
        with _faults(name):
            _check_size(*source.size, name, max_pixels=None)
            image = _to_rgb(source, name, background)
            return image, image.size
    name = name if isinstance(source, bytes) else str(source)

    def look(image: Image.Image, data: bytes) -> tuple[Image.Image, Extent]:
        extent = _draft(image, name, scale, max_pixels) if scale else None
        _check_size(*image.size, name, max_pixels)
        image = _to_rgb(image, name, background)
        return image, extent or image.size

    return from_file(content(source, name), name, look)


def from_file(data: bytes, name: str, look: Callable[[Image.Image, bytes], Found]) -> Found:
    """What ``look`` finds in the image; if that fails, what it finds in the file without its metadata."""

    def read(data: bytes) -> Found:
        with Image.open(io.BytesIO(data)) as image:
            return look(image, data)

    with _faults(name):
        try:
            return read(data)
        except (DataError, Image.DecompressionBombError, MemoryError):
            raise
        except Exception as error:  # Pillow's decoders raise many kinds, all of which mean a damaged file
            if fault := pointer_fault(data):
                raise DataError(UNREADABLE, f"{name}: {fault}") from None
            bare = without_metadata(data)
            if bare is None:
                raise
            try:
                return read(bare)
            except DataError:
                raise
            except Exception:
                raise error from None


@contextlib.contextmanager
def _faults(name: str) -> Iterator[None]:
    """Raises ``DataError`` in place of whatever a decoder raises."""
    try:
        yield
    except DataError:
        raise
    except (Image.DecompressionBombError, MemoryError) as error:
        raise DataError(OVERSIZED, f"{name}: is too large to decode ({reason(error)}); scale it down") from error
    except Exception as error:
        known = not isinstance(error, UnidentifiedImageError)  # whose message names an object of Python
        why = reason(error) if known else "it is of no format that is known, or damaged at its beginning"
        cause = TRUNCATED if "truncated" in str(error).lower() else UNREADABLE
        raise DataError(cause, f"{name}: is not an image that can be read ({why})") from error


def content(source: str | os.PathLike | bytes, name: str) -> bytes:
    """The file's bytes. Raises ``DataError`` if the file cannot be read or is empty."""
    try:
        if not isinstance(source, bytes):
            source = read_regular(source, MAX_BYTES)
    except FileNotFoundError:
        raise DataError(MISSING, f"{name}: there is no such file") from None
    except PermissionError:
        login = ", or log in to the bucket's service" if is_bucket(str(source)) else ""
        raise DataError(UNREADABLE, f"{name}: is not readable; change its permissions{login}") from None
    except OSError as error:
        raise DataError(UNREADABLE, f"{quoted(name)}: cannot be read ({error.strerror})") from error
    except UserError as error:
        raise DataError(UNREADABLE, str(error)) from error
    if not source:
        raise DataError(EMPTY, f"{name}: is not an image that can be read (it is empty)")
    return source


def _check_size(width: int, height: int, name: str, max_pixels: int | None) -> None:
    """Raises ``DataError`` unless an image of this size, as its header gives it, may be decoded."""
    if min(width, height) < MIN_SIDE:
        raise DataError(
            TOO_SMALL, f"{name}: is {width} x {height} pixels; give an image of at least {MIN_SIDE} x {MIN_SIDE}"
        )
    if max_pixels and width * height > max_pixels:
        raise DataError(
            OVERSIZED,
            f"{name}: is too large to decode ({width} x {height} pixels, more than the {max_pixels} of "
            "data.max_pixels); scale it down, or save it as JPEG, which is decoded at a fraction of its size",
        )


def orientation_of(image: Image.Image) -> int:
    """The EXIF orientation, 1 to 8; 1, as stored, if it is absent or cannot be read."""
    try:
        found = Image.Image.getexif(image).get(ORIENTATION, 1)  # not PNG's own, which decodes the image
    except Exception:  # damaged metadata
        return 1
    return found if found in TURNS else 1


def _draft(image: Image.Image, name: str, scale: Callable[[Extent], float], max_pixels: int) -> Extent | None:
    """Makes a JPEG decode smaller, at no less than ``SPARE`` times the scale wanted.

    One that is not upright is decoded smaller only if it is too large otherwise: turning moves a cut last pixel.

    Returns:
        The extent of the picture in the decoded image; None if that is the image's size.
    """
    if image.format not in ("JPEG", "MPO"):
        return None
    orientation, is_large = orientation_of(image), image.width * image.height > max_pixels
    if orientation != 1 and not is_large:
        return None
    _check_size(*image.size, name, JPEG_FACTOR * max_pixels)
    width, height = image.size
    wanted = SPARE * scale((height, width) if orientation >= 5 else (width, height))
    drafted = image.draft(None, (math.ceil(width * wanted), math.ceil(height * wanted)))
    return drafted[1][2:] if drafted and orientation == 1 else None


def _to_rgb(image: Image.Image, name: str, background: str) -> Image.Image:
    """Decodes the image: upright, 8 bits, alpha over ``background``, RGB."""
    _check_tiff(image, name)
    image.load()
    turn = TURNS.get(orientation_of(image))
    if image.mode.startswith("I;16") or image.mode in ("I", "F"):
        image = _to_8_bit(image, name)
    if turn is not None:
        image = image.transpose(turn)
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        image = Image.new("RGBA", rgba.size, background)
        image.alpha_composite(rgba)
    return image if image.mode == "RGB" else image.convert("RGB")


def _check_tiff(image: Image.Image, name: str) -> None:
    """Raises ``DataError`` for a TIFF whose numbers Pillow takes for others without a word."""
    tags = getattr(image, "tag_v2", {})
    bits = max(tags.get(BITS, (1,)))
    if bits <= 8 and SIGNED in tags.get(SAMPLES, ()):
        raise DataError(
            UNREADABLE, f"{name}: holds integers with a sign; save them without one, 0 for black and 255 for white"
        )
    if bits > 8 and tags.get(PLANES) == SEPARATE and tags.get(COMPRESSION, UNCOMPRESSED) == UNCOMPRESSED:
        raise DataError(
            UNREADABLE,
            f"{name}: holds each colour apart, with {bits} bits and not compressed, which cannot be read; save the "
            "colours of a pixel side by side, or compress the file",
        )


def _to_8_bit(image: Image.Image, name: str) -> Image.Image:
    """Grey of more than 8 bits, whose white the format defines: 65535 of 16 bits, 1.0 of floats.

    Raises:
        DataError: no white is defined for such numbers, they go beyond it, or are not all finite.
    """
    values: Any = np.asarray(image, np.float32 if image.mode == "F" else None)
    low, high = values.min(), values.max()
    if image.mode == "F":
        if not -HALF_STEP <= low <= high <= 1.0 + HALF_STEP:  # of NaN, nothing is true
            raise DataError(
                UNREADABLE, f"{name}: holds floats from {low} to {high}; scale them so that 0 is black and 1 is white"
            )
    elif image.mode == "I" and (image.format not in ("PNG", "PPM") or low < 0 or high > 65535):
        raise DataError(
            UNREADABLE,
            f"{name}: holds integers from {low} to {high}, of which none is defined as white; save them with 8 bits, "
            "255 for white, or with 16 bits without a sign, 65535 for white",
        )
    shares = values.astype(np.float64) if image.mode == "F" else values * np.float32(1.0 / 65535.0)
    if getattr(image, "tag_v2", {}).get(PHOTOMETRIC) == WHITE_IS_ZERO:
        shares = 1.0 - shares
    shares *= 255.0
    return Image.fromarray(np.clip(np.round(shares, out=shares), 0, 255, out=shares).astype(np.uint8))
