"""Bicubic resize (Keys 1981, a = -1/2), whose kernel widens as the picture shrinks, as Pillow's does.

(1)  out[i] = sum_j w[i, j] in[j],   w[i, j] ~ k((j + 1/2 - c_i) / s),   sum_j w[i, j] = 1
     c_i = start + (i + 1/2) (stop - start) / outputs,   s = max((stop - start) / outputs, 1)
Columns first, then rows, each in fp32 and rounded to the 256 levels, since what a pass cuts off at black and white is
lost to the next: so the result is Pillow's, but for sums that lie within fp32's rounding of a half. Neighbouring
outputs read the same few inputs, so w is a band matrix: it is cut into blocks of outputs, and each block is a product
of small dense matrices. That is faster than Pillow's loops (benchmarks/results/data.json). Beside decoding, the resize
is most of the cost of an image.
"""

import functools

import numpy as np

OUTPUTS = 8  # of a block; the block reads OUTPUTS + 4 inputs times the scale, and an output needs 4 of these
# OpenBLAS computes a product of at most so many multiplications in the calling thread. It would spread a larger one
# over threads of its own and take their cores from the other readers.
MULTIPLICATIONS = 1 << 18
CHANNELS = 3

Box = tuple[float, float, float, float]


def resample(pixels: np.ndarray, box: Box, height: int, width: int, *, rows_first: bool = False) -> np.ndarray:
    """Resizes the part of an image inside a box.

    Args:
        pixels: (h, w, 3) uint8.
        box: (left, top, right, bottom) in pixels, fractions allowed, within the image.
        height: of the result, in pixels.
        width: of the result, in pixels.
        rows_first: whether to resample the rows before the columns.

    Returns:
        (height, width, 3) uint8.
    """
    left, top, right, bottom = box
    rows, row_blocks = _blocks(pixels.shape[0], top, bottom, height, 1)
    columns, column_blocks = _blocks(pixels.shape[1], left, right, width, CHANNELS)
    lines = slice(int(rows[0]), int(rows[-1]) + row_blocks.shape[2])
    inputs = slice(int(columns[0]), int(columns[-1]) + column_blocks.shape[1] // CHANNELS)
    window = np.ascontiguousarray(pixels[lines, inputs]).reshape(lines.stop - lines.start, -1)
    rows, columns = rows - lines.start, CHANNELS * (columns - inputs.start)
    if rows_first:
        resized = _columns(_rows(window, rows, row_blocks)[:height], columns, column_blocks)[:, : CHANNELS * width]
    else:
        resized = _rows(_columns(window, columns, column_blocks)[:, : CHANNELS * width], rows, row_blocks)[:height]
    return resized.reshape(height, width, CHANNELS)


def _columns(pixels: np.ndarray, starts: np.ndarray, blocks: np.ndarray) -> np.ndarray:
    """Resamples the columns: (h, n) uint8 -> (h, outputs) uint8, with outputs rounded up to whole blocks."""
    count, inputs, outputs = blocks.shape
    resampled = np.empty((len(pixels), count * outputs), np.uint8)
    size = min(max(1, MULTIPLICATIONS // (inputs * outputs)), len(pixels))
    source, out = np.empty((size, pixels.shape[1]), np.float32), np.empty((size, count * outputs), np.float32)
    for at in range(0, len(pixels), size):
        rows = min(size, len(pixels) - at)
        source[:rows] = pixels[at : at + rows]
        for number, (start, block) in enumerate(zip(starts.tolist(), blocks, strict=True)):
            part = out[:rows, number * outputs : (number + 1) * outputs]
            np.matmul(source[:rows, start : start + inputs], block, out=part)
        resampled[at : at + rows] = _rounded(out[:rows])
    return resampled


def _rows(pixels: np.ndarray, starts: np.ndarray, blocks: np.ndarray) -> np.ndarray:
    """Resamples the rows: (h, n) uint8 -> (outputs, n) uint8, with outputs rounded up to whole blocks."""
    count, outputs, inputs = blocks.shape
    n = pixels.shape[1]
    parts = -(-n * outputs * inputs // MULTIPLICATIONS)
    size = -(-n // parts)
    source = np.zeros((inputs, parts * size), np.float32)
    by_part = source.reshape(inputs, parts, size).swapaxes(0, 1)
    out = np.empty((outputs, parts * size), np.float32)
    out_by_part = out.reshape(outputs, parts, size).swapaxes(0, 1)
    resampled = np.empty((count, outputs, n), np.uint8)
    for start, block, rows in zip(starts.tolist(), blocks, resampled, strict=True):
        source[:, :n] = pixels[start : start + inputs]
        np.matmul(block, by_part, out=out_by_part)
        rows[...] = _rounded(out[:, :n])
    return resampled.reshape(count * outputs, n)


def _rounded(values: np.ndarray) -> np.ndarray:
    """Rounds to the 256 levels, in place; a cast to uint8 cuts what remains of the fraction."""
    values += 0.5
    return np.clip(values, 0, 255, out=values)


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
