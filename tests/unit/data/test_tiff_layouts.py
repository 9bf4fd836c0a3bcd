"""Layouts of a TIFF: one writer of plain files, independent of Pillow's, and what is read of them or refused."""

import io
import struct
from typing import Literal

import numpy as np
import pytest
from PIL import Image

from dualdiff_jax.data.images import open_image
from dualdiff_jax.data.records.record import UNREADABLE, DataError

RGB, MIN_IS_WHITE, MIN_IS_BLACK = 2, 0, 1
SHORT, LONG = 3, 4  # types of a tag's values


def tiff(
    values: np.ndarray, photometric: int, order: Literal["<", ">"], *, separate: bool = False, **more: int
) -> bytes:
    """An uncompressed file.

    Args:
        values: (h, w, samples); planes are written one after the other if ``separate``.
        photometric: what the samples mean.
        order: "<" or ">", of all numbers.
        separate: whether each sample has a plane of its own.
        more: ``sample_format`` of all samples, ``extra`` meaning of the fourth.
    """
    height, width, samples = values.shape
    planes = [values[..., i] for i in range(samples)] if separate else [values]
    strips = [np.ascontiguousarray(plane).astype(values.dtype.newbyteorder(order)).tobytes() for plane in planes]
    starts = [8 + sum(map(len, strips[:i])) for i in range(len(strips))]
    bits = 8 * values.dtype.itemsize
    tags: dict[int, tuple[int, list[int]]] = {
        256: (LONG, [width]),
        257: (LONG, [height]),
        258: (SHORT, [bits] * samples),
        259: (SHORT, [1]),
        262: (SHORT, [photometric]),
        273: (LONG, starts),
        277: (SHORT, [samples]),
        278: (LONG, [height]),
        279: (LONG, [len(strip) for strip in strips]),
        284: (SHORT, [2 if separate else 1]),
    }
    if "extra" in more:
        tags[338] = (SHORT, [more["extra"]])
    tags[339] = (SHORT, [more.get("sample_format", 1)] * samples)
    content = b"".join(strips)
    content += bytes(len(content) % 2)
    directory, beyond = struct.pack(f"{order}H", len(tags)), b""
    at = 8 + len(content) + 2 + 12 * len(tags) + 4
    for tag, (kind, numbers) in sorted(tags.items()):
        packed = struct.pack(f"{order}{len(numbers)}{'H' if kind == SHORT else 'I'}", *numbers)
        value = packed.ljust(4, b"\0")
        if len(packed) > 4:
            value, beyond = struct.pack(f"{order}I", at + len(beyond)), beyond + packed
        directory += struct.pack(f"{order}HHI", tag, kind, len(numbers)) + value
    mark = b"II*\0" if order == "<" else b"MM\0*"
    return mark + struct.pack(f"{order}I", 8 + len(content)) + content + directory + bytes(4) + beyond


def picture(samples: int) -> np.ndarray:
    """(h, w, samples) in [0, 1]."""
    return np.random.default_rng(samples).random((19, 27, samples))


def pixels(data: bytes) -> np.ndarray:
    return np.asarray(open_image(data, "a.tif"))


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize(("kind", "separate"), [(np.uint8, False), (np.uint8, True), (np.uint16, False)])
def test_colours_are_read_in_both_orders(order, kind, separate):
    values = picture(3)
    data = tiff((values * np.iinfo(kind).max).round().astype(kind), RGB, order, separate=separate)
    assert np.abs(pixels(data) - values * 255).max() <= 1.0


@pytest.mark.parametrize("order", "<>")
def test_grey_is_read_whichever_end_is_white(order):
    values = picture(1)
    whole = (values * 255).round().astype(np.uint8)
    expected = np.repeat(whole, 3, axis=-1).astype(int)
    np.testing.assert_array_equal(pixels(tiff(whole, MIN_IS_BLACK, order)), expected)
    np.testing.assert_array_equal(pixels(tiff(255 - whole, MIN_IS_WHITE, order)), expected)
    assert np.abs(pixels(tiff((values * 65535).astype(np.uint16), MIN_IS_BLACK, order)) - expected).max() <= 1.0
    assert np.abs(pixels(tiff(values.astype(np.float32), MIN_IS_BLACK, order, sample_format=3)) - expected).max() <= 1.0


@pytest.mark.parametrize("order", "<>")
def test_alpha_lies_over_white_and_another_fourth_sample_is_left_out(order):
    values = (picture(4) * 255).astype(np.uint8)
    values[:9, :, 3], values[9:, :, 3] = 0, 255
    over = values[..., :3].copy()
    over[:9] = 255
    np.testing.assert_array_equal(pixels(tiff(values, RGB, order, extra=2)), over)
    np.testing.assert_array_equal(pixels(tiff(values, RGB, order, extra=0)), values[..., :3])


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("samples", [3, 4])
def test_planes_of_16_bits_that_are_not_compressed_are_refused(order, samples):
    values = (picture(samples) * 65535).astype(np.uint16)
    extra = {"extra": 2} if samples == 4 else {}
    with pytest.raises(DataError, match=r"a\.tif: .*16 bits and not compressed.*side by side") as error:
        pixels(tiff(values, RGB, order, separate=True, **extra))
    assert error.value.cause == UNREADABLE


@pytest.mark.parametrize("order", "<>")
def test_integers_with_a_sign_are_refused(order):
    values = (picture(1) * 127).astype(np.int8)
    with pytest.raises(DataError, match=r"a\.tif: holds integers with a sign"):
        pixels(tiff(values, MIN_IS_BLACK, order, sample_format=2))


def test_the_writer_and_pillow_agree_where_both_write():
    values = (picture(3) * 255).astype(np.uint8)
    stream = io.BytesIO()
    Image.fromarray(values).save(stream, "TIFF")
    np.testing.assert_array_equal(pixels(stream.getvalue()), pixels(tiff(values, RGB, "<")))
