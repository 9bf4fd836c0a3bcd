"""Where the bounds on a picture lie exactly, and the cause that each fault of a file is reported with."""

import io
import os
import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dualdiff_jax.data import decoding, images
from dualdiff_jax.data.images import image_size, open_image, read_image
from dualdiff_jax.data.records.record import MISSING, OVERSIZED, UNREADABLE, DataError
from dualdiff_jax.errors import UserError


def encoded(image: Image.Image, kind: str = "PNG") -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind)
    return stream.getvalue()


def test_the_largest_picture_has_two_to_the_25_pixels_unless_the_caller_says_otherwise(monkeypatch):
    small = Image.new("RGB", (4, 4))
    monkeypatch.setattr(decoding, "_to_rgb", lambda image, name, background: small)
    assert open_image(encoded(Image.new("1", (1 << 13, 1 << 12)))) is small
    larger = encoded(Image.new("1", (1 << 13, (1 << 12) + 1)))
    with pytest.raises(DataError, match="data.max_pixels") as error:
        open_image(larger)
    assert error.value.cause == OVERSIZED
    assert open_image(larger, max_pixels=1 << 26) is small


@pytest.mark.parametrize("read", [open_image, image_size])
def test_a_file_that_is_not_there_or_no_picture_has_its_cause(tmp_path, read):
    (tmp_path / "text.png").write_bytes(b"not a picture")
    for name, cause in (("none.png", MISSING), ("text.png", UNREADABLE)):
        with pytest.raises(DataError, match=name) as error:
            read(tmp_path / name)
        assert error.value.cause == cause


@pytest.mark.parametrize("read", [open_image, image_size])
@pytest.mark.parametrize("is_bytes", [False, True])
def test_a_pointer_of_git_lfs_is_called_one(tmp_path, read, is_bytes):
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:4665e2c1\nsize 41\n"
    (tmp_path / "digit.jpg").write_bytes(pointer)
    with pytest.raises(DataError, match="is a pointer of Git LFS and not the file itself; fetch that with") as error:
        read(pointer if is_bytes else tmp_path / "digit.jpg")
    assert error.value.cause == UNREADABLE


@pytest.mark.parametrize(
    ("raised", "message"),
    [
        (PermissionError(13, "no"), "permissions"),
        (OSError(5, "broken disk"), "broken disk"),
    ],
)
def test_a_file_that_cannot_be_read_is_unreadable_with_the_reason(tmp_path, monkeypatch, raised, message):
    def refuse(path: Path, most: int) -> None:
        raise raised

    monkeypatch.setattr(decoding, "read_regular", refuse)
    for read in (open_image, image_size):
        with pytest.raises(DataError, match=f"a.png.*: .*{message}") as error:
            read(tmp_path / "a.png")
        assert error.value.cause == UNREADABLE


RAMP = np.linspace(0, 1, 64).reshape(8, 8)


def tiff(values: np.ndarray, **tags) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(values).save(stream, "TIFF", tiffinfo=tags.get("tiffinfo", {}))
    return stream.getvalue()


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        (tiff(RAMP.astype(np.float32)), RAMP),
        (tiff((RAMP / 8).astype(np.float32)), RAMP / 8),  # a dark picture stays dark
        (tiff(np.float32(RAMP * 1.0015 - 0.0007)), RAMP),  # sums of a resize, which still round to black and white
        (tiff((RAMP * 65535).astype(np.uint16)), RAMP),
        (tiff((RAMP * 255).astype(np.uint16)), RAMP / 257),  # 255 of 65535
        (encoded(Image.fromarray((RAMP * 65535).astype(np.uint16))), RAMP),
        (Image.fromarray(RAMP.astype(np.float32)), RAMP),
        (b"P5 8 8 65535\n" + (RAMP * 65535).astype(">u2").tobytes(), RAMP),
        (b"P5 8 8 1023\n" + (RAMP * 1023).astype(">u2").tobytes(), RAMP),
        (tiff((RAMP * 65535).astype(np.uint16), tiffinfo={262: 0}), 1 - RAMP),  # white is zero
    ],
)
def test_deep_grey_is_scaled_to_eight_bits(source, expected):
    found = np.asarray(open_image(source))
    assert found.shape == (8, 8, 3)
    np.testing.assert_allclose(found[..., 1], expected * 255, atol=0.8)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.float32(RAMP * 255), "floats from 0.0 to 255.0; scale them so that 0 is black and 1 is white"),
        (np.float32(RAMP * 2 - 1), "floats from -1.0 to 1.0"),
        (np.float32(np.where(RAMP == 0, np.nan, RAMP)), "floats from nan to nan"),
        (np.float32(np.where(RAMP == 0, np.inf, RAMP)), "floats from .* to inf"),
        (np.int32(RAMP * 255), "integers from 0 to 255, of which none is defined as white"),
        (np.int32(RAMP * 65535 * 2), "integers from 0 to 131070"),
        (np.int32(RAMP * -9), "integers from -9 to 0"),
    ],
)
def test_numbers_without_a_defined_white_are_refused_with_their_range(values, message):
    for source in (tiff(values), Image.fromarray(values)):
        with pytest.raises(DataError, match=message) as error:
            open_image(source)
        assert error.value.cause == UNREADABLE


