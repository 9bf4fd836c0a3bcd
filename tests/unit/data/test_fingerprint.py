"""The fingerprint of data is that of their contents and order, wherever they lie and whenever they were written."""

import dataclasses
import json
import os
import threading

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest

from dualdiff_jax.config import SourceConfig
from dualdiff_jax.config.resolve import resolve
from dualdiff_jax.data import fingerprint as module
from dualdiff_jax.data.fingerprint import WHOLE, blocks_of, differences, file_digest, source_fingerprint
from dualdiff_jax.data.formats.registry import open_source
from dualdiff_jax.data.mixture import Mixture
from dualdiff_jax.data.records import index
from dualdiff_jax.data.records.index import IndexCache
from dualdiff_jax.errors import StuckError, UserError
from tests.small_run import small_run
from tests.unit.data.edited_photos import EDITS, PHOTOS, WRITERS, copy_with_new_times, write


def fingerprint(root, fields, **changes) -> dict:
    source = resolve(fields | {"root": str(root), "height": 8, "width": 8} | changes, SourceConfig)
    return {"photos": source_fingerprint(open_source(source), source.root, IndexCache())}


@pytest.mark.parametrize("kind", WRITERS)
def test_touched_and_copied_data_are_the_same(tmp_path, kind):
    fields = write(tmp_path / "data", kind)
    before = fingerprint(tmp_path / "data", fields)
    assert json.loads(json.dumps(before)) == before and before["photos"]["records"] == len(PHOTOS)
    for file in (tmp_path / "data").rglob("*.*"):
        os.utime(file, (1e9, 1e9))
    assert fingerprint(tmp_path / "data", fields) == before
    assert fingerprint(copy_with_new_times(tmp_path / "data", tmp_path / "elsewhere"), fields) == before


@pytest.mark.parametrize("kind", WRITERS)
@pytest.mark.parametrize("edit", EDITS)
def test_edited_data_are_others(tmp_path, kind, edit):
    fields = write(tmp_path, kind)
    before = fingerprint(tmp_path, fields)
    write(tmp_path, kind, EDITS[edit](PHOTOS))
    now = fingerprint(tmp_path, fields)
    told = differences(before, now)
    assert ("6 records -> 5" in told) == (edit == "one removed")
    lists = {"json": "list.json", "json lines": "list.jsonl", "vqa_v2": "v2_OpenEnded_mscoco_train2014_questions.json"}
    if kind in lists and edit == "an image replaced":
        assert told == "source 'photos' (its images)"
    elif kind in lists and edit == "a caption edited":
        assert told == f"source 'photos' ({lists[kind]})"
    elif edit in ("a caption edited", "an image replaced"):
        file = {"tar": "00000.tar", "parquet": "0.parquet", "array_record": "all.array_record"}[kind]
        assert told == f"source 'photos' ({file})"
    assert told and differences(before, before) == ""


def test_a_table_that_names_images_is_a_list(tmp_path):
    write(tmp_path, "json")
    rows = [photo.fields() for photo in PHOTOS]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "list.parquet")
    fields = {"files": "list.parquet", "format": "parquet", "name": "photos", "task": "captioning"}
    before = fingerprint(tmp_path, fields)
    write(tmp_path, "json", EDITS["an image replaced"](PHOTOS))
    assert differences(before, fingerprint(tmp_path, fields)) == "source 'photos' (its images)"


def test_a_missing_image_and_its_repair_are_a_change(tmp_path):
    fields = write(tmp_path, "json")
    whole = fingerprint(tmp_path, fields)
    (tmp_path / "images" / "0003.jpg").unlink()
    assert differences(whole, fingerprint(tmp_path, fields)) == "source 'photos' (its images)"
    write(tmp_path, "json")
    assert fingerprint(tmp_path, fields) == whole


def test_several_roots_have_the_files_of_each(tmp_path):
    fields = write(tmp_path / "one", "json")
    write(tmp_path / "two", "json")
    roots = [{"root": str(tmp_path / "two"), "files": "list.json", "image_key": "image_path"}]
    before = fingerprint(tmp_path / "one", fields, roots=roots)
    assert before["photos"]["records"] == 2 * len(PHOTOS)
    write(tmp_path / "two", "json", EDITS["a caption edited"](PHOTOS))
    told = differences(before, fingerprint(tmp_path / "one", fields, roots=roots))
    assert told == "source 'photos' (../two/list.json)"


def test_some_records_are_in_some_files(tmp_path):
    fields = write(tmp_path / "one", "parquet")
    write(tmp_path / "two", "parquet")
    roots = [{"root": str(tmp_path / "two"), "files": "*.parquet", "image_key": "image_path"}]
    records = open_source(resolve(fields | {"height": 8, "width": 8, "roots": roots}, SourceConfig))
    for indexes, files in (
        ([0, 11], ["one/0", "two/1"]),
        ([3, 4], ["one/1"]),
        ([6], ["two/0"]),
        ([5, 8], ["one/1", "two/0"]),
    ):
        expected = [tmp_path / f"{file}.parquet" for file in files]
        assert records.files_of(np.asarray(indexes)) == expected, indexes
    assert records.holds_images() and len(records.files()) == 4


