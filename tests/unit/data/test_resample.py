"""The resize is Pillow's bicubic resize, whatever the sizes."""

import numpy as np
import pytest
from PIL import Image

from dualdiff_jax.data import resample as module
from dualdiff_jax.data.resample import resample

NOISE = np.random.default_rng(0).integers(0, 256, (61, 97, 3), np.uint8)


def by_pillow(pixels, box, height, width, rows_first):
    """Each direction by itself, so that the order is given; Pillow rounds to 256 levels after each."""
    left, top, right, bottom = box
    image = Image.fromarray(pixels)
    for is_rows in (rows_first, not rows_first):
        size = (image.width, height) if is_rows else (width, image.height)
        part = (0, top, image.width, bottom) if is_rows else (left, 0, right, image.height)
        image = image.resize(size, Image.Resampling.BICUBIC, box=part)
    return np.asarray(image)


def check_as_pillow(pixels, box, size, rows_first):
    """Pillow counts in fixed point, so a few sums next to a half are rounded the other way, in both passes."""
    with np.errstate(all="raise"):
        found = resample(pixels, box, *size, rows_first=rows_first)
    difference = np.abs(found.astype(int) - by_pillow(pixels, box, *size, rows_first))
    assert difference.max() <= 2 and np.mean(difference > 0) < 5e-3


@pytest.mark.parametrize("rows_first", [False, True])
@pytest.mark.parametrize("size", [(1, 1), (7, 9), (8, 8), (30, 47), (60, 97), (61, 96), (64, 100), (150, 11)])
@pytest.mark.parametrize("box", [(0, 0, 97, 61), (10.25, 0.5, 80.75, 60), (40, 30, 44, 33.5)])
def test_it_is_pillows_bicubic(size, box, rows_first):
    check_as_pillow(NOISE, box, size, rows_first)


@pytest.mark.parametrize("shape", [(1, 1), (2, 3), (3, 2)])
def test_the_smallest_pictures_grow(shape):
    check_as_pillow(NOISE[: shape[0], : shape[1]], (0, 0, shape[1], shape[0]), (20, 30), False)


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
