"""A second encode-data keeps what has not changed and encodes anew what has, whatever the format."""

import dataclasses
import json
import os
from pathlib import Path

import jax
import pytest

from dualdiff_jax.config import DataConfig, SourceConfig
from dualdiff_jax.config.resolve import resolve
from dualdiff_jax.data.formats.registry import open_source
from dualdiff_jax.data.records.index import IndexCache
from dualdiff_jax.data.records.manifest import MANIFEST, read_manifest
from dualdiff_jax.encoding import chunks, inputs
from dualdiff_jax.encoding.folder import changed_inputs
from dualdiff_jax.encoding.frozen_encoder import FrozenEncoder
from dualdiff_jax.encoding.inputs import note_file
from dualdiff_jax.encoding.writer import encode_sources
from dualdiff_jax.errors import UserError
from dualdiff_jax.sharding import make_mesh
from tests.small_run import small_run
from tests.unit.data.edited_photos import EDITS, PHOTOS, WRITERS, copy_with_new_times, other_image, write
from tests.unit.tiny import random_weights


@pytest.fixture(scope="module")
def networks(tmp_path_factory):
    """(data config to change, encoder, tokenizer)."""
    config, tokenizer = small_run(tmp_path_factory.mktemp("networks"), model={"mmdit": {"depth": 1}})
    mesh = make_mesh(config.mesh, jax.devices()[:1])
    return config.data, FrozenEncoder(config.model, random_weights(config.model), mesh), tokenizer


@pytest.fixture(autouse=True)
def small_files(monkeypatch):
    """Two files for the six photos."""
    monkeypatch.setattr(chunks, "RECORDS_PER_FILE", 4)


class Encoding:
    """encode-data of one source into one folder."""

    def __init__(self, networks, output: Path, fields: dict):
        data, self._encoder, self._tokenizer = networks
        source = resolve(fields | {"height": 8, "width": 8}, SourceConfig)
        self._data: DataConfig = dataclasses.replace(data, sources=(source,))
        self._output, self.folder = output, output / "photos"

    def __call__(self, **options) -> int:
        """Encodes; returns how many records were encoded."""
        done = [0]
        progress = options.pop("progress", lambda count, total: done.append(count))
        made_by = {"model": "test"}
        encode_sources(
            self._data, self._encoder, self._tokenizer, self._output, made_by=made_by, progress=progress, **options
        )
        return done[-1]

    def changed(self) -> list[str]:
        """What training would warn of."""
        manifest = read_manifest(self.folder)
        assert manifest is not None
        found = changed_inputs(manifest, IndexCache(str(self._output / "index")))
        return [Path(path).name for path in found]

    def records(self) -> list:
        """All that is in the folder."""
        fields = {"name": "photos", "task": "captioning", "format": "array_record", "root": str(self.folder)}
        if self._data.sources[0].task == "instruction":
            fields["task"] = "instruction"
        source = resolve(fields | {"files": "*.array_record", "height": 8, "width": 8}, SourceConfig)
        opened = open_source(source)
        found = [opened[index] for index in range(len(opened))]
        return [(r.record_id, r.captions, r.turns, r.arrays["latent_mean"].tobytes()) for r in found]


@pytest.mark.parametrize("kind", WRITERS)
def test_unchanged_and_touched_data_are_kept(networks, tmp_path, kind, monkeypatch):
    encode = Encoding(networks, tmp_path / "out", write(tmp_path / "data", kind))
    assert encode() == 6
    before = {file: file.read_bytes() for file in encode.folder.iterdir()}
    assert len(before) == 5 and encode() == 0
    assert {file: file.read_bytes() for file in encode.folder.iterdir()} == before
    for file in (tmp_path / "data").rglob("*.*"):
        os.utime(file, (1e9, 1e9))
    assert encode.changed() == []
    assert encode() == 0
    now = {file: file.read_bytes() for file in encode.folder.iterdir()}
    assert [f.name for f in now if now[f] != before[f] and f.suffix == ".array_record"] == []
    monkeypatch.setattr(inputs, "read_record", lambda *_: pytest.fail("the new times are noted"))
    assert now != before and encode() == 0
    assert {file: file.read_bytes() for file in encode.folder.iterdir()} == now


def test_notes_make_reading_again_unnecessary(networks, tmp_path, monkeypatch):
    encode = Encoding(networks, tmp_path / "out", write(tmp_path / "data", "json"))
    assert encode() == 6
    with monkeypatch.context() as patch:
        patch.setattr(inputs, "read_record", lambda *_: pytest.fail("nothing has changed"))
        assert encode() == 0
    monkeypatch.setattr(inputs, "read_image_file", lambda *_: pytest.fail("no image has changed"))
    (tmp_path / "data" / "list.json").touch()
    assert encode() == 0


@pytest.mark.parametrize("kind", WRITERS)
@pytest.mark.parametrize("edit", EDITS)
def test_edited_data_are_encoded_anew(networks, tmp_path, kind, edit, caplog):
    encode = Encoding(networks, tmp_path / "out", write(tmp_path / "data", kind))
    assert encode() == 6
    write(tmp_path / "data", kind, EDITS[edit](PHOTOS))
    assert encode.changed()
    expected = {"one removed": 1, "one removed and one added": 6, "the last caption edited": 2}.get(edit, 4)
    assert encode() == expected
    assert "changed since they were encoded; they are encoded anew: 8x8-00000" in caplog.text
    assert encode.changed() == [] and encode() == 0
    fresh = Encoding(networks, tmp_path / "fresh", write(tmp_path / "data", kind, EDITS[edit](PHOTOS)))
    assert fresh() == len(EDITS[edit](PHOTOS))
    assert encode.records() == fresh.records()


