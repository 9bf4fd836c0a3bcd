"""The index finds every record, wherever the chunks of the file end."""

import codecs
import concurrent.futures
import json
import os
import pickle
import threading

import numpy as np
import pytest

from dualdiff_jax.data.records import index, ranges
from dualdiff_jax.data.records.index import IndexCache, elements, json_index
from dualdiff_jax.data.records.ranges import RangeReader
from dualdiff_jax.errors import UserError

VALUES = [
    {"a": 'quote " brace ] } {', "b": [1, {"c": "\\"}]},
    {"é": "漢字 😀"},
    3,
    "text",
    None,
    [],
    {"n": -1.5e3},
    12,
    True,
]
VALUES += range(95, 130)  # a number may be cut anywhere and still be one
STYLES = [dict(), dict(indent=2), dict(ensure_ascii=False), dict(separators=(",", ":"))]


def slices(file, rows):
    data = file.read_bytes()
    return [json.loads(data[start : start + length]) for start, length in rows[:, :2].tolist()]


@pytest.mark.parametrize("chunk", [4, 5, 7, 64, 1 << 20])
@pytest.mark.parametrize("style", STYLES, ids=str)
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"], ids=["plain", "byte order mark"])
def test_every_element_of_a_list_is_found(tmp_path, monkeypatch, chunk, style, mark):
    file = tmp_path / "list.json"
    file.write_bytes(mark + json.dumps(VALUES, **style).encode() + b"\n")
    monkeypatch.setattr(index, "CHUNK", chunk)
    assert slices(file, json_index(file, IndexCache())) == VALUES


@pytest.mark.parametrize("chunk", [1, 5, 1 << 20])
def test_every_pair_of_an_object_is_found(tmp_path, monkeypatch, chunk):
    file = tmp_path / "object.json"
    pairs = {f"key {i} :,": value for i, value in enumerate(VALUES)}
    file.write_text(json.dumps(pairs))
    monkeypatch.setattr(index, "CHUNK", chunk)
    data = file.read_bytes()
    assert {key: json.loads(data[start:stop]) for key, _, start, stop in elements(file, "{")} == pairs


@pytest.mark.parametrize("chunk", [1, 3, 10, 1 << 20])
@pytest.mark.parametrize("end", ["", "\n", "\n\n"])
def test_every_line_is_found_and_blank_ones_are_not(tmp_path, monkeypatch, chunk, end):
    monkeypatch.setattr(index, "CHUNK", chunk)
    file = tmp_path / "lines.jsonl"
    file.write_text("\n" + "\n\n".join(json.dumps({"n": v}) for v in VALUES) + "\r\n" + json.dumps({"n": "last"}) + end)
    assert slices(file, json_index(file, IndexCache())) == [*({"n": v} for v in VALUES), {"n": "last"}]


def has_brace(value):
    return int(isinstance(value, dict))


@pytest.mark.parametrize("name", ["list.json", "lines.jsonl"])
def test_a_column_describes_each_value(tmp_path, name):
    file = tmp_path / name
    file.write_text(json.dumps([{}, 12, {"a": 1}]) if name == "list.json" else '{}\n12\n{"a": 1}\n{broken\n')
    rows = json_index(file, IndexCache(), has_brace)
    assert rows[:, 2].tolist()[:3] == [1, 0, 1] and rows.shape[1] == 3


@pytest.mark.parametrize("text", ["", "[1, 2", "[1 2", '[{"a": 1}, {]', "nothing", '{"a": 1}'])
def test_a_file_that_is_no_list_is_refused(tmp_path, text):
    file = tmp_path / "list.json"
    file.write_text(text)
    with pytest.raises(UserError, match="list.json: (is not JSON|expected a list of records)"):
        json_index(file, IndexCache())


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-be"])
def test_a_list_in_utf_16_is_refused_as_such(tmp_path, encoding):
    mark = b"" if encoding == "utf-16" else codecs.BOM_UTF16_BE
    (tmp_path / "list.json").write_bytes(mark + json.dumps([{"a": "é"}]).encode(encoding))
    with pytest.raises(UserError, match="list.json: is UTF-16, .*; save it as UTF-8"):
        json_index(tmp_path / "list.json", IndexCache())
    (tmp_path / "list.json").write_bytes(json.dumps([{"a": "é"}]).encode("utf-8-sig"))
    assert len(json_index(tmp_path / "list.json", IndexCache())) == 1


def test_many_threads_read_the_same_files(tmp_path, monkeypatch):
    monkeypatch.setattr(ranges, "OPEN_FILES", 2)
    rng = np.random.default_rng(0)
    contents = {tmp_path / f"{n}": rng.bytes(5000) for n in range(4)}
    for file, content in contents.items():
        file.write_bytes(content)
    reader, wrong = RangeReader(), []

    def read(seed):
        rng = np.random.default_rng(seed)
        for _ in range(300):
            file = tmp_path / str(rng.integers(4))
            start, length = (int(n) for n in rng.integers(0, 2500, 2))
            if reader.read(file, start, length) != contents[file][start : start + length]:
                wrong.append((file, start, length))

    before = len(os.listdir("/proc/self/fd"))
    threads = [threading.Thread(target=read, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert len(os.listdir("/proc/self/fd")) <= before + 2
    assert pickle.loads(pickle.dumps(reader)).read(tmp_path / "1", 3, 9) == contents[tmp_path / "1"][3:12]


def test_two_writers_of_one_index_both_get_it(tmp_path):
    file = tmp_path / "data"
    file.write_text("x")
    cache, found = IndexCache(str(tmp_path / "cache")), []
    gate = threading.Barrier(2)

    def build():
        gate.wait(10)
        return np.arange(5)

    def use():
        found.append(cache.array([file], "kind", build, is_small=False))

    threads = [threading.Thread(target=use) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [array.tolist() for array in found] == [[0, 1, 2, 3, 4]] * 2
    assert len(list((tmp_path / "cache").iterdir())) == 1


def test_a_file_that_another_writer_has_finished_is_never_missing(tmp_path, monkeypatch):
    (tmp_path / "data").write_text("x")
    cache, here, replace = IndexCache(str(tmp_path / "cache")), [], os.replace

    def use(build):
        return cache.array([tmp_path / "data"], "kind", build, is_small=False)

    def replace_and_look(partial, file):
        here.append(os.path.exists(file))
        replace(partial, file)

    monkeypatch.setattr(os, "replace", replace_and_look)
    with concurrent.futures.ThreadPoolExecutor(1) as other:
        use(lambda: other.submit(use, lambda: np.arange(5)).result() + 0)
    assert here == [False, True]


def test_a_build_that_fails_leaves_nothing_behind(tmp_path):
    (tmp_path / "data").write_text("x")

    def build():
        raise UserError("no")

    with pytest.raises(UserError, match="no"):
        IndexCache(str(tmp_path / "cache")).array([tmp_path / "data"], "kind", build, is_small=False)
    assert list((tmp_path / "cache").iterdir()) == []
