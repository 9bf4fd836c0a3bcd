"""A tar shard whose chain of members breaks is reported with what was read; a whole one gives all its samples."""

import io
import json
import os
import tarfile

import numpy as np
import pytest

from dualdiff_jax.data.bad_records import BadRecords, Fault, Origin
from dualdiff_jax.data.formats.registry import open_source
from dualdiff_jax.data.formats.tar_index import LOST, tar_index
from dualdiff_jax.data.records.record import TRUNCATED, DataError
from dualdiff_jax.errors import UserError
from tests.unit.data import photos
from tests.unit.data.photos import content, fields, jpeg, source

SAMPLES = 12


def shard(samples=SAMPLES, form=tarfile.USTAR_FORMAT, ending="jpg", first=0) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=form) as archive:
        for index in range(first, first + samples):
            photos.add(archive, f"{index:04d}.{ending}", jpeg(index % 6))
            photos.add(archive, f"{index:04d}.json", json.dumps(fields(index % 6)).encode())
    return stream.getvalue()


def starts(data: bytes) -> list[int]:
    """The first byte of each member, and of the end mark."""
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        found = [member.offset for member in archive.getmembers()]
        return [*found, archive.offset]


def opened(folder, data: bytes):
    (folder / "00000.tar").write_bytes(data)
    return open_source(source(folder, "00000.tar", format="tar"))


def damaged(data: bytes, at: int, part: bytes) -> bytes:
    return data[:at] + part + data[at + len(part) :]


def with_size(data: bytes, at: int, size: bytes) -> bytes:
    """``data`` whose header at ``at`` claims ``size``, with a checksum that is right."""
    block = bytearray(data[at : at + 512])
    block[124:136], block[148:156] = size, b" " * 8
    block[148:156] = f"{sum(block):06o}\0 ".encode()
    return damaged(data, at, bytes(block))


WHOLE = shard()
MEMBERS = starts(WHOLE)
HALF = MEMBERS[SAMPLES]  # where the second half of the samples begins


def padded(samples: int, blocks: int) -> bytes:
    """``WHOLE`` with zeros from a sample on to a number of blocks; whatever fits behind them follows."""
    kept = WHOLE[: MEMBERS[2 * samples]]
    return kept + bytes(blocks * 512 - len(kept)) + (WHOLE if blocks < 200 else b"")


