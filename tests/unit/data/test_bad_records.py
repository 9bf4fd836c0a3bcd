"""Damaged records are replaced, counted and named; too many of them, or a reader that hangs, end the run."""

import itertools
import json
import multiprocessing
import os
import pickle
import re
import signal
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dualdiff_jax.config.resolve import resolve
from dualdiff_jax.data.bad_records import BadRecords, Fault, Origin
from dualdiff_jax.data.mixture import Mixture
from dualdiff_jax.data.reader_watchdog import ReadingNotes, with_watchdog
from dualdiff_jax.data.records import record
from dualdiff_jax.data.tokenizer import Tokenizer
from dualdiff_jax.errors import StuckError, UserError
from tests.hanging import sitecustomize
from tests.small_run import small_config, write_data
from tests.unit.data import photos

GOOD = 28
HOSTILE = {  # cause, by record; twelve of forty
    1: record.MISSING,
    4: record.EMPTY,
    5: record.TRUNCATED,
    6: record.TRUNCATED,
    10: record.UNREADABLE,
    13: record.OVERSIZED,
    17: record.TOO_SMALL,
    20: record.WRONG_TYPE,
    23: record.ABSENT_KEY,
    29: record.WRONG_TYPE,
    33: record.EMPTY,
    39: record.UNREADABLE,
}
COUNT = GOOD + len(HOSTILE)


@pytest.fixture
def hostile(tmp_path):
    """A folder of forty records, of which twelve are bad, each in a way of its own."""
    write_data(tmp_path, 1)
    folder = tmp_path / "hostile"
    (folder / "images").mkdir(parents=True)
    found = []
    for index in range(COUNT):
        (folder / f"images/{index}.jpg").write_bytes(photos.jpeg(index % photos.COUNT))
        found.append({"image_path": f"images/{index}.jpg", "caption": f"a three {index}"})
    Image.new("RGB", (8, 8)).save(folder / "images/6.png")
    (folder / "images/1.jpg").unlink()
    (folder / "images/4.jpg").write_bytes(b"")
    (folder / "images/5.jpg").write_bytes(photos.jpeg(5)[:-900])
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    Image.fromarray(noise).save(folder / "images/6.png")
    (folder / "images/6.jpg").write_bytes((folder / "images/6.png").read_bytes()[:4000])
    (folder / "images/10.jpg").write_bytes(b"<html>404</html>")
    Image.new("1", (201, 200)).save(folder / "images/13.jpg", "PNG")
    Image.new("RGB", (1, 50)).save(folder / "images/17.jpg", "PNG")
    found[20]["caption"] = 7
    del found[23]["image_path"]
    found[29] = "no record"
    found[33]["caption"] = "   "
    (folder / "images/39.jpg").write_bytes(os.urandom(500))
    (folder / "list.json").write_text(json.dumps(found))
    return tmp_path


def mixture(root, **data) -> Mixture:
    config = small_config(root)
    common = dict(root=str(root / "hostile"), files="list.json", height=16, width=16)
    config.data.sources = [
        dict(name="draw", task="image_generation", **common),
        dict(name="read", task="captioning", **common),
    ]
    config.data.update({"max_pixels": 200 * 200} | data)
    return Mixture(resolve(config).data, Tokenizer(root / "tokenizer"), seed=0, global_batch_size=8)


def test_a_run_that_allows_them_finishes_and_names_every_one(hostile, caplog):
    data = mixture(hostile, max_bad_share=0.5)
    data.report_to(hostile)
    for step in range(10):  # two epochs of both streams
        batch = data.batch(step)
        assert batch.image["image"].shape == (8, 16, 16, 3) and np.isfinite(batch.image["image"]).all()
    lines = [json.loads(line) for line in (hostile / "bad_records.jsonl").read_text().splitlines()]
    found = {(line["source"], int(line["record"].rpartition("[")[2].rstrip("]"))): line["cause"] for line in lines}
    assert found == {(name, index): cause for name in ("draw", "read") for index, cause in HOSTILE.items()}
    assert len(lines) == len(found)
    for cause in set(HOSTILE.values()):
        warned = [r for r in caplog.records if "source 'draw'" in r.message and r.args[1] in messages(lines, cause)]
        assert len(warned) == 1, cause
    counts = {cause: data.bad_records.counts["draw", cause] for cause in set(HOSTILE.values())}
    assert all(counts[cause] >= 2 * list(HOSTILE.values()).count(cause) for cause in counts)
    assert data.bad_records.looked_at["draw"] == 80 + sum(counts.values())


