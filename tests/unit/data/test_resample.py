"""The resize is Pillow's bicubic resize, whatever the sizes."""

import numpy as np
import pytest
from PIL import Image

from dualdiff_jax.data import resample as module
from dualdiff_jax.data.resample import resample

NOISE = np.random.default_rng(0).integers(0, 256, (61, 97, 3), np.uint8)


def by_pillow(pixels, box, height, width):
    """In floats, so that nothing is rounded or cut between its two passes."""
    bands = [Image.fromarray(pixels[..., c].astype(np.float32)) for c in range(3)]
    resized = [np.asarray(band.resize((width, height), Image.Resampling.BICUBIC, box=box)) for band in bands]
    return np.clip(np.stack(resized, -1), 0, 255)


@pytest.mark.parametrize("size", [(1, 1), (7, 9), (8, 8), (30, 47), (60, 97), (61, 96), (64, 100), (150, 11)])
@pytest.mark.parametrize("box", [(0, 0, 97, 61), (10.25, 0.5, 80.75, 60), (40, 30, 44, 33.5)])
def test_it_is_pillows_bicubic_without_its_rounding(size, box):
    with np.errstate(all="raise"):
        found = resample(NOISE, box, *size)
    assert np.abs(found.astype(np.float64) - by_pillow(NOISE, box, *size)).max() < 0.5 + 1e-3


@pytest.mark.parametrize("shape", [(1, 1), (2, 3), (3, 2)])
def test_the_smallest_pictures_grow(shape):
    pixels = NOISE[: shape[0], : shape[1]]
    box = (0, 0, shape[1], shape[0])
    difference = np.abs(resample(pixels, box, 20, 30).astype(np.float64) - by_pillow(pixels, box, 20, 30))
    assert difference.max() < 0.5 + 1e-3


def test_columns_outside_the_box_are_not_computed(monkeypatch):
    shapes, rows = [], module._rows

    def note(pixels, *arguments):
        shapes.append(pixels.shape)
        return rows(pixels, *arguments)

    monkeypatch.setattr(module, "_rows", note)
    resample(NOISE, (40, 0, 44, 61), 61, 8)
    ((height, values),) = shapes
    assert height == 61 and values <= 3 * 9  # the kernel reaches columns 38 to 45


def test_a_picture_at_its_own_size_stays():
    np.testing.assert_array_equal(resample(NOISE, (0, 0, 97, 61), 61, 97), NOISE)


def test_one_colour_stays_one_colour():
    for value in (0, 1, 127, 255):
        assert (resample(np.full((300, 40, 3), value, np.uint8), (3, 2, 39, 290), 111, 17) == value).all()


def test_no_product_is_large_enough_for_more_than_one_thread(monkeypatch):
    sizes, matmul = [], np.matmul

    def note(a, b, out):
        sizes.append(a.shape[-2] * a.shape[-1] * b.shape[-1])
        return matmul(a, b, out=out)

    monkeypatch.setattr(module.np, "matmul", note)
    for shape, size in (((854, 1280), (512, 512)), ((100, 90), (512, 512)), ((3000, 2000), (256, 256))):
        resample(np.zeros((*shape, 3), np.uint8), (0, 0, *shape[::-1]), *size)
    assert 0 < max(sizes) <= module.MULTIPLICATIONS == 65536 * 4  # where OpenBLAS begins to share out
