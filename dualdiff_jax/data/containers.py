"""Image files without their metadata: EXIF, ICC, XMP and texts are optional, so a picture is whole without them.

A file is taken apart only as far as its container goes; the parts that decide the pixels are kept as they are.
"""

import struct
import zlib
from collections.abc import Iterator

PNG, JPEG, RIFF = b"\x89PNG\r\n\x1a\n", b"\xff\xd8", b"RIFF"
JFIF, EXIF, ADOBE = 0xE0, 0xE1, 0xEE  # application segments of a JPEG; Adobe's names the colour transform
WEBP_KEPT = (b"VP8 ", b"VP8L", b"ALPH", b"ANIM", b"ANMF", b"EXIF")
WEBP_LEFT_OUT = 0x20 | 0x04  # flags of VP8X: ICC, XMP
# Tags of a TIFF that decide its pixels or its orientation: sizes, layout, compression, colours.
TIFF_PIXELS = {*range(254, 260), 262, 266, 273, 274, 277, 278, 279, 284, 292, 293, 297, 317, 320, *range(322, 326)} | {
    *(332, 338, 339, 340, 341, 347),
    *(512, 513, 514, 515, 519, 520, 521, 529, 530, 531, 532),
}


def without_metadata(data: bytes) -> bytes | None:
    """The same picture in a file without metadata, apart from a sound EXIF orientation.

    Args:
        data: of a PNG, JPEG, WebP, TIFF or AVIF file.

    Returns:
        The shorter file; None if it is of another kind or damaged elsewhere.
    """
    try:
        if data.startswith(PNG):
            return PNG + b"".join(chunk for kind, _, chunk in _png_chunks(data) if _is_kept(kind, chunk))
        if data.startswith(JPEG):
            return _bare_jpeg(data)
        if data.startswith(RIFF) and data[8:12] == b"WEBP":
            return _bare_webp(data)
        if data[:4] in (b"II*\0", b"MM\0*"):
            return _bare_tiff(data)
        if data[4:8] == b"ftyp":
            return _bare_avif(data)
    except (struct.error, IndexError, ValueError):
        pass
    return None


def png_exif(data: bytes) -> bytes | None:
    """The EXIF data of a PNG, wherever they are in the file; None if there are none."""
    return next((content for kind, content, _ in _png_chunks(data) if kind == b"eXIf"), None)


def _png_chunks(data: bytes) -> Iterator[tuple[bytes, bytes, bytes]]:
    """(kind, content, the whole chunk) of each chunk that is not cut."""
    at = len(PNG)
    while at + 8 <= len(data):
        (length,) = struct.unpack_from(">I", data, at)
        end = at + 12 + length
        yield data[at + 4 : at + 8], data[at + 8 : end - 4], data[at:end]
        at = end


def _is_kept(kind: bytes, chunk: bytes) -> bool:
    """Whether a chunk decides the pixels, or holds undamaged EXIF; kinds in capitals are those of the pixels."""
    is_whole = zlib.crc32(chunk[4:-4]) == int.from_bytes(chunk[-4:], "big")
    return kind[:1].isupper() or kind == b"tRNS" or (kind == b"eXIf" and is_whole)


def _bare_jpeg(data: bytes) -> bytes:
    """Without comments and application segments up to the first scan, apart from JFIF, EXIF and Adobe's."""
    kept, at = [JPEG], 2
    while data[at] == 0xFF and data[at + 1] != 0xDA:
        if data[at + 1] == 0xFF:  # a fill byte
            at += 1
            continue
        marker, (length,) = data[at + 1], struct.unpack_from(">H", data, at + 2)
        end = at + 2 + length
        is_exif = marker == EXIF and data[at + 4 : at + 10] == b"Exif\0\0"  # XMP has the same marker
        if is_exif or marker in (JFIF, ADOBE) or not (0xE0 <= marker <= 0xEF or marker == 0xFE):
            kept.append(data[at:end])
        at = end
    return b"".join(kept) + data[at:]


def _bare_webp(data: bytes) -> bytes:
    """With the chunks of the pixels and EXIF, and a header that announces no others."""
    kept, at = [], 12
    while at + 8 <= len(data):
        kind, (length,) = data[at : at + 4], struct.unpack_from("<I", data, at + 4)
        end = at + 8 + length + length % 2
        if kind == b"VP8X":
            kept.append(data[at : at + 8] + bytes([data[at + 8] & ~WEBP_LEFT_OUT]) + data[at + 9 : end])
        elif kind in WEBP_KEPT:
            kept.append(data[at:end])
        at = end
    content = b"WEBP" + b"".join(kept)
    return RIFF + struct.pack("<I", len(content)) + content


def _bare_tiff(data: bytes) -> bytes:
    """With a first directory that holds the tags in ``TIFF_PIXELS`` alone, at the end of the file."""
    order = "<" if data[:1] == b"I" else ">"
    (at,) = struct.unpack_from(f"{order}I", data, 4)
    (count,) = struct.unpack_from(f"{order}H", data, at)
    entries = [data[start : start + 12] for start in range(at + 2, at + 2 + 12 * count, 12)]
    kept = [entry for entry in entries if len(entry) == 12 and struct.unpack_from(f"{order}H", entry)[0] in TIFF_PIXELS]
    directory = struct.pack(f"{order}H", len(kept)) + b"".join(kept) + bytes(4)
    padding = bytes(len(data) % 2)
    return data[:4] + struct.pack(f"{order}I", len(data) + len(padding)) + data[8:] + padding + directory


def _bare_avif(data: bytes) -> bytes:
    """With the items of EXIF and XMP renamed to a kind that decoders pass over; offsets in the file stay."""
    start = data.index(b"meta")
    (length,) = struct.unpack_from(">I", data, start - 4)
    meta = data[start : start - 4 + length]
    return data[:start] + meta.replace(b"Exif", b"none").replace(b"mime", b"none") + data[start + len(meta) :]
