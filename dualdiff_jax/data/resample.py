"""Bicubic resize (Keys 1981, a = -1/2), whose kernel widens as the picture shrinks, as Pillow's does.

(1)  out[i] = sum_j w[i, j] in[j],   w[i, j] ~ k((j + 1/2 - c_i) / s),   sum_j w[i, j] = 1
     c_i = start + (i + 1/2) (stop - start) / outputs,   s = max((stop - start) / outputs, 1)
Rows first, then columns, in fp32, rounded once at the end. Neighbouring outputs read the same few inputs, so w is a
band matrix: it is cut into blocks of outputs, and each block is a product of small dense matrices. That is faster than
Pillow's loops (benchmarks/results/data.json). Beside decoding, the resize is most of the cost of an image.
"""

import functools

import numpy as np

OUTPUTS = 8  # of a block; the block reads OUTPUTS + 4 inputs times the scale, and an output needs 4 of these
# OpenBLAS computes a product of at most so many multiplications in the calling thread. It would spread a larger one
# over threads of its own and take their cores from the other readers.
MULTIPLICATIONS = 1 << 18
CHANNELS = 3

Box = tuple[float, float, float, float]


def resample(pixels: np.ndarray, box: Box, height: int, width: int) -> np.ndarray:
    """Resizes the part of an image inside a box.

    Args:
        pixels: (h, w, 3) uint8.
        box: (left, top, right, bottom) in pixels, fractions allowed, within the image.
        height: of the result, in pixels.
        width: of the result, in pixels.

    Returns:
        (height, width, 3) uint8.
    """
    left, top, right, bottom = box
    row_starts, row_blocks = _blocks(pixels.shape[0], top, bottom, height, 1)
    column_starts, column_blocks = _blocks(pixels.shape[1], left, right, width, CHANNELS)
    begin, end = int(column_starts[0]), int(column_starts[-1]) + column_blocks.shape[1] // CHANNELS
    rows = _rows(pixels.reshape(len(pixels), -1)[:, CHANNELS * begin : CHANNELS * end], row_starts, row_blocks)
    resized = _columns(rows[:height], CHANNELS * (column_starts - begin), column_blocks)
    resized = resized[:, : CHANNELS * width]
    resized += 0.5
    np.clip(resized, 0, 255, out=resized)
    return resized.astype(np.uint8).reshape(height, width, CHANNELS)


def _rows(pixels: np.ndarray, starts: np.ndarray, blocks: np.ndarray) -> np.ndarray:
    """Resamples the rows: (h, n) uint8 -> (outputs, n) fp32, with outputs rounded up to whole blocks."""
    _, outputs, inputs = blocks.shape
    n = pixels.shape[1]
    parts = -(-n * outputs * inputs // MULTIPLICATIONS)
    size = -(-n // parts)
    source = np.zeros((inputs, parts * size), np.float32)
    resampled = np.empty((len(blocks), outputs, parts * size), np.float32)
    by_part = source.reshape(inputs, parts, size).swapaxes(0, 1)
    for start, block, out in zip(starts.tolist(), blocks, resampled, strict=True):
        source[:, :n] = pixels[start : start + inputs]
        np.matmul(block, by_part, out=out.reshape(outputs, parts, size).swapaxes(0, 1))
    return resampled.reshape(len(blocks) * outputs, -1)[:, :n]


def _columns(rows: np.ndarray, starts: np.ndarray, blocks: np.ndarray) -> np.ndarray:
    """Resamples the columns: (height, n) fp32 -> (height, outputs) fp32, with outputs rounded up to whole blocks."""
    count, inputs, outputs = blocks.shape
    resampled = np.empty((len(rows), count * outputs), np.float32)
    size = max(1, MULTIPLICATIONS // (inputs * outputs))
    for first in range(0, len(rows), size):
        part, out = rows[first : first + size], resampled[first : first + size]
        for number, (start, block) in enumerate(zip(starts.tolist(), blocks, strict=True)):
            np.matmul(part[:, start : start + inputs], block, out=out[:, number * outputs : (number + 1) * outputs])
    return resampled


@functools.lru_cache(maxsize=32)
def _blocks(size: int, start: float, stop: float, outputs: int, channels: int) -> tuple[np.ndarray, np.ndarray]:
    """The weights of equation (1) along one side.

    Args:
        size: inputs along the side.
        start: where the box starts, in inputs.
        stop: where the box ends.
        outputs: along the side.
        channels: 1, or the interleaved channels of a row, each of which is resampled by itself.

    Returns:
        (blocks,) the first input of each block, and the weights: (blocks, OUTPUTS, inputs) if ``channels`` is 1, else
        (blocks, inputs * channels, OUTPUTS * channels).
    """
    scale = (stop - start) / outputs
    widened = max(scale, 1.0)
    count = -(-outputs // OUTPUTS)
    centres = start + (np.arange(count * OUTPUTS).reshape(count, OUTPUTS) + 0.5) * scale
    centres = np.minimum(centres, start + (outputs - 0.5) * scale)  # surplus outputs of the last block repeat the last
    inputs = min(size, int(np.ceil((OUTPUTS - 1) * scale + 4 * widened)) + 1)
    starts = np.clip(np.floor(centres[:, 0] - 2 * widened), 0, size - inputs).astype(int)
    places = starts[:, None] + np.arange(inputs)
    weights = _kernel((places[:, None, :] + 0.5 - centres[:, :, None]) / widened)
    weights = (weights / weights.sum(axis=2, keepdims=True)).astype(np.float32)
    if channels == 1:
        return starts, weights
    apart = np.zeros((count, inputs, channels, OUTPUTS, channels), np.float32)
    for channel in range(channels):
        apart[:, :, channel, :, channel] = weights.swapaxes(1, 2)
    return starts, apart.reshape(count, inputs * channels, OUTPUTS * channels)


def _kernel(x: np.ndarray) -> np.ndarray:
    """Keys' cubic k(x), which is zero from |x| = 2 on."""
    x = np.abs(x)
    near, far = (1.5 * x - 2.5) * x * x + 1.0, ((2.5 - 0.5 * x) * x - 4.0) * x + 2.0
    return np.where(x < 1.0, near, np.where(x < 2.0, far, 0.0))
