"""From an image file to the array the model sees; one way for training and inference.

Decode the first frame, turn by EXIF, to RGB (alpha over white, 16 bit to 8), bicubic resize until the
target is covered, centre crop, [0, 255] -> [-1, 1].
"""

import os
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from dualdiff_jax.errors import UserError

MIN_SIDE = 2  # pixels; below this there is no picture to resize


def open_image(source: str | os.PathLike | Image.Image | np.ndarray) -> Image.Image:
    """RGB image from a path, a PIL image, or an array (h, w, 3) or (h, w) of uint8.

    Raises ``UserError`` that names the file and what is wrong with it.
    """
    if isinstance(source, np.ndarray):
        if source.dtype != np.uint8 or source.ndim not in (2, 3):
            raise UserError(f"an image array must be uint8 of (h, w, 3) or (h, w), found {source.dtype} {source.shape}")
        return _to_rgb(Image.fromarray(source), "the array")
    if isinstance(source, Image.Image):
        return _to_rgb(source, "the image")
    path = Path(source)
    if path.is_dir():
        raise UserError(f"{path}: is a folder; name an image file")
    try:
        with Image.open(path) as image:
            return _to_rgb(image, str(path))
    except FileNotFoundError:
        raise UserError(f"{path}: there is no such file") from None
    except PermissionError:
        raise UserError(f"{path}: may not be read; change its permissions") from None
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{path}: is not an image that can be read ({_first_line(error)})") from error


def fit(image: Image.Image, height: int, width: int) -> np.ndarray:
    """(height, width, 3) fp32 in [-1, 1]: resized to cover, then the centre."""
    scale = max(height / image.height, width / image.width)
    size = (max(width, round(image.width * scale)), max(height, round(image.height * scale)))
    if size != image.size:
        image = image.resize(size, Image.Resampling.BICUBIC)
    left, top = (size[0] - width) // 2, (size[1] - height) // 2
    pixels = np.asarray(image, np.float32)[top : top + height, left : left + width]
    return pixels / 127.5 - 1.0


def to_pil(image: np.ndarray) -> Image.Image:
    """(h, w, 3) in [-1, 1] -> PIL."""
    return Image.fromarray(np.clip(np.round((image + 1.0) * 127.5), 0, 255).astype(np.uint8))


def _to_rgb(image: Image.Image, name: str) -> Image.Image:
    if min(image.size) < MIN_SIDE:
        raise UserError(
            f"{name}: is {image.width} x {image.height} pixels; give an image of at least {MIN_SIDE} x {MIN_SIDE}"
        )
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I;16") or image.mode in ("I", "F"):
        image = _to_8_bit(image)
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        image = Image.new("RGBA", rgba.size, "white")
        image.alpha_composite(rgba)
    return image.convert("RGB")


def _to_8_bit(image: Image.Image) -> Image.Image:
    """Grey of 16 bits or more: 65535 is white; floats in [0, 1] when they fit there."""
    values: Any = np.asarray(image, np.float64)
    top = 1.0 if image.mode == "F" and values.max() <= 1.0 else 65535.0
    return Image.fromarray(np.clip(np.round(values * (255.0 / top)), 0, 255).astype(np.uint8))


def _first_line(error: BaseException) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]
