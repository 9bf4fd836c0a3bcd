"""Images and arrays that callers hand to the pipeline, of numpy, jax, torch or whatever numpy can read.

Each check raises a ``UserError`` that names the argument, what it holds, and what to give instead.
"""

import os
from collections.abc import Sequence
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from dualdiff_jax.config import ModelConfig
from dualdiff_jax.config.data import Fit
from dualdiff_jax.config.fields import MOST_TOKENS
from dualdiff_jax.data.images import ImageSource, read_image
from dualdiff_jax.errors import UserError, quoted, reason
from dualdiff_jax.objectives.time_sampling import TIMESTEPS

ImageSources: TypeAlias = ImageSource | Sequence[ImageSource]

ONE_IMAGE = "give a path, the bytes of a file, a PIL image, or a uint8 array (h, w, 3)"


def as_images(images: ImageSources) -> list[ImageSource]:
    """One image or several, at least one, as a list of what ``data.images.read_image`` reads.

    Args:
        images: a path, the bytes of a file, a PIL image, an array (h, w, 3), (h, w, 1) or (h, w) of uint8; a list of
            them; or an array (n, h, w, 3) or (n, h, w, 1).
    """
    items = list(images) if isinstance(images, list | tuple) else [images]
    found: list[ImageSource] = []
    for index, item in enumerate(items):
        name = f"images[{index}]" if isinstance(images, list | tuple) else "images"
        found += _images_of(name, item, is_one=isinstance(images, list | tuple))
    if not found:
        raise UserError("images is empty; give at least one image")
    return found


def image_pixels(images: Sequence[ImageSource], size: tuple[int, int], fit: Fit) -> list[np.ndarray]:
    """The images of a call at the ``size`` (height, width) that it works with.

    Args:
        images: of ``as_images``.
        size: in pixels.
        fit: of images of another shape, as in ``data.images.read_image``, which also describes the result.

    Raises:
        UserError: an image cannot be read.
    """
    return [read_image(image, *size, f"images[{index}]", fit=fit) for index, image in enumerate(images)]


def _images_of(name: str, item: Any, *, is_one: bool) -> list[ImageSource]:
    if isinstance(item, str | os.PathLike):
        if not os.fspath(item):
            raise UserError(f"{name} is an empty path; {ONE_IMAGE}")
        return [item]
    if isinstance(item, bytes | bytearray | memoryview):
        return [bytes(item)]
    if isinstance(item, Image.Image):
        return [item]
    array = host_array(name, item, ONE_IMAGE)
    shape = array.shape
    if array.dtype != np.uint8:
        raise UserError(
            f"{name} is of {array.dtype}; give uint8: round(255 * x) for numbers in [0, 1], or "
            "round(127.5 * (x + 1)) for those in [-1, 1]"
        )
    if array.ndim in (3, 4) and shape[-1] not in (1, 3):
        hint = "; channels come last here, so transpose it" if shape[array.ndim - 3] in (1, 3) else ""
        hint = "; give a PIL image where there is an alpha channel" if shape[-1] == 4 else hint
        raise UserError(f"{name} has shape {shape}, expected (h, w, 3){hint}")
    if array.ndim not in ((2, 3) if is_one else (2, 3, 4)) or not array.size:
        raise UserError(f"{name} has shape {shape}; {ONE_IMAGE}")
    if array.ndim > 2 and shape[-1] == 1:
        array = array[..., 0]
    is_batch = len(shape) == 4
    return list(array) if is_batch else [array]


def host_array(name: str, value: Any, hint: str) -> np.ndarray:
    """``value`` as an array of numpy, if it is an array of any library."""
    if isinstance(value, np.ndarray):
        return value
    if isinstance(value, str | bytes | dict | set) or not hasattr(value, "__array__"):
        raise UserError(f"{name} is {quoted(value)}; {hint}")
    try:
        value = value.detach() if hasattr(value, "detach") else value
        is_torch_bfloat16 = str(getattr(value, "dtype", "")) == "torch.bfloat16"  # which numpy cannot hold
        return np.asarray(value.float() if is_torch_bfloat16 else value)
    except Exception as error:  # of another library, whose array may lie on a device or need a gradient
        raise UserError(f"{name} cannot be read as an array ({reason(error)}); move it to the host") from error


