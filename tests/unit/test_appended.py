"""Lines appended on a disk that fills up are kept until there is room, and none is torn."""

import pytest

from dualdiff_jax.errors import UserError
from dualdiff_jax.files.appended import LineLog
from tests.full_disk import SMALL, full_disk


def test_a_line_for_which_there_is_half_the_room_is_written_whole_later(tmp_path):
    log, lines = LineLog(tmp_path / "metrics.jsonl"), [b"x" * (SMALL - 5) + b"\n", b"y" * 9 + b"\n", b"z\n"]
    log.append(lines[0])
    with full_disk() as fill:
        fill(True)
        with pytest.raises(OSError, match="File too large"):
            log.append(lines[1])
        assert log.read() == lines[0]
        fill(False)
        log.append(lines[2])
    assert log.read() == b"".join(lines)


def test_a_file_without_end_is_refused_before_it_is_read(tmp_path):
    with (tmp_path / "metrics.jsonl").open("wb") as file:
        file.truncate(60 << 30)  # all of it a hole
    with pytest.raises(UserError, match=r"metrics.jsonl: has 64424509440 bytes, more than"):
        LineLog(tmp_path / "metrics.jsonl").read()
