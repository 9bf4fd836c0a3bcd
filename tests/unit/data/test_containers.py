"""Damaged metadata never decides whether a picture is read, in any container, and never costs memory."""

import io
import struct
import subprocess
import sys
import zlib

import numpy as np
import pytest
from PIL import Image

from dualdiff_jax.data.containers import png_exif, without_metadata
from dualdiff_jax.data.images import image_size, open_image

NOISE = np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)


def exif(orientation: int = 6) -> Image.Exif:
    tags = Image.Exif()
    tags[0x0112], tags[0x010E] = orientation, "a photo"
    return tags


def encoded(form: str, **options) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(NOISE).save(stream, form, **options)
    return stream.getvalue()


def chunk(kind: bytes, content: bytes, checksum: int | None = None) -> bytes:
    checksum = zlib.crc32(kind + content) if checksum is None else checksum
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", checksum)


def png_with(*chunks: bytes) -> bytes:
    """A PNG whose further chunks follow its header."""
    whole = encoded("PNG")
    return whole[:33] + b"".join(chunks) + whole[33:]


BOMB = zlib.compress(bytes(1 << 24), 9)
SOUND = exif().tobytes()[6:]
PNGS = {
    "eXIf without a header": chunk(b"eXIf", b"no exif at all"),
    "eXIf that is cut": chunk(b"eXIf", SOUND[:12]),
    "checksum of eXIf": chunk(b"eXIf", SOUND, 7),
    "checksum of a text": chunk(b"tEXt", b"key\0value", 7),
    "checksum of a time": chunk(b"tIME", bytes(7), 7),
    "text bomb": chunk(b"zTXt", b"key\0\0" + BOMB),
    "international text bomb": chunk(b"iTXt", b"key\0\1\0\0\0" + BOMB),
    "ICC bomb": chunk(b"iCCP", b"name\0\0" + BOMB),
    "ICC of an unknown compression": chunk(b"iCCP", b"name\0\7" + BOMB),
    "ICC without a name": chunk(b"iCCP", b"x"),
    "resolution of three bytes": chunk(b"pHYs", b"abc"),
    "gamma of one byte": chunk(b"gAMA", b"a"),
    "chromaticities of one byte": chunk(b"cHRM", b"a"),
    "animation of one byte": chunk(b"acTL", b"a"),
    "EXIF in a text": chunk(b"tEXt", b"Raw profile type exif\0\nexif\n4\nzz"),
    "many texts": chunk(b"zTXt", b"key\0\0" + zlib.compress(bytes(1 << 20), 9)) * 70,
}


@pytest.mark.parametrize("name", PNGS)
def test_a_png_with_a_damaged_chunk_of_metadata_is_read_as_stored(name):
    data = png_with(PNGS[name])
    np.testing.assert_array_equal(np.asarray(open_image(data)), NOISE)
    assert image_size(data) == NOISE.shape[:2]


def test_sound_exif_counts_beside_other_damage_and_wherever_it_is():
    whole = encoded("PNG")
    sound = chunk(b"eXIf", SOUND)
    beside = (png_with(sound, PNGS["ICC bomb"]), png_with(PNGS["checksum of a time"], sound))
    for data in (*beside, whole[:-12] + sound + whole[-12:]):
        np.testing.assert_array_equal(np.asarray(open_image(data)), np.rot90(NOISE, -1))
        assert image_size(data) == (30, 20) and png_exif(data) == SOUND
    assert png_exif(whole) is None


