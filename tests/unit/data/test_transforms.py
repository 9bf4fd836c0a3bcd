"""Any picture becomes the same kind of array, and what is no picture is named."""

import numpy as np
import pytest
from PIL import Image

from dualdiff_jax.data.transforms import fit, open_image, to_pil
from dualdiff_jax.errors import UserError

RED = np.zeros((10, 12, 3), np.uint8) + np.array([200, 30, 30], np.uint8)


def test_pixels_survive_at_their_own_size():
    pixels = np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8)
    array = fit(open_image(pixels), 8, 8)
    assert array.dtype == np.float32
    assert array.min() >= -1 and array.max() <= 1
    np.testing.assert_array_equal(np.asarray(to_pil(array)), pixels)


def test_the_short_side_is_resized_and_the_centre_kept():
    pixels = np.zeros((10, 40, 3), np.uint8)
    pixels[:, 15:25] = 255
    array = fit(open_image(pixels), 5, 5)
    assert array.shape == (5, 5, 3)
    assert array[:, 1:4].min() > 0.8


@pytest.mark.parametrize("size", [(3, 7), (100, 31), (31, 100), (2, 2)])
def test_every_size_is_covered(size):
    assert fit(Image.new("RGB", size), 16, 24).shape == (16, 24, 3)


def test_cmyk_palette_grey_and_rgba_become_rgb(tmp_path):
    for mode in ("CMYK", "P", "L", "RGBA", "LA", "1"):
        file = tmp_path / f"{mode}.tiff"
        Image.fromarray(RED).convert(mode if mode != "LA" else "L").convert(mode).save(file)
        assert open_image(file).mode == "RGB"
    colour = np.asarray(open_image(tmp_path / "CMYK.tiff"))[0, 0]
    assert colour[0] > 150 and colour[1] < 80


def test_transparency_is_laid_over_white(tmp_path):
    Image.new("RGBA", (4, 4), (0, 0, 0, 0)).save(tmp_path / "clear.png")
    assert np.asarray(open_image(tmp_path / "clear.png")).min() == 255


def test_sixteen_bit_keeps_its_range(tmp_path):
    values = np.linspace(0, 65535, 64).reshape(8, 8).astype(np.uint16)
    Image.fromarray(values).save(tmp_path / "deep.png")
    found = np.asarray(open_image(tmp_path / "deep.png"))[..., 0]
    np.testing.assert_allclose(found, values / 257.0, atol=1)


def test_an_animation_gives_its_first_frame(tmp_path):
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "blue")]
    frames[0].save(tmp_path / "moving.gif", save_all=True, append_images=frames[1:])
    assert np.asarray(open_image(tmp_path / "moving.gif"))[0, 0, 0] > 200


def test_exif_orientation_is_applied(tmp_path):
    image = Image.fromarray(RED)
    exif = image.getexif()
    exif[0x0112] = 6
    image.save(tmp_path / "turned.jpg", exif=exif)
    assert open_image(tmp_path / "turned.jpg").size == (10, 12)


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("none.png", None, "there is no such file"),
        ("text.png", b"not a picture", "is not an image that can be read"),
        ("empty.png", b"", "is not an image that can be read"),
    ],
)
def test_a_bad_file_is_named(tmp_path, name, content, told):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=told) as error:
        open_image(tmp_path / name)
    assert name in str(error.value)


def test_a_truncated_file_is_named(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    Image.fromarray(noise).save(tmp_path / "whole.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "whole.png").read_bytes()[:2000])
    with pytest.raises(UserError, match="cut.png: is not an image"):
        open_image(tmp_path / "cut.png")


def test_a_single_pixel_and_a_folder_are_refused(tmp_path):
    Image.new("RGB", (1, 1)).save(tmp_path / "dot.png")
    with pytest.raises(UserError, match="is 1 x 1 pixels"):
        open_image(tmp_path / "dot.png")
    with pytest.raises(UserError, match="is a folder"):
        open_image(tmp_path)


def test_an_array_of_floats_is_refused():
    with pytest.raises(UserError, match="must be uint8"):
        open_image(np.zeros((4, 4, 3)))
