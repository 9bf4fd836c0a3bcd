"""Every image becomes the same kind of array, and a file that is no image is named."""

import io

import numpy as np
import pytest
from PIL import Image

from dualdiff_jax.data import decoding, images
from dualdiff_jax.data.images import fit, image_size, normalize, open_image, read_image, to_pil
from dualdiff_jax.data.records.record import EMPTY, OVERSIZED, TOO_SMALL, TRUNCATED, UNREADABLE, DataError
from dualdiff_jax.errors import UserError
from tests.unit.data import photos

RED = np.zeros((10, 12, 3), np.uint8) + np.array([200, 30, 30], np.uint8)


def test_pixels_survive_at_their_own_size():
    pixels = np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8)
    array = fit(open_image(pixels), 8, 8)
    assert array.dtype == np.float32
    assert array.min() >= -1 and array.max() <= 1
    np.testing.assert_array_equal(np.asarray(to_pil(array)), pixels)


def test_pixels_are_normalized_in_place_and_rounded_back():
    pixels = np.arange(256, dtype=np.uint8).reshape(16, 16, 1).repeat(3, 2)
    out = np.empty(pixels.shape, np.float32)
    assert normalize(pixels, out) is out and normalize(pixels).dtype == np.float32
    np.testing.assert_array_equal(out, pixels.astype(np.float32) / np.float32(127.5) - 1)
    np.testing.assert_array_equal(normalize(pixels), out)
    for shift in (-0.4, 0.4):
        np.testing.assert_array_equal(np.asarray(to_pil(out + shift / 127.5)), pixels)
    assert np.asarray(to_pil(np.full((1, 1, 3), [-1.5, 1.5, 9.0]))).tolist() == [[[0, 255, 255]]]


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


def test_half_transparent_black_is_grey(tmp_path):
    Image.new("RGBA", (4, 4), (0, 0, 0, 128)).save(tmp_path / "half.png")
    assert set(np.asarray(open_image(tmp_path / "half.png")).ravel()) == {127}


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
    ("name", "content", "message"),
    [
        ("none.png", None, "there is no such file"),
        ("text.png", b"not a picture", "is not an image that can be read"),
        ("empty.png", b"", "is not an image that can be read"),
    ],
)
def test_a_bad_file_is_named(tmp_path, name, content, message):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=message) as error:
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


def test_the_smallest_image_has_two_by_two_pixels():
    assert open_image(Image.new("RGB", (2, 2))).size == (2, 2)
    for size in ((1, 2), (2, 1)):
        with pytest.raises(DataError, match=f"is {size[0]} x {size[1]} pixels; give an image of at least 2 x 2"):
            open_image(Image.new("RGB", size))


def test_an_array_of_floats_is_refused():
    with pytest.raises(UserError, match="must be uint8"):
        open_image(np.zeros((4, 4, 3)))


def jpeg(image, **options):
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=90, **options)
    return stream.getvalue()


def as_torchvision(image, side):
    """Resize(side, BICUBIC) and CenterCrop(side) by torchvision's integer formulas, in Pillow itself.

    torchvision 0.28, transforms/functional.py: _compute_resized_output_size and center_crop.
    """
    short, long = sorted(image.size)
    resized = (side, int(side * long / short))
    width, height = resized if image.width <= image.height else resized[::-1]
    image = image.resize((width, height), Image.Resampling.BICUBIC)
    top, left = int(round((height - side) / 2.0)), int(round((width - side) / 2.0))
    return np.asarray(image.crop((left, top, left + side, top + side)))


def test_resize_and_crop_are_torchvisions():
    """200 sizes: odd, even, up, down, of extreme shape. Where they differ, Pillow's fixed point rounds another way."""
    rng = np.random.default_rng(0)
    for case in range(200):
        sizes = [(2, 250), (2, 250)] if case % 5 else [(2, 9), (200, 600)][:: 1 if case % 10 else -1]
        height, width = (int(rng.integers(*bounds)) for bounds in sizes)
        side = int(rng.integers(2, 140))
        image = Image.fromarray(rng.integers(0, 256, (height, width, 3), np.uint8))
        error = np.mean((images.read_pixels(image, side, side).astype(float) - as_torchvision(image, side)) ** 2)
        assert error < 255**2 / 10**5, f"{width} x {height} to {side}"  # 50 dB PSNR


@pytest.mark.parametrize(
    ("size", "target", "covering", "corner"),
    [  # each (height, width), corner (top, left)
        ((30, 41), (20, 20), (20, 27), (0, 4)),
        ((31, 30), (24, 20), (24, 23), (0, 2)),
        ((80, 9), (20, 20), (177, 20), (78, 0)),
        ((30, 43), (20, 11), (20, 28), (0, 8)),
    ],
)
def test_the_other_side_is_rounded_down_and_half_a_margin_to_even(size, target, covering, corner):
    pixels = np.random.default_rng(1).integers(0, 256, (*size, 3), np.uint8)
    whole = np.asarray(Image.fromarray(pixels).resize(covering[::-1], Image.Resampling.BICUBIC)).astype(int)
    (height, width), (top, left) = target, corner
    found = images.read_pixels(pixels, height, width)
    assert np.abs(found - whole[top : top + height, left : left + width]).max() <= 2


