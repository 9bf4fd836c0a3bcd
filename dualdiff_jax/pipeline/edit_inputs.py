"""Images and masks of a caller who edits images."""

import os
from typing import Any, get_args

import jax.numpy as jnp
import numpy as np
from PIL import Image

from dualdiff_jax.config import ModelConfig
from dualdiff_jax.config.data import Fit
from dualdiff_jax.data.images import open_image, read_pixels
from dualdiff_jax.errors import UserError, quoted
from dualdiff_jax.pipeline import inputs
from dualdiff_jax.pipeline.arrays_in import ImageSources, as_images, host_array

WHITE = 128  # the least grey that counts as white in a mask
MASK = "give an image, white where it is repainted, or an array (h, w) of bool, of uint8, or of floats in [0, 1]"


def edited_images(
    config: ModelConfig, images: ImageSources, height: int | None, width: int | None, fit: Fit
) -> tuple[np.ndarray, list[tuple[int, int]]]:
    """The images of a call at the size of its result.

    Args:
        config: of the model.
        images: one image or several.
        height: of the result, in pixels; None, as ``width`` then is, for the images' own size.
        width: as ``height``.
        fit: where that is another shape: "crop" cuts the sides off, "letterbox" keeps all and adds grey borders.

    Returns:
        (m, height, width, 3) uint8, and the size (h, w) that each image has itself.

    Raises:
        UserError: an image is unusable, or has a size that the model cannot make, or another one than the first.
    """
    inputs.choice("fit", fit, get_args(Fit))
    if (height is None) != (width is None):
        raise UserError("one of height and width is given; give both, or none of them for the image's own size")
    size = None if height is None else inputs.image_size(config, height, width)
    sources = as_images(images)
    own = [np.asarray(open_image(image, f"images[{index}]")) for index, image in enumerate(sources)]
    sizes = [pixels.shape[:2] for pixels in own]
    if size is None:
        if len(set(sizes)) > 1:
            raise UserError(f"images are of different sizes, {_sizes(sizes)}; give height and width")
        size = inputs.image_size(config, *sizes[0])
    return np.stack([read_pixels(pixels, *size, fit=fit) for pixels in own]), sizes


def repainted_pixels(masks: Any, sizes: list[tuple[int, int]], size: tuple[int, int], fit: Fit) -> np.ndarray:
    """Where images are repainted.

    Args:
        masks: one for all images, or a list of one for each: an image (path, bytes, PIL), white where it is repainted,
            or an array (h, w) of bool, of uint8, or of floats in [0, 1]; what is at least half white counts as white,
            and what is transparent as black.
        sizes: (h, w) of each image itself, which its mask has too.
        size: (height, width) of the result.
        fit: of the images, which the masks follow.

    Returns:
        (m, height, width) bool. A mask without white repaints nothing.

    Raises:
        UserError: a mask is unusable, or not of its image's size.
    """
    items = list(masks) if isinstance(masks, list | tuple) else [masks]
    check_mask_count(len(items), len(sizes))
    named = isinstance(masks, list | tuple)
    read = [_mask_pixels(f"masks[{index}]" if named else "masks", item) for index, item in enumerate(items)]
    found = []
    for index, own in enumerate(sizes):
        mask = read[index if len(read) > 1 else 0]
        if mask.shape[:2] != own:
            raise UserError(
                f"masks[{index}] has {mask.shape[0]} x {mask.shape[1]} pixels (height x width) and its image "
                f"{own[0]} x {own[1]}; give a mask of the image's size"
            )
        found.append(read_pixels(mask, *size, fit=fit)[..., 0] >= WHITE)
    return np.stack(found)


def check_mask_count(masks: int, images: int) -> None:
    """Raises ``UserError`` unless there is one mask for all images, or one for each."""
    if masks not in (1, images):
        raise UserError(f"masks has {masks} entries for {images} images; give one, or one for each image")


def _mask_pixels(name: str, mask: Any) -> np.ndarray:
    """A mask as a grey image (h, w, 3) uint8."""
    if isinstance(mask, str | os.PathLike) and not os.fspath(mask):
        raise UserError(f"{name} is an empty path; {MASK}")
    if isinstance(mask, str | os.PathLike | bytes | bytearray | memoryview | Image.Image):
        source = bytes(mask) if isinstance(mask, bytearray | memoryview) else mask
        grey = open_image(source, name, background="black").convert("L")
        return np.repeat(np.asarray(grey)[..., None], 3, axis=-1)
    array = host_array(name, mask.cpu() if hasattr(mask, "cpu") else mask, MASK)
    array = array[..., 0] if array.ndim == 3 and array.shape[-1] == 1 else array
    is_float = jnp.issubdtype(array.dtype, np.floating)  # true for bfloat16 too, which is no kind of numpy's
    if array.ndim != 2 or not array.size or not (is_float or array.dtype in (np.bool_, np.uint8)):
        raise UserError(f"{name} is an array {array.shape} of {array.dtype}; {MASK}")
    if array.dtype == np.uint8 and array.max() == 1:
        raise UserError(f"{name} is an array of uint8 that holds no number above 1; {MASK}")
    if is_float and not ((array >= 0.0) & (array <= 1.0)).all():  # NaN is neither
        raise UserError(f"{name} holds floats outside [0, 1]; {MASK}")
    grey = array if array.dtype == np.uint8 else np.round(array.astype(np.float32) * 255).astype(np.uint8)
    return np.repeat(grey[..., None], 3, axis=-1)


def as_strength(strength: Any) -> float:
    """A number in (0, 1]."""
    is_number = isinstance(strength, inputs.REAL) and not isinstance(strength, bool)
    if not is_number or not 0.0 < strength <= 1.0:  # false for NaN too
        raise UserError(f"strength is {quoted(strength)}; give a number above 0 and up to 1")
    return float(strength)


def _sizes(sizes: list[tuple[int, int]]) -> str:
    return ", ".join(f"{height} x {width}" for height, width in dict.fromkeys(sizes))
