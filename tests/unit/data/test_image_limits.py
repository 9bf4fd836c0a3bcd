"""Where the bounds on a picture lie exactly, and the cause that each fault of a file is reported with."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dualdiff_jax.data import images
from dualdiff_jax.data.images import image_size, open_image, read_image
from dualdiff_jax.data.records.record import MISSING, OVERSIZED, UNREADABLE, DataError
from dualdiff_jax.errors import UserError


def encoded(image: Image.Image, kind: str = "PNG") -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind)
    return stream.getvalue()


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_the_largest_picture_has_two_to_the_27_pixels(monkeypatch):
    small = Image.new("RGB", (4, 4))
    monkeypatch.setattr(images, "_to_rgb", lambda image, name: small)
    assert open_image(encoded(Image.new("1", (1 << 14, 1 << 13)))) is small
    with pytest.raises(DataError) as error:
        open_image(encoded(Image.new("1", (1 << 14, (1 << 13) + 1))))
    assert error.value.cause == OVERSIZED


@pytest.mark.parametrize("read", [open_image, image_size])
def test_a_file_that_is_not_there_or_no_picture_has_its_cause(tmp_path, read):
    (tmp_path / "text.png").write_bytes(b"not a picture")
    for name, cause in (("none.png", MISSING), ("text.png", UNREADABLE)):
        with pytest.raises(DataError, match=name) as error:
            read(tmp_path / name)
        assert error.value.cause == cause


@pytest.mark.parametrize(
    ("raised", "message"),
    [
        (PermissionError(13, "no"), "permissions"),
        (OSError(5, "broken disk"), "broken disk"),
    ],
)
def test_a_file_that_cannot_be_read_is_unreadable_with_the_reason(tmp_path, monkeypatch, raised, message):
    def refuse(path: Path) -> bytes:
        raise raised

    monkeypatch.setattr(Path, "read_bytes", refuse)
    for read in (open_image, image_size):
        with pytest.raises(DataError, match=f"a.png: .*{message}") as error:
            read(tmp_path / "a.png")
        assert error.value.cause == UNREADABLE


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (np.linspace(0, 1, 64, dtype=np.float32), np.linspace(0, 255, 64)),  # floats that end at 1 are shares of white
        (np.linspace(0, 65535, 64, dtype=np.float32), np.linspace(0, 255, 64)),
        (np.full(64, 65535 * 2, np.int32), np.full(64, 255)),
        (np.full(64, 1, np.int32), np.zeros(64)),  # of 65535, though no value is above 1
    ],
)
def test_deep_grey_is_scaled_to_eight_bits(values, expected):
    found = np.asarray(open_image(Image.fromarray(values.reshape(8, 8))))
    assert found.shape == (8, 8, 3)
    np.testing.assert_allclose(found[..., 1], expected.reshape(8, 8), atol=0.5)


@pytest.mark.parametrize("orientation", [1, 4, 5, 8])
def test_height_and_width_change_places_from_orientation_five_on(tmp_path, orientation):
    image = Image.new("RGB", (12, 10))
    exif = image.getexif()
    exif[0x0112] = orientation
    image.save(tmp_path / "turned.jpg", exif=exif)
    assert image_size(tmp_path / "turned.jpg") == ((12, 10) if orientation >= 5 else (10, 12))
    assert open_image(tmp_path / "turned.jpg").size == ((10, 12) if orientation >= 5 else (12, 10))


@pytest.mark.parametrize("pixels", [np.zeros((4, 4, 3)), np.zeros(4, np.uint8), np.zeros((1, 4, 4, 3), np.uint8)])
def test_an_array_of_another_dtype_or_shape_is_refused(pixels):
    with pytest.raises(UserError, match="uint8 of .h, w, 3. or .h, w.") as error:
        open_image(pixels)
    assert not isinstance(error.value, DataError)


def test_a_picture_of_the_wanted_size_is_not_resampled(monkeypatch):
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, 3), np.uint8)
    monkeypatch.setattr(images, "resample", None)
    np.testing.assert_array_equal(read_image(pixels, 5, 7), np.float32(pixels) / np.float32(127.5) - 1)