def test_one_image_of_the_same_size_and_another_time_is_found(networks, tmp_path):
    encode = Encoding(networks, tmp_path / "out", write(tmp_path / "data", "json"))
    assert encode() == 6
    (tmp_path / "data" / "images" / "0005.jpg").write_bytes(other_image(PHOTOS[5].image))
    assert encode() == 2  # those of the second file
    assert encode() == 0


def test_a_missing_image_that_comes_back_is_encoded(networks, tmp_path):
    fields = write(tmp_path / "data", "json")
    (tmp_path / "data" / "images" / "0005.jpg").unlink()
    encode = Encoding(networks, tmp_path / "out", fields)
    assert encode() == 6 and len(encode.records()) == 5
    assert encode() == 0
    write(tmp_path / "data", "json")
    assert encode() == 2 and len(encode.records()) == 6


def test_fewer_records_leave_no_file_of_the_others(networks, tmp_path):
    encode = Encoding(networks, tmp_path / "out", write(tmp_path / "data", "json"))
    assert encode() == 6
    write(tmp_path / "data", "json", PHOTOS[:4])
    assert encode() == 0 and len(encode.records()) == 4
    assert sorted(file.name for file in encode.folder.iterdir()) == [
        "8x8-000000.array_record",
        "8x8-000000.inputs.json",
        MANIFEST,
    ]


def test_data_that_moved_are_kept(networks, tmp_path):
    encode = Encoding(networks, tmp_path / "out", fields := write(tmp_path / "data", "json"))
    assert encode() == 6
    moved = copy_with_new_times(tmp_path / "data", tmp_path / "moved")
    encode = Encoding(networks, tmp_path / "out", fields | {"root": str(moved)})
    assert encode() == 0
    assert json.loads((encode.folder / MANIFEST).read_text())["source"]["root"] == str(moved)


class Killed(Exception):
    pass


def test_a_run_that_is_killed_while_it_encodes_anew_leaves_no_mixture(networks, tmp_path):
    encode = Encoding(networks, tmp_path / "out", write(tmp_path / "data", "json"))
    assert encode() == 6
    write(tmp_path / "data", "json", rows := [dataclasses.replace(p, caption=f"new {p.name}") for p in PHOTOS])

    def kill(count, total):
        raise Killed

    with pytest.raises(Killed):
        encode(progress=kill)
    with pytest.raises(UserError, match="encoding is not finished, 1 of 2 files are missing"):
        encode.records()
    assert encode() == 2
    assert [captions["caption"] for _, captions, *_ in encode.records()] == [(row.caption,) for row in rows]


def test_a_second_host_encodes_its_share_of_what_changed(networks, tmp_path):
    encode = Encoding(networks, tmp_path / "out", write(tmp_path / "data", "json"))
    assert [encode(host=host, hosts=2) for host in range(2)] == [4, 2]
    write(tmp_path / "data", "json", EDITS["one removed and one added"](PHOTOS))
    assert [encode(host=host, hosts=2) for host in range(2)] == [4, 2]
    assert [encode(host=host, hosts=2) for host in range(2)] == [0, 0]


def test_a_folder_of_an_earlier_version_is_refused_with_what_to_do(networks, tmp_path):
    encode = Encoding(networks, tmp_path / "out", write(tmp_path / "data", "json"))
    assert encode() == 6
    manifest = json.loads((encode.folder / MANIFEST).read_text())
    (encode.folder / MANIFEST).write_text(json.dumps({k: v for k, v in manifest.items() if k != "inputs"}))
    assert encode.changed() == [] and len(encode.records()) == 6  # it can be trained from
    with pytest.raises(UserError, match="photos: was encoded by an earlier version, .* or remove this folder"):
        encode()


def test_files_without_a_manifest_are_compared_too(networks, tmp_path):
    encode = Encoding(networks, tmp_path / "out", write(tmp_path / "data", "json"))
    assert encode() == 6
    (encode.folder / MANIFEST).unlink()
    write(tmp_path / "data", "json", EDITS["a caption edited"](PHOTOS))
    assert encode() == 4


@pytest.mark.parametrize("damage", ["lost", "cut"])
def test_a_file_without_a_note_is_encoded_anew(networks, tmp_path, damage):
    encode = Encoding(networks, tmp_path / "out", write(tmp_path / "data", "json"))
    assert encode() == 6
    note = note_file(encode.folder / "8x8-000001.array_record")
    note.unlink() if damage == "lost" else note.write_text(note.read_text()[:40])
    assert encode() == 2 and note.exists()


def test_a_file_that_was_cut_is_encoded_anew_and_one_of_an_unknown_size_is_kept(networks, tmp_path):
    encode = Encoding(networks, tmp_path / "out", write(tmp_path / "data", "json"))
    assert encode() == 6
    file, expected = encode.folder / "8x8-000001.array_record", encode.records()
    note, whole = json.loads(note_file(file).read_text()), file.read_bytes()
    assert note["size"] == len(whole)
    for path in (tmp_path / "data").rglob("*.*"):
        os.utime(path, (1e9, 1e9))
    assert encode() == 0  # and writes a new note
    file.write_bytes(whole[: len(whole) // 2])
    assert encode() == 2 and encode.records() == expected and encode() == 0
    del note["size"]  # of an earlier version
    note_file(file).write_text(json.dumps(note))
    assert encode() == 0


def test_originals_that_are_gone_are_no_change(networks, tmp_path):
    encode = Encoding(networks, tmp_path / "out", write(tmp_path / "data", "json"))
    assert encode() == 6
    (tmp_path / "data").rename(tmp_path / "archive")
    assert encode.changed() == [] and len(encode.records()) == 6