def test_a_png_that_is_damaged_elsewhere_is_not_read():
    whole = bytearray(png_with(PNGS["checksum of a text"]))
    whole[len(whole) // 2] ^= 1
    with pytest.raises(ValueError, match="is not an image that can be read"):
        open_image(bytes(whole))


def metadata(info) -> set[str]:
    return {"icc_profile", "xmp", "XML:com.adobe.xmp", "comment", "key"} & set(info)


@pytest.mark.parametrize(
    ("form", "options"),
    [
        ("JPEG", {"quality": 90, "comment": b"a photo"}),
        ("WEBP", {"lossless": True}),
        ("TIFF", {}),
        ("TIFF", {"big_endian": True}),
        ("AVIF", {"quality": 90}),
        ("PNG", {}),
    ],
)
def test_without_metadata_the_picture_is_the_same(form, options):
    profile = {} if form == "AVIF" else {"icc_profile": b"profile " * 40}
    data = encoded(form, exif=exif(), xmp=b"<x:xmpmeta/>", **profile, **options)
    bare = without_metadata(data)
    assert bare is not None
    with Image.open(io.BytesIO(data)) as whole, Image.open(io.BytesIO(bare)) as found:
        assert found.format == form and whole.size == found.size
        assert not metadata(found.info) and (metadata(whole.info) or form == "PNG")
        np.testing.assert_array_equal(np.asarray(found.convert("RGB")), np.asarray(whole.convert("RGB")))
    assert open_image(bare).size == open_image(data).size == (NOISE.shape[0], NOISE.shape[1])  # turned


@pytest.mark.parametrize("count", [1, 2])
def test_bytes_that_fill_before_a_jpegs_markers_are_passed_over(count):
    """Also before that of the scan."""
    data = encoded("JPEG", quality=90, comment=b"a photo")
    filled, at = data[:2], 2
    while data[at + 1] != 0xDA:
        end = at + 2 + int.from_bytes(data[at + 2 : at + 4], "big")
        filled, at = filled + b"\xff" * count + data[at:end], end
    bare = without_metadata(filled + b"\xff" * count + data[at:])
    assert bare is not None and b"a photo" not in bare
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(bare))), np.asarray(Image.open(io.BytesIO(data))))


@pytest.mark.parametrize("form", ["JPEG", "WEBP", "AVIF", "PNG"])
def test_damaged_exif_costs_neither_the_picture_nor_a_warning(form):
    """Each byte of the EXIF data in turn."""
    data, stored = encoded(form, exif=exif()), exif()
    if form == "AVIF":
        del stored[0x0112]  # which is a property of the picture there
    tags = stored.tobytes()[6:]
    start = data.index(tags)
    for at in range(start, start + len(tags)):
        damaged = data[:at] + b"\xff" + data[at + 1 :]
        if form == "PNG":
            damaged = png_with(chunk(b"eXIf", damaged[start : start + len(tags)]))
        found = open_image(damaged)
        assert sorted(found.size) == [20, 30]
        assert image_size(damaged) == found.size[::-1]


def test_pillows_warnings_of_damaged_metadata_reach_nobody():
    """In a process of its own, since pytest has filters of its own."""
    damaged = encoded("TIFF", exif=exif()).replace(struct.pack("<HH", 0x010E, 2), struct.pack("<HH", 0x010E, 12))
    program = (
        "import sys; from dualdiff_jax.data.images import open_image; print(open_image(sys.stdin.buffer.read()).size)"
    )
    done = subprocess.run([sys.executable, "-c", program], input=damaged, capture_output=True, check=True)
    assert done.stdout.strip() == b"(20, 30)" and done.stderr == b""


def test_other_files_have_no_metadata_to_leave_out():
    for data in (b"", b"GIF89a", encoded("BMP"), b"\xff\xd8\xff", b"II*\0\xff\xff\xff\xff", b"RIFF....WEBPVP8"):
        bare = without_metadata(data)
        assert bare is None or len(bare) < 20


def test_a_file_without_what_its_kind_begins_with_is_left_as_it_is():
    """A cut AVIF, or a video, has no items whose metadata could be left out."""
    for data in (b"\0\0\0\x18ftypavif" + bytes(40), b"\0\0\0\x18ftypisom", encoded("WEBP")[:9], encoded("TIFF")[:7]):
        assert without_metadata(data) is None