def messages(lines, cause):
    return {line["message"] for line in lines if line["cause"] == cause and line["source"] == "draw"}


def test_a_bad_record_is_replaced_by_the_next_good_one(hostile):
    data = mixture(hostile, max_bad_share=1.0)
    good = [index for index in range(COUNT) if index not in HOSTILE]
    for step in range(5):
        for origin in data.origins(step)["image"]:
            index = number(origin.record_id)
            assert index in good
            before = [number(fault.record_id) for fault in origin.faults]
            assert before == [(index - len(before) + k) % COUNT for k in range(len(before))]
            assert all(number in HOSTILE for number in before)


def number(record_id):
    return int(record_id.rpartition("[")[2].rstrip("]"))


def test_a_run_that_does_not_allow_them_stops_with_a_message(hostile):
    data = mixture(hostile, max_bad_share=0.05)
    data.report_to(hostile)
    with pytest.raises(
        UserError, match=r"source '(draw|read)': \d+ of \d+ records are bad .*above data.max_bad_share"
    ) as e:
        for batch in data.batches():
            assert batch
    assert "bad_records.jsonl names them" in str(e.value)


def test_a_line_is_written_once_over_restarts_and_survives_a_cut(hostile):
    for _ in range(2):
        data = mixture(hostile, max_bad_share=1.0)
        data.report_to(hostile)
        for step in range(5):
            data.batch(step)
    file = hostile / "bad_records.jsonl"
    assert len(file.read_text().splitlines()) == 2 * len(HOSTILE)
    file.write_text(file.read_text()[:-30])
    data = mixture(hostile, max_bad_share=1.0)
    data.report_to(hostile)


def test_the_second_host_has_a_report_of_its_own(hostile):
    config = resolve(small_config(hostile))
    tokenizer = Tokenizer(hostile / "tokenizer")
    data = Mixture(config.data, tokenizer, seed=0, global_batch_size=8, host=1, hosts=2)
    data.report_to(hostile)
    assert data.bad_records._file == hostile / "bad_records.1.jsonl"


@pytest.mark.parametrize("share", [0.0, 0.04, 0.05])
def test_a_share_up_to_the_limit_does_not_stop_the_run(share):
    rng = np.random.default_rng(0)
    for _ in range(20):
        bad = BadRecords(0.05)
        for is_bad in rng.random(2000) < share:
            bad.note(Origin("s", "r", (Fault("r", record.EMPTY, "m"),) if is_bad else (), 0))


@pytest.mark.parametrize(("share", "limit"), [(0.1, 0.05), (0.3, 0.05), (0.01, 0.0), (1.0, 0.4)])
def test_a_share_above_the_limit_stops_the_run(share, limit):
    bad, rng = BadRecords(limit), np.random.default_rng(1)
    with pytest.raises(UserError, match="above data.max_bad_share"):
        for is_bad in rng.random(5000) < share:
            bad.note(Origin("s", "r", (Fault("r", record.EMPTY, "m"),) if is_bad else (), 0))


def test_each_source_has_its_own_share():
    bad = BadRecords(0.05)
    with pytest.raises(UserError, match="source 'small'"):
        for step in range(1000):
            bad.note(Origin("large", "r", (), 0))
            if step % 10 == 0:
                bad.note(Origin("small", f"r{step}", (Fault("r", record.EMPTY, "m"),), 0))


def test_a_source_of_bad_records_only_stops_the_run(hostile):
    file = hostile / "hostile" / "list.json"
    found = json.loads(file.read_text())
    (hostile / "hostile" / "images" / "bad.jpg").write_bytes(b"bad")
    file.write_text(json.dumps([record | {"image_path": "images/bad.jpg"} for record in found[:4]]))
    with pytest.raises(UserError, match="source 'draw': 4 records in a row are bad .unreadable., the last: .*bad.jpg"):
        mixture(hostile, max_bad_share=1.0).batch(0)


