"""Files from visitors: bounded, read by the package's own reader, and written anew; nothing of a file goes further."""

import base64
import binascii
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from dualdiff_jax.app.studio import Studio
from dualdiff_jax.data.images import open_image
from dualdiff_jax.errors import UserError
from dualdiff_jax.files import read_regular
from dualdiff_jax.pipeline.edit_inputs import WHITE

MOST_BYTES = 20 << 20  # of an upload
MOST_PIXELS = 1 << 24  # of an upload, 4096 x 4096
LONGEST = 2048  # pixels of a side; a larger picture is scaled down
PICTURE, MASK = "image.png", "mask.png"
DATA_URL = "data:image/png;base64,"


def receive(studio: Studio, upload: str | Path) -> Path:
    """Reads an upload and writes it anew as PNG: upright, in RGB, without what else the file held.

    Args:
        studio: whose folder it is written into.
        upload: the file as it came.

    Returns:
        ``PICTURE`` in a folder of its own.

    Raises:
        UserError: it is no image that can be read, or a side, its bytes or its pixels are out of bounds.
    """
    try:
        data = read_regular(upload, MOST_BYTES)
    except OSError as error:
        raise UserError(f"the upload cannot be read ({error.strerror}); choose the file again") from error
    except UserError:
        raise UserError(f"the upload has more than {MOST_BYTES >> 20} MiB; choose a smaller file") from None
    image = open_image(data, "the upload", max_pixels=MOST_PIXELS)
    image.thumbnail((LONGEST, LONGEST))
    if min(image.size) < 2:
        raise UserError("the upload is narrower than 2 pixels at this scale; choose a picture of another shape")
    file = studio.new_folder() / PICTURE
    image.save(file, "PNG")
    return file


def receive_mask(painted: Any, size: tuple[int, int]) -> Image.Image:
    """The mask that the brush painted.

    Args:
        painted: {"mask": a PNG as data URL}, white where the picture is repainted; what a browser sent.
        size: (width, height) of the picture.

    Returns:
        A grey image of ``size``, of black and white alone.

    Raises:
        UserError: nothing is painted, or what came is no such mask.
    """
    url = painted.get("mask") if isinstance(painted, dict) else None
    if not url:
        raise UserError("nothing is painted; paint the part of the picture that is drawn anew")
    if not isinstance(url, str) or not url.startswith(DATA_URL) or len(url) > MOST_BYTES:
        raise UserError("the mask is no PNG of the brush; paint it again")
    try:
        data = base64.b64decode(url[len(DATA_URL) :], validate=True)
    except binascii.Error:
        raise UserError("the mask is no PNG of the brush; paint it again") from None
    grey = np.asarray(open_image(data, "the mask", max_pixels=MOST_PIXELS, background="black").convert("L"))
    mask = Image.fromarray(np.where(grey >= WHITE, 255, 0).astype(np.uint8))
    if mask.size != size:
        raise UserError(f"the mask has {mask.size} pixels and the picture {size}; paint it again")
    if not mask.getbbox():
        raise UserError("nothing is painted; paint the part of the picture that is drawn anew")
    return mask


def as_data_url(file: Path) -> str:
    """A PNG file as a URL that holds it."""
    return DATA_URL + base64.b64encode(file.read_bytes()).decode()