BROKEN = {
    "cut between two samples": (WHOLE[:HALF], 6, "without an end mark"),
    "cut within a header": (WHOLE[: HALF + 100], 6, "without an end mark"),
    "cut within an image": (WHOLE[: HALF + 700], 6, "within its member '0006.jpg'"),
    "cut before the end mark": (WHOLE[: MEMBERS[-1]], 12, "without an end mark"),
    "one block of the end mark": (WHOLE[: MEMBERS[-1] + 512], 12, "is not complete"),
    "zeros from a header on": (damaged(WHOLE, HALF, bytes(len(WHOLE) - HALF)), 6, "zeros, more than an end mark has"),
    "zeros from a late header on": (damaged(WHOLE, MEMBERS[-7], bytes(MEMBERS[-1] - MEMBERS[-7])), 9, "zeros"),
    "zeros with a whole tail": (damaged(WHOLE, HALF, bytes(MEMBERS[14] - HALF)), 6, "zeros"),
    "one block of zeros": (damaged(WHOLE, HALF, bytes(512)), 6, "is not complete"),
    "zeros that end at a large record": (padded(6, 128), 6, "zeros, more than an end mark has"),
    "zeros up to the end of a large record": (padded(6, 640), 6, "zeros, more than an end mark has"),
    "a damaged header": (damaged(WHOLE, HALF + 20, b"xx"), 6, "is damaged"),
    "garbage in place of a header": (damaged(WHOLE, HALF, bytes(range(256)) * 2), 6, "is damaged"),
    "garbage behind the end": (WHOLE + b"garbage" * 100, 12, "is damaged"),
    "a size beyond the file": (with_size(WHOLE, HALF, b"77777777777\0"), 6, "within its member"),
    "a size of 10^23": (with_size(WHOLE, HALF, b"\x80\0" + (10**23).to_bytes(10, "big")), 6, "within its member"),
    "a negative size": (with_size(WHOLE, HALF, b"\xff" * 10 + b"\x00\x00"), 6, "claims -"),
    "a huge long name": (with_size(damaged(WHOLE, HALF + 156, b"L"), HALF, b"07777777777\0"), 6, "claims 1073741"),
    "a second archive, cut": (WHOLE + WHOLE[:HALF], 18, "without an end mark"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_break_is_reported_with_what_comes_before_it(tmp_path, caplog, name):
    data, good, message = BROKEN[name]
    found = opened(tmp_path, data)
    causes, read = [], []
    for index in range(len(found)):
        try:
            read.append(content(found[index]))
        except DataError as error:
            causes.append(error.cause)
            assert f"00000.tar[{index}]" in str(error)
    assert read == [jpeg(n % 6 if n < 12 else n % 12 % 6) for n in range(good)]
    assert TRUNCATED in causes and message in caplog.text and f"samples before: {good}, lost: about " in caplog.text


@pytest.mark.parametrize(
    "data",
    [
        WHOLE,
        shard(form=tarfile.GNU_FORMAT),
        shard(form=tarfile.PAX_FORMAT),
        WHOLE[: MEMBERS[-1] + 1024],  # no more zeros than the mark
        WHOLE[: MEMBERS[-1]] + bytes(-MEMBERS[-1] % (1 << 20)),  # as tar -b 2048 writes
        shard(7) + shard(5, first=7),  # as cat makes of two
        shard(7)[: starts(shard(7))[-1] + 1024] + shard(5, first=7),
    ],
    ids=["ustar", "gnu", "pax", "mark", "large records", "two", "two without filling"],
)
def test_a_whole_shard_gives_all_its_samples_without_a_warning(tmp_path, caplog, data):
    found = opened(tmp_path, data)
    assert [content(found[index]) for index in range(len(found))] == [jpeg(index % 6) for index in range(SAMPLES)]
    assert not caplog.text


@pytest.mark.parametrize("ending", ["jfif", "jpe", "avif", "bmp", "tif", "tiff", "JFIF"])
def test_images_have_many_endings(tmp_path, ending):
    assert content(opened(tmp_path, shard(1, ending=ending))[0]) == jpeg(0)


def test_the_share_of_lost_samples_follows_the_bytes_that_are_lost(tmp_path):
    (tmp_path / "a.tar").write_bytes(WHOLE[: MEMBERS[6]] + bytes(len(WHOLE) - MEMBERS[6]))
    index = tar_index(tmp_path / "a.tar")
    lost = int((index[:, 1] == LOST).sum())
    assert (index[:, 1] != LOST).sum() == 3 and 7 <= lost <= 15
    runs = np.diff(np.flatnonzero(np.append(index[:, 1] != LOST, True)))
    assert runs.max() <= -(-lost // 3) + 2  # spread, so that a walk to the next good sample is short
    bad = BadRecords(0.05)
    with pytest.raises(UserError, match="above data.max_bad_share"):
        for number, row in enumerate(index.tolist()):
            faults = (Fault(str(number), TRUNCATED, "lost"),) if row[1] == LOST else ()
            bad.note(Origin("shards", str(number), faults, 0))


@pytest.mark.parametrize("data", [b"", b"x", bytes(range(256)) * 8, WHOLE[:700], b"\x1f\x8b" + bytes(3000)])
def test_what_holds_no_sample_is_refused(tmp_path, data):
    with pytest.raises(UserError, match="00000.tar: is not an uncompressed tar file, or is cut"):
        opened(tmp_path, data)


def test_a_shard_without_samples_is_left_out_with_a_warning(tmp_path, caplog):
    (tmp_path / "00001.tar").write_bytes(bytes(10240))
    opened(tmp_path, WHOLE)
    found = open_source(source(tmp_path, "*.tar", format="tar"))
    assert len(found) == SAMPLES and "00001.tar: holds no samples and is left out" in caplog.text


def test_holes_and_what_is_no_file_take_no_time(tmp_path):
    (tmp_path / "00000.tar").write_bytes(WHOLE[: MEMBERS[-1]])
    os.truncate(tmp_path / "00000.tar", 60 << 30)
    assert (tar_index(tmp_path / "00000.tar")[:, 1] == LOST).sum() == 100 * SAMPLES
    os.mkfifo(tmp_path / "pipe.tar")
    with pytest.raises(UserError, match="pipe.tar: is a pipe"):
        open_source(source(tmp_path, "pipe.tar", format="tar"))


def test_an_error_of_the_disk_is_none_of_the_shard(tmp_path, monkeypatch):
    def pread(*_):
        raise OSError(5, "Input/output error")

    (tmp_path / "00000.tar").write_bytes(WHOLE)
    monkeypatch.setattr(os, "pread", pread)
    with pytest.raises(UserError, match="00000.tar: cannot be read .*Input/output error"):
        tar_index(tmp_path / "00000.tar")
