"""What callers may hand to the pipeline: texts, images, sizes, numbers, seeds.

Each check returns the value in the form that the pipeline works with. Otherwise it raises a ``UserError`` that names
the argument, its value, and what to give instead.
"""

import math
import operator
import os
from collections.abc import Collection, Iterator, Sequence
from typing import Any, TypeAlias

import jax
import numpy as np
from PIL import Image

from dualdiff_jax.arrays import Key
from dualdiff_jax.config import ModelConfig
from dualdiff_jax.data.images import ImageSource
from dualdiff_jax.errors import UserError

Texts: TypeAlias = str | Sequence[str]
ImageSources: TypeAlias = ImageSource | Sequence[ImageSource]

SEEDS = 1 << 32  # jax drops all higher bits of a seed, so larger seeds would repeat the results of smaller ones


def as_texts(name: str, texts: Texts) -> list[str]:
    """One text or several, as a list."""
    texts = [texts] if isinstance(texts, str) else list(texts)
    for index, text in enumerate(texts):
        if not isinstance(text, str):
            raise UserError(f"{name}[{index}] is {text!r}; give a text")
    return texts


def as_images(images: ImageSources) -> list[ImageSource]:
    """One image or several, as a list.

    Args:
        images: what ``data.images.open_image`` reads, or a sequence of it. An array of two or three dims is one
            image, an array of four dims (n, h, w, 3) is n of them.
    """
    if isinstance(images, str | os.PathLike | bytes | Image.Image):
        return [images]
    if isinstance(images, np.ndarray) and images.ndim < 4:
        return [images]
    return list(images)


def whole_number(name: str, value: int | None, default: int, least: int = 1) -> int:
    """``value``, or ``default`` where it is None; the caller's value has to be an integer of at least ``least``."""
    if value is None:
        return default
    if not _is_whole(value) or value < least:
        raise UserError(f"{name} is {value!r}; give a whole number of at least {least}")
    return operator.index(value)


def number(name: str, value: float | None, default: float, least: float = -math.inf) -> float:
    """``value``, or ``default`` where it is None; the caller's value has to be finite and at least ``least``."""
    if value is None:
        return default
    if not least <= value < math.inf:
        bound = "" if least == -math.inf else f" of at least {least}"
        raise UserError(f"{name} is {value}; give a finite number{bound}")
    return value


def check_seed(seed: int) -> int:
    """An integer in [0, 2**32)."""
    if not _is_whole(seed) or not 0 <= seed < SEEDS:
        raise UserError(f"seed is {seed!r}; give a whole number from 0 to {SEEDS - 1}")
    return operator.index(seed)


def choice(name: str, value: str, choices: Collection[str]) -> str:
    """One of ``choices``."""
    if value not in choices:
        raise UserError(f"{name} is {value!r}; give one of {', '.join(choices)}")
    return value


def image_size(config: ModelConfig, height: int | None, width: int | None) -> tuple[int, int]:
    """(height, width) in pixels; None stands for the model's own.

    Both are multiples of the pixels that one image token covers, up to the side of the model's position table.
    """
    default, step = config.sampling, config.mmdit.patch_size * config.autoencoder.downscale
    size = whole_number("height", height, default.height), whole_number("width", width, default.width)
    limit = step * config.mmdit.position_grid
    if any(side % step or side > limit for side in size):
        raise UserError(
            f"height x width is {size[0]} x {size[1]} pixels, which this model cannot make; "
            f"give multiples of {step} up to {limit}"
        )
    return size


def batches(count: int, seed: int, largest: int, parts: int) -> Iterator[tuple[np.ndarray, int, Key]]:
    """Splits ``count`` examples into batches of one size, so that few shapes are compiled.

    Args:
        count: the examples of a call.
        seed: each example's key is this seed's key with the example's index folded in.
        largest: the largest batch. A call of fewer examples gets the next power of two.
        parts: what a batch is divided into over the mesh; batches are rounded up to a multiple of it.

    Yields:
        ``rows`` (b,), the indices of a batch's examples: where they run out, the last one fills the batch up;
        how many of the rows count; and ``rngs`` (b,), a key for each row.
    """
    size = min(largest, 1 << max(count - 1, 0).bit_length())
    size = -(-size // parts) * parts
    fold_in = jax.vmap(jax.random.fold_in, in_axes=(None, 0))
    for begin in range(0, count, size):
        rows = np.minimum(np.arange(begin, begin + size), count - 1)
        yield rows, min(size, count - begin), fold_in(jax.random.key(seed), rows)


def _is_whole(value: Any) -> bool:
    try:
        operator.index(value)
    except TypeError:
        return False
    return True