def test_cut_texts_are_counted_and_warned_of_once(hostile, caplog):
    data = mixture(hostile, max_bad_share=1.0, text_length=3)
    for step in range(3):
        data.batch(step)
    assert data.bad_records.cut["read"] == 24
    assert caplog.text.count("source 'read': a text is longer than data.text_length") == 1


@pytest.fixture
def block(hostile, monkeypatch):
    """A function from whose call on every image of this process and its children waits when it is opened."""

    def hang():
        monkeypatch.setenv("HANG_ON", str(hostile / "hostile" / "images"))
        monkeypatch.setenv("PYTHONPATH", str(Path(sitecustomize.__file__).parent), prepend=os.pathsep)
        monkeypatch.setattr(os, "open", sitecustomize.waiting_open)

    sitecustomize.released.clear()
    yield hang
    while multiprocessing.active_children():
        time.sleep(0.1)
    sitecustomize.released.set()


def test_a_reader_that_hangs_is_reported_with_its_record(hostile, block):
    data = mixture(hostile, max_bad_share=1.0, patience=5.0)
    block()
    with pytest.raises(
        StuckError, match=r"no batch came for 5 s \(data.patience\); being read: (draw|read)\[\d+\] for"
    ):
        next(data.batches())


def test_a_worker_that_dies_is_reported_with_its_record(hostile, block):
    data = mixture(hostile, max_bad_share=1.0, workers=1)
    block()

    def kill():
        while " for" not in data._notes.unfinished():
            time.sleep(0.05)
        for child in multiprocessing.active_children():
            os.kill(child.pid, signal.SIGKILL)

    threading.Thread(target=kill, daemon=True).start()
    with pytest.raises(UserError, match=r"a reader of the data failed .*exit code -9.*; being read: .*\[\d+\] for"):
        next(data.batches())


def test_notes_name_what_is_being_read_the_longest_first():
    notes, has_begun = ReadingNotes(), threading.Event()
    assert notes.unfinished() == "nothing"

    def read():
        copy = pickle.loads(pickle.dumps(notes))  # as in another process
        copy.begin("b" * 600)
        has_begun.set()

    notes.begin("a[1]")
    os.utime(next(Path(notes.folder).iterdir()), (time.time() - 60,) * 2)
    threading.Thread(target=read, daemon=True).start()
    assert has_begun.wait(60)
    found = re.fullmatch(r"a\[1\] for (\d+) s; b{512} for \d+ s", notes.unfinished())
    assert found and int(found[1]) >= 60
    notes.end()
    notes.begin("c")
    notes.end()
    assert notes.unfinished().startswith("bbb")


def test_the_watchdog_hands_on_batches_and_errors():
    def batches(error):
        yield from range(3)
        raise error

    notes = ReadingNotes()
    assert list(itertools.islice(with_watchdog(iter(range(5)), notes, 60.0), 5)) == list(range(5))
    with pytest.raises(UserError, match="^its own words$"):
        list(with_watchdog(batches(UserError("its own words")), notes, 60.0))
    notes.begin("a[1]")
    with pytest.raises(UserError, match=r"a reader of the data failed \(oh\); being read: a\[1\] for"):
        list(with_watchdog(batches(OSError("oh")), notes, 60.0))


class Endless:
    """Batches 0, 0, ... until they are closed."""

    def __init__(self):
        self.closed = threading.Event()

    def __iter__(self):
        return self

    def __next__(self):
        return 0

    def close(self):
        self.closed.set()


def test_the_watchdog_closes_batches_that_its_consumer_leaves():
    batches = Endless()
    stream = with_watchdog(batches, ReadingNotes(), 60.0)
    assert next(stream) == 0 and not batches.closed.is_set()
    stream.close()
    assert batches.closed.wait(60)


def test_a_record_that_no_other_replaces_counts_once(tmp_path):
    bad = BadRecords(0.5)
    bad.write_to(tmp_path / "bad.jsonl")
    for number in range(9):
        bad.note_bad("photos", Fault(f"list.json[{number}]", record.EMPTY, "list.json: is empty"))
    assert bad.looked_at["photos"] == bad.counts["photos", record.EMPTY] == 9
    assert len((tmp_path / "bad.jsonl").read_text().splitlines()) == 9
    with pytest.raises(UserError, match="24 of 24 records"):
        for number in range(9, 60):
            bad.note_bad("photos", Fault(f"list.json[{number}]", record.EMPTY, "list.json: is empty"))