@pytest.mark.parametrize("which", [0, 1])
@pytest.mark.parametrize("rows", [427, 424])
@pytest.mark.parametrize("side", [106, 80, 53, 40, 20])
def test_a_jpeg_that_is_decoded_smaller_looks_the_same(which, rows, side):
    """44 dB apart at least, on real detail, whether or not the sides are multiples of what JPEG cuts them into."""
    data = jpeg(Image.fromarray(photos.photo(which)[:rows]))
    found = read_image(data, side, side)
    small, extent = decoding.decode(data, "photo", lambda size: side / min(size), 1 << 20)
    assert small.width <= 640 // 2 and min(small.size) >= decoding.SPARE * side
    whole = fit(open_image(data), side, side)
    assert 10 * np.log10(4 / np.mean((found - whole) ** 2)) > 43.9
    assert extent[0] <= small.width and extent[1] <= small.height


@pytest.mark.parametrize("side", [107, 213, 300])
def test_a_jpeg_that_is_not_much_larger_is_decoded_whole(side):
    data = jpeg(Image.fromarray(photos.photo(0)))
    np.testing.assert_array_equal(read_image(data, side, side), fit(open_image(data), side, side))


def test_a_turned_jpeg_is_turned_whatever_its_size():
    image = Image.fromarray(photos.photo(0))
    exif = image.getexif()
    exif[0x0112] = 6
    data = jpeg(image, exif=exif)
    found = read_image(data, 40, 30)
    expected = fit(open_image(jpeg(image)).transpose(Image.Transpose.ROTATE_270), 40, 30)
    assert np.abs(found - expected).max() * 127.5 < 1.01
    assert image_size(data) == (640, 427) and image_size(jpeg(image)) == (427, 640)


def test_bytes_paths_images_and_arrays_are_read_alike(tmp_path):
    stream = io.BytesIO()
    Image.fromarray(RED).save(stream, "PNG")
    (tmp_path / "red.png").write_bytes(stream.getvalue())
    expected = read_image(RED, 6, 6)
    for source in (stream.getvalue(), tmp_path / "red.png", str(tmp_path / "red.png"), Image.fromarray(RED)):
        np.testing.assert_array_equal(read_image(source, 6, 6), expected)


def cause_of(source):
    with pytest.raises(DataError) as error:
        read_image(source, 16, 16, "some name")
    assert "some name" in str(error.value)
    return error.value.cause


def test_each_fault_has_its_cause():
    whole = jpeg(Image.fromarray(photos.photo(0)))
    assert cause_of(b"") == EMPTY
    assert cause_of(b"no image") == UNREADABLE
    assert cause_of(whole[:5000]) == TRUNCATED
    assert cause_of(jpeg(Image.new("RGB", (1, 9)))) == TOO_SMALL


def test_a_bomb_is_refused_before_it_is_decoded(monkeypatch):
    """A file of some KB that wants 50,000 x 9,000 pixels; a large JPEG that is decoded smaller is none."""
    stream = io.BytesIO()
    Image.new("1", (50_000, 9_000)).save(stream, "PNG")
    assert len(stream.getvalue()) < 100_000
    monkeypatch.setattr(Image.Image, "convert", None)
    assert cause_of(stream.getvalue()) == OVERSIZED
    monkeypatch.undo()
    data = jpeg(Image.fromarray(photos.photo(0)))
    assert read_image(data, 20, 20, max_pixels=400 * 400).shape == (20, 20, 3)
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = jpeg(Image.fromarray(photos.photo(0)), exif=exif)
    found = read_image(turned, 40, 30, max_pixels=400 * 400)  # which decodes it smaller, though it is turned
    difference = (found - read_image(turned, 40, 30)) ** 2
    assert 10 * np.log10(4 / difference.mean()) > 35
    for large, read in ((data, open_image), (data, lambda data, **bound: read_image(data, 400, 400, **bound))):
        with pytest.raises(DataError, match="too large to decode .640 x 427 pixels, more than the 160000"):
            read(large, max_pixels=400 * 400)
    with pytest.raises(DataError, match="more than the 240000"):  # four times the bound
        read_image(data, 20, 20, max_pixels=60_000)


@pytest.mark.parametrize(("height", "width", "inner"), [(20, 20, (5, 20)), (20, 16, (4, 16)), (10, 60, (10, 40))])
def test_a_letterbox_keeps_all_of_a_wide_picture(height, width, inner):
    pixels = np.zeros((20, 80, 3), np.uint8)
    pixels[:, :40], pixels[:, 40:] = (255, 0, 0), (0, 0, 255)
    found = images.read_pixels(pixels, height, width, fit="letterbox")
    top, left = (height - inner[0]) // 2, (width - inner[1]) // 2
    part = found[top : top + inner[0], left : left + inner[1]]
    assert (part[:, 0] == (255, 0, 0)).all() and (part[:, -1] == (0, 0, 255)).all()
    border = np.ones((height, width), bool)
    border[top : top + inner[0], left : left + inner[1]] = False
    assert border.any() and (found[border] == 127).all()


def test_a_letterbox_of_the_same_shape_is_a_crop_and_a_thin_picture_leaves_a_line():
    photo = Image.fromarray(photos.photo(0)[:400, :600])
    data = jpeg(photo)
    np.testing.assert_array_equal(images.read_pixels(data, 40, 60, fit="letterbox"), images.read_pixels(data, 40, 60))
    assert (images.read_pixels(np.zeros((2, 500, 3), np.uint8), 16, 16, fit="letterbox") == 0).all(-1).sum() == 16
    wide = images.read_pixels(jpeg(Image.fromarray(photos.photo(0)[:100])), 64, 64, fit="letterbox")
    assert wide[27:37].std() > 20 and (wide[:27] == 127).all()  # decoded smaller, yet not below the wanted size
    with pytest.raises(UserError, match="fit is 'stretch'; give one of crop, letterbox"):
        read_image(RED, 8, 8, fit="stretch")
