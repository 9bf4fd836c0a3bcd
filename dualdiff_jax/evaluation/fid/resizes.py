"""From the pixels of an image to what Inception sees, by the rule of each well-known scorer.

name              resize to 299 x 299                                      values
torch-fidelity    TensorFlow 1's bilinear: pixel i of the output reads     (x - 128) / 128
                  the input at i * scale, so the picture moves up and
                  left by half a pixel of the larger one
pytorch-fid       bilinear, at (i + 1/2) * scale - 1/2                     x / 127.5 - 1
clean-fid         Pillow's bicubic in fp32, whose kernel widens as the     (x - 128) / 128
                  picture shrinks, clipped to [0, 255]

The first two read four pixels of the input for each of the output, however large the input is, so a large image is
aliased; FID changes by points with the rule (arXiv 2104.11222). All is computed in fp32, as there.
"""

from collections.abc import Callable, Mapping

import numpy as np
from PIL import Image

from dualdiff_jax.errors import UserError, quoted
from dualdiff_jax.evaluation.fid.inception import SIDE

Resize = Callable[[np.ndarray], np.ndarray]  # (h, w, 3) uint8 -> (299, 299, 3) fp32


def torch_fidelity(pixels: np.ndarray) -> np.ndarray:
    """TensorFlow 1's ``resize_bilinear``, as in torch-fidelity's ``interpolate_bilinear_2d_like_tensorflow1x``."""
    places = [np.arange(SIDE, dtype=np.float32) * np.float32(size / SIDE) for size in pixels.shape[:2]]
    return (_bilinear(pixels.astype(np.float32), *places) - 128) / 128


def pytorch_fid(pixels: np.ndarray) -> np.ndarray:
    """torch's ``interpolate(mode="bilinear", align_corners=False)`` of x / 255, as in pytorch-fid."""
    places = []
    for size in pixels.shape[:2]:
        scale = np.float32(size / SIDE)
        places.append(np.maximum((np.arange(SIDE, dtype=np.float32) + np.float32(0.5)) * scale - np.float32(0.5), 0))
    return 2 * _bilinear(pixels.astype(np.float32) / 255, *places) - 1


def clean_fid(pixels: np.ndarray) -> np.ndarray:
    """Pillow's bicubic resize of each channel in fp32, as in clean-fid's mode "clean"."""
    channels = [
        np.asarray(Image.fromarray(channel.astype(np.float32)).resize((SIDE, SIDE), Image.Resampling.BICUBIC))
        for channel in np.moveaxis(pixels, -1, 0)
    ]
    return (np.clip(np.stack(channels, axis=-1), 0, 255) - 128) / 128


RESIZES: Mapping[str, Resize] = {
    "torch-fidelity": torch_fidelity,
    "clean-fid": clean_fid,
    "pytorch-fid": pytorch_fid,
}


def resize_of(name: str) -> Resize:
    """The rule of that name. Raises ``UserError`` where there is none."""
    if name not in RESIZES:
        raise UserError(f"there is no resize {quoted(name)}; choose one of {', '.join(RESIZES)}")
    return RESIZES[name]


def _bilinear(image: np.ndarray, down: np.ndarray, across: np.ndarray) -> np.ndarray:
    """``image`` (h, w, c) fp32 between its pixels, at every pair of a row in ``down`` and a column in ``across``."""
    left, right, along = _neighbours(across, image.shape[1])
    wide = image[:, left] + (image[:, right] - image[:, left]) * along[:, None]
    above, below, under = _neighbours(down, image.shape[0])
    return wide[above] + (wide[below] - wide[above]) * under[:, None, None]


def _neighbours(places: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The pixels before and behind each place, and how far from the first to the second it lies."""
    first = places.astype(np.int64)
    return first, np.minimum(first + 1, size - 1), places - first.astype(np.float32)
