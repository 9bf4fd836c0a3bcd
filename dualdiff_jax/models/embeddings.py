"""How time, position and pixels enter the MMDiT (arXiv 2403.03206, section 4; 2212.09748).

(1) timestep:  [cos(w_i tau), sin(w_i tau)], w_i = 10000^(-i/128), i < 128, tau in [0, 1000]
(2) position:  the 2-D table P[y, x] = [sincos(x'), sincos(y')], x' = x * base / grid, of a square grid;
               an image of h x w tokens uses the h x w window in its centre
(3) patches:   token (y, x) holds the p x p x c latents of its square, in the order (row, column, channel)
Letters of shapes: b batch, h and w latents, p patch, c channels, d width.
"""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from dualdiff_jax.arrays import Latents, PerExample
from dualdiff_jax.models.activations import silu
from dualdiff_jax.models.linear import Linear

FREQUENCIES = 256  # sinusoids of a timestep: half cosines, half sines


def timestep_sinusoids(timestep: PerExample) -> jax.Array:
    """(b,) in [0, 1000] -> (b, 256) fp32, cosines first. Equation (1)."""
    half = FREQUENCIES // 2
    frequencies = jnp.exp(-jnp.log(10000.0) * jnp.arange(half, dtype=jnp.float32) / half)
    angles = timestep.astype(jnp.float32)[:, None] * frequencies
    return jnp.concatenate([jnp.cos(angles), jnp.sin(angles)], axis=-1)


class TimestepEmbedding(nnx.Module):
    """A two-layer SiLU network over the sinusoids: (b,) in [0, 1000] -> (b, d) in ``dtype``."""

    def __init__(self, width: int, *, rngs: nnx.Rngs):
        self.hidden = Linear({"frequency": FREQUENCIES}, {"mlp": width}, rngs=rngs)
        self.out = Linear({"mlp": width}, {"width": width}, rngs=rngs)

    def __call__(self, timestep: PerExample, dtype: jnp.dtype) -> jax.Array:
        return self.out(silu(self.hidden(timestep_sinusoids(timestep).astype(dtype))))


def _sincos(positions: np.ndarray, channels: int) -> np.ndarray:
    frequencies = 10000.0 ** (-np.arange(channels // 2, dtype=np.float64) / (channels / 2))
    angles = positions.reshape(-1, 1) * frequencies
    return np.concatenate([np.sin(angles), np.cos(angles)], axis=-1)


def position_table(grid: int, base: int, width: int) -> np.ndarray:
    """The table of equation (2). The first half of the channels encodes the column, the second half the row.

    Args:
        grid: Side of the table, in tokens.
        base: Grid steps that span one unit of the training resolution.
        width: d, a multiple of 4.

    Returns:
        (grid, grid, d) fp32.
    """
    steps = np.arange(grid, dtype=np.float32) / (grid / base)
    row, column = np.meshgrid(steps, steps, indexing="ij")
    table = np.concatenate([_sincos(column, width // 2), _sincos(row, width // 2)], axis=-1)
    return table.reshape(grid, grid, width).astype(np.float32)


def centre_crop(table: jax.Array, height: int, width: int) -> jax.Array:
    """The window in the middle of a square table.

    Args:
        table: (grid, grid, d).
        height: Of the window, in tokens.
        width: Of the window, in tokens.

    Returns:
        (height * width, d).

    Raises:
        ValueError: The window is larger than the table.
    """
    grid = table.shape[0]
    if height > grid or width > grid:
        raise ValueError(f"{height} x {width} tokens do not fit the {grid} x {grid} position table")
    top, left = (grid - height) // 2, (grid - width) // 2
    return table[top : top + height, left : left + width].reshape(height * width, -1)


def patchify(latents: Latents, patch: int) -> jax.Array:
    """(b, h, w, c) -> (b, h/p * w/p, p*p*c), with p = ``patch``, which divides h and w. Equation (3)."""
    b, h, w, c = latents.shape
    squares = latents.reshape(b, h // patch, patch, w // patch, patch, c)
    return squares.transpose(0, 1, 3, 2, 4, 5).reshape(b, (h // patch) * (w // patch), patch * patch * c)


def unpatchify(tokens: jax.Array, height: int, width: int, patch: int) -> Latents:
    """The inverse of ``patchify``.

    Args:
        tokens: (b, height/p * width/p, p*p*c).
        height: Of the latents.
        width: Of the latents.
        patch: p, which divides both.

    Returns:
        (b, height, width, c).
    """
    rows, columns = height // patch, width // patch
    squares = tokens.reshape(tokens.shape[0], rows, columns, patch, patch, -1)
    return squares.transpose(0, 1, 3, 2, 4, 5).reshape(tokens.shape[0], height, width, -1)
