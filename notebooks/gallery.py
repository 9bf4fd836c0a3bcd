"""Pictures in rows, as the notebooks show them."""

from collections.abc import Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np


def show(rows: Sequence[Sequence[Any]], titles: Sequence[str] = (), names: Sequence[str] = (), size: float = 1.3):
    """Draws rows of pictures of one length.

    Args:
        rows: pictures: PIL images, masks, or arrays of floats in [-1, 1].
        titles: over the columns.
        names: beside the rows.
        size: of a picture, in inches.
    """
    figure, axes = plt.subplots(
        len(rows), len(rows[0]), figsize=(size * len(rows[0]), size * len(rows) + 0.3), squeeze=False
    )
    for row, line in zip(rows, axes, strict=True):
        for picture, axis in zip(row, line, strict=True):
            axis.imshow(_pixels(picture), cmap="gray", vmin=0, vmax=255)
            axis.set(xticks=[], yticks=[])
    for axis, title in zip(axes[0], titles, strict=False):
        axis.set_title(title, fontsize=9)
    for axis, name in zip(axes[:, 0], names, strict=False):
        axis.set_ylabel(name, fontsize=9, rotation=0, ha="right", va="center")
    plt.show()


def _pixels(picture: Any) -> np.ndarray:
    """(h, w) or (h, w, 3) uint8."""
    pixels = np.asarray(picture).squeeze()
    if pixels.dtype.kind == "f":
        pixels = np.round(127.5 * (pixels.clip(-1.0, 1.0) + 1.0))
    return (255 * pixels if pixels.dtype.kind == "b" else pixels).astype(np.uint8)