def token_array(name: str, value: Any, vocab_size: int, ndim: int, *, may_be_empty: bool = False) -> np.ndarray:
    """Token ids as int32.

    Args:
        name: of the argument.
        value: an array, or nested lists, of integers in [0, vocab_size).
        vocab_size: of the tokenizer.
        ndim: 1 for (k,), 2 for (b, l).
        may_be_empty: whether k may be 0.
    """
    shape = "(b, l)" if ndim == 2 else "(k,)"
    hint = f"give token ids {shape}, whole numbers from 0 to {vocab_size - 1}"
    try:
        array = np.asarray(value) if isinstance(value, list | tuple) else host_array(name, value, hint)
    except ValueError as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{name} is {quoted(value)}; {hint}") from None
    if not array.size and may_be_empty and array.ndim == ndim:
        return array.astype(np.int32)
    if array.dtype.kind not in "iu" or array.ndim != ndim or not array.size:
        raise UserError(f"{name} is an array {array.shape} of {array.dtype}; {hint}")
    _check_length(name, array.shape[-1])
    if array.min() < 0 or array.max() >= vocab_size:
        raise UserError(f"{name} holds {array.min()} to {array.max()}; {hint}")
    return array.astype(np.int32)


def float_array(name: str, value: Any, shape: tuple[int | str, ...]) -> jax.Array:
    """An array of finite numbers.

    Args:
        name: of the argument.
        value: an array of any library; the numbers of one of jax, which stay on their device, are not looked at.
        shape: its dims: a number, or a letter for any size of at least 1; "l" are the tokens of a text.
    """
    text = f"({', '.join(map(str, shape))})"
    array = value if isinstance(value, jax.Array) else host_array(name, value, f"give an array {text} of floats")
    fits = len(array.shape) == len(shape) and all(
        size == dim if isinstance(dim, int) else size > 0 for size, dim in zip(array.shape, shape, strict=True)
    )
    is_float = jnp.issubdtype(array.dtype, np.floating)
    if not fits or not is_float:
        raise UserError(f"{name} is an array {array.shape} of {array.dtype}; give {text} of floats")
    for size, dim in zip(array.shape, shape, strict=True):
        if dim == "l":
            _check_length(name, size)
    if not isinstance(array, jax.Array) and not np.isfinite(array.astype(np.float32)).all():
        raise UserError(f"{name} holds a number that is not finite; give finite ones")
    return jnp.asarray(array)


def _check_length(name: str, tokens: int) -> None:
    """Raises ``UserError`` for a text of more tokens than any model's attention has memory for."""
    if tokens > MOST_TOKENS:
        raise UserError(f"{name} has {tokens} tokens in a text; give at most {MOST_TOKENS}")


def as_many_rows(**arrays: jax.Array | None) -> tuple[jax.Array | None, ...]:
    """``arrays`` with as many rows each: one row stands for any number, and None stays None.

    Raises:
        UserError: they are of different numbers of rows.
    """
    counts = {name: len(array) for name, array in arrays.items() if array is not None and len(array) != 1}
    if len(set(counts.values())) > 1:
        found = ", ".join(f"{count} in {name}" for name, count in counts.items())
        raise UserError(f"the arrays are of different numbers of examples: {found}; give as many of each")
    count = max(counts.values(), default=1)
    return tuple(None if each is None else jnp.broadcast_to(each, (count, *each.shape[1:])) for each in arrays.values())


def as_key(name: str, value: Any) -> jax.Array | None:
    """A typed key, or None."""
    if value is None or (isinstance(value, jax.Array) and jnp.issubdtype(value.dtype, jax.dtypes.prng_key)):
        return value
    raise UserError(f"{name} is {quoted(value)}; give a key such as jax.random.key(0), or None")


def timestep_array(name: str, value: Any) -> jax.Array:
    """Timesteps (b,) in [0, 1000]."""
    array = float_array(name, value, ("b",))
    if not isinstance(value, jax.Array) and not bool((array >= 0.0).all() and (array <= TIMESTEPS).all()):
        raise UserError(f"{name} holds {array.min()} to {array.max()}; give timesteps in [0, {TIMESTEPS:g}]")
    return array


def latent_array(name: str, value: Any, config: ModelConfig) -> jax.Array:
    """Latents (b, h, w, c) of sizes that the MMDiT takes."""
    array = float_array(name, value, ("b", "h", "w", config.autoencoder.channels))
    step, grid = config.mmdit.patch_size, config.mmdit.position_grid
    if any(side % step or side > step * grid for side in array.shape[1:3]):
        raise UserError(f"{name} has shape {array.shape}; give sides that are multiples of {step} up to {step * grid}")
    return array