def test_a_large_file_is_read_in_blocks_and_a_list_as_a_whole(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "BLOCK", 8)
    file, cache = tmp_path / "large.bin", IndexCache(str(tmp_path / "index"))
    content = bytearray(range(256)) * 4
    file.write_bytes(content)
    before, whole = file_digest(file, 4, cache), file_digest(file, WHOLE, cache)
    assert before.startswith("4:") and whole.startswith(f"{WHOLE}:")
    for place, is_seen in ((0, True), (len(content) - 1, True), (100, False), (len(content) // 3, True)):
        changed = content.copy()
        changed[place] ^= 1
        file.write_bytes(changed)
        assert (file_digest(file, 4, cache) != before) == is_seen, place
        assert file_digest(file, WHOLE, cache) != whole
    file.write_bytes(content)
    size_alone = file_digest(file, 0, cache)
    file.write_bytes(bytes(len(content)))
    assert file_digest(file, 0, cache) == size_alone
    file.write_bytes(content + b"1")
    assert file_digest(file, 0, cache) != size_alone


@pytest.mark.parametrize("kind, count", [("array_record", 1), ("tar", 2), ("parquet", 2)])
def test_the_files_of_a_source_share_the_blocks_of_stored_fingerprints(tmp_path, kind, count):
    """A run stores its fingerprint. With another number of blocks, it would find its data changed."""
    files = fingerprint(tmp_path, write(tmp_path, kind))["photos"]["files"]
    assert [blocks_of(digest) for digest in files.values()] == [1024 // count] * count


def test_the_digest_of_a_large_list_is_kept_until_the_list_changes(tmp_path, monkeypatch):
    monkeypatch.setattr(index, "SMALL", 4)
    file, cache = tmp_path / "list.json", IndexCache(str(tmp_path / "index"))
    file.write_text("[1, 2, 3]")
    whole = file_digest(file, WHOLE, cache)
    (kept,) = (tmp_path / "index").glob("*sha256*")
    monkeypatch.setattr(module, "_write_hash", lambda *_: pytest.fail("it was kept"))
    assert file_digest(file, WHOLE, cache) == whole == f"{WHOLE}:{kept.read_text()}"
    monkeypatch.undo()
    file.write_text("[1, 2, 4]")
    assert file_digest(file, WHOLE, cache) != whole


def test_many_files_have_one_digest_and_long_differences_are_cut(tmp_path, monkeypatch):
    for number in range(5):
        (tmp_path / f"{number}.jsonl").write_text(json.dumps(PHOTOS[number].fields()))
    write(tmp_path, "json")
    fields = {"name": "photos", "files": "*.jsonl", "task": "captioning"}
    before = fingerprint(tmp_path, fields)
    for number in range(5):
        (tmp_path / f"{number}.jsonl").write_text(json.dumps(PHOTOS[number].fields() | {"caption": "x"}))
    now = fingerprint(tmp_path, fields)
    assert differences(before, now) == "source 'photos' (0.jsonl, 1.jsonl, 2.jsonl, 2 more files)"
    monkeypatch.setattr(module, "NAMED", 4)
    assert list(fingerprint(tmp_path, fields)["photos"]["files"]) == ["5 files"]


def test_a_count_alone_is_compared_as_a_count():
    now = {"a": {"records": 3, "files": {"list.json": "0:1"}, "images": "1"}}
    assert differences({"a": 3, "not read": 9}, now) == ""
    assert differences({"a": 4}, now) == "source 'a' (4 records -> 3)"
    assert differences({}, now) == "source 'a' (is new)"


def test_a_file_that_cannot_be_read_is_named(tmp_path):
    with pytest.raises(UserError, match=r"gone.json: cannot be read \(.*No such file.*check it and its permissions"):
        file_digest(tmp_path / "gone.json", WHOLE, IndexCache())


def test_a_file_that_never_comes_ends_the_check_with_its_name(tmp_path, monkeypatch):
    config, tokenizer = small_run(tmp_path)
    released, open_file = threading.Event(), os.open

    def waiting_open(path, *arguments, **options):
        if str(path).endswith("images/3.png"):
            released.wait(60)
        return open_file(path, *arguments, **options)

    monkeypatch.setattr(os, "open", waiting_open)
    impatient = dataclasses.replace(config.data, patience=1.0)
    data = Mixture(impatient, tokenizer, seed=0, global_batch_size=config.train.global_batch_size)
    try:
        with pytest.raises(StuckError, match=r"for 1 s \(data.patience\); being read: .*images/3.png for"):
            data.fingerprint()
    finally:
        released.set()