def test_what_is_no_regular_file_is_refused_at_once(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    with open(tmp_path / "sparse.png", "wb") as file:
        file.truncate(decoding.MAX_BYTES + 1)
    for name, message in (
        ("pipe.png", "is a pipe"),
        ("sparse.png", "has .* bytes, more than"),
        ("a\0b.png", "no path"),
    ):
        for read in (open_image, image_size):
            with pytest.raises(DataError, match=message):
                read(str(tmp_path / name))


@pytest.mark.parametrize("mode", ["LAB", "HSV", "YCbCr", "PA", "La", "RGBa", "RGBX", "CMYK"])
def test_a_picture_of_any_mode_is_read_or_refused(mode):
    try:
        assert open_image(Image.new(mode, (4, 5))).mode == "RGB"
    except DataError as error:
        assert "is not an image that can be read" in str(error)


@pytest.mark.parametrize("orientation", [1, 4, 5, 8])
def test_height_and_width_change_places_from_orientation_five_on(tmp_path, orientation):
    image = Image.new("RGB", (12, 10))
    exif = image.getexif()
    exif[0x0112] = orientation
    for form in ("jpeg", "png", "webp", "tiff", "avif"):
        image.save(tmp_path / f"turned.{form}", exif=exif)
        assert image_size(tmp_path / f"turned.{form}") == ((12, 10) if orientation >= 5 else (10, 12)), form
        assert open_image(tmp_path / f"turned.{form}").size == ((10, 12) if orientation >= 5 else (12, 10)), form


@pytest.mark.parametrize(
    "pixels",
    [np.zeros((4, 4, 3)), np.zeros(4, np.uint8), np.zeros((1, 4, 4, 3), np.uint8), np.zeros((3, 4, 4), np.uint8)],
)
def test_an_array_of_another_dtype_or_shape_is_refused(pixels):
    with pytest.raises(UserError, match="uint8 of .h, w, 3. or .h, w.") as error:
        open_image(pixels)
    assert not isinstance(error.value, DataError)


def test_a_picture_of_the_wanted_size_is_not_resampled(monkeypatch):
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, 3), np.uint8)
    monkeypatch.setattr(images, "resample", None)
    np.testing.assert_array_equal(read_image(pixels, 5, 7), np.float32(pixels) / np.float32(127.5) - 1)


def test_a_fault_speaks_of_the_picture_alone_and_nothing_is_logged_beside_it(caplog):
    """Pillow's own message names an object of Python, and it logs what it raises."""
    samples = struct.pack("<HHI", 277, 3, 1)  # of a pixel
    strange = encoded(Image.new("RGB", (4, 4)), "TIFF").replace(samples + b"\3", samples + b"\x20")
    for data in (b"no picture", b"\x89PNG\r\n\x1a\n\0", b"GIF8", strange):
        with pytest.raises(DataError, match="^picture 3: is not an image that can be read") as error:
            read_image(data, 4, 4, "picture 3")
        assert " object at " not in str(error.value)
    assert caplog.records == []
