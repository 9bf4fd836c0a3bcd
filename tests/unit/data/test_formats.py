"""A record is the same record in every format, and a fault names its file and record."""

import dataclasses
import json
import pickle
import tarfile

import numpy as np
import pytest

from dualdiff_jax.data.formats import parquet
from dualdiff_jax.data.formats.array_record import pack, unpack
from dualdiff_jax.data.formats.registry import open_source, question_suffix
from dualdiff_jax.data.records.index import IndexCache
from dualdiff_jax.data.records.patterns import expand
from dualdiff_jax.data.records.record import ABSENT_KEY, EMPTY, UNREADABLE, WRONG_TYPE, DataError, Record, Turn
from dualdiff_jax.errors import UserError
from tests.unit.data import photos
from tests.unit.data.photos import COUNT, WRITERS, content, fields, jpeg, source

EVERY_FORMAT = pytest.mark.parametrize("name", WRITERS)


def opened(root, name, **changes):
    form, write = WRITERS[name]
    return open_source(source(root, write(root), format=form, **changes))


@EVERY_FORMAT
def test_every_format_gives_the_same_records(tmp_path, name):
    found = opened(tmp_path, name)
    assert len(found) == COUNT
    for index in range(COUNT):
        record = found[index]
        assert content(record) == jpeg(index)
        assert record.captions == {key: (fields(index)[key],) for key in photos.KEYS}
        assert record.size == photos.size(index) and not record.is_text_only


@EVERY_FORMAT
def test_every_format_gives_questions_and_answers(tmp_path, name):
    found = opened(tmp_path, name, task="instruction")
    assert [found[i].turns for i in range(COUNT)] == [(Turn(fields(i)["question"], f"part {i}"),) for i in range(COUNT)]


@EVERY_FORMAT
def test_a_pickled_source_reads_the_same_records(tmp_path, name):
    found = opened(tmp_path, name)
    found[0]
    again = pickle.loads(pickle.dumps(found))
    assert len(again) == COUNT
    assert all(content(again[i]) == jpeg(i) and again[i].record_id == found[i].record_id for i in range(COUNT))


@EVERY_FORMAT
def test_no_two_records_share_a_name(tmp_path, name):
    found = opened(tmp_path, name)
    assert len({found[i].record_id for i in range(COUNT)}) == COUNT


def test_a_text_beside_an_image_in_a_tar_is_its_caption(tmp_path):
    config = source(
        tmp_path, photos.write_tar(tmp_path, "txt"), format="tar", caption_keys=("caption",), caption_weights=(1,)
    )
    found = open_source(config)
    assert [found[i].captions["caption"] for i in range(COUNT)] == [(fields(i)["caption"],) for i in range(COUNT)]


def test_roots_follow_each_other_each_with_its_own_keys(tmp_path):
    photos.write_json(tmp_path / "a")
    photos.write_images(tmp_path / "b")
    other = [{"file": f"images/{i}.jpg", "alt": f"alt {i}", "long": f"long {i}"} for i in range(2)]
    (tmp_path / "b" / "list.json").write_text(json.dumps(other))
    more = {"root": str(tmp_path / "b"), "files": "list.json", "image_key": "file", "caption_keys": ("alt", "long")}
    found = open_source(source(tmp_path / "a", "list.json", roots=(more,)))
    assert len(found) == COUNT + 2
    assert found[COUNT - 1].captions["caption"] == (fields(COUNT - 1)["caption"],)
    assert found[COUNT + 1].captions == {"caption": ("alt 1",), "re_caption": ("long 1",)}
    assert content(found[COUNT + 1]) == jpeg(1)
    assert [found[i].record_id for i in (1, COUNT + 1)] == [f"{tmp_path}/{root}/list.json[1]" for root in "ab"]


def test_a_caption_may_come_in_several_wordings_and_below_other_keys(tmp_path):
    photos.write_images(tmp_path)
    record = {"image": {"path": "images/0.jpg"}, "captions": {"text": ["one", " ", "two"]}}
    (tmp_path / "list.json").write_text(json.dumps([record]))
    keys = dict(image_key="image", caption_keys=("captions/text",), caption_weights=(1,))
    assert open_source(source(tmp_path, "list.json", **keys))[0].captions == {"captions/text": ("one", "two")}


def test_an_empty_caption_is_left_out_while_another_is_there(tmp_path):
    photos.write_images(tmp_path)
    records = [fields(0) | {"caption": " "}, fields(1)]
    (tmp_path / "list.json").write_text(json.dumps(records))
    assert open_source(source(tmp_path, "list.json"))[0].captions == {"re_caption": (fields(0)["re_caption"],)}


@pytest.mark.parametrize(
    ("record", "cause", "message"),
    [
        (3, WRONG_TYPE, "is not an object: 3"),
        ({"caption": "a", "re_caption": "b"}, ABSENT_KEY, "has no key image_path; it has caption, re_caption"),
        (fields(0) | {"image_path": 4}, WRONG_TYPE, "image_path should be text, found 4"),
        (fields(0) | {"caption": 7}, WRONG_TYPE, "caption should be text, found 7"),
        (fields(0) | {"caption": {"text": "a"}}, WRONG_TYPE, "caption should be text, found {'text': 'a'}"),
        (fields(0) | {"caption": None, "re_caption": []}, EMPTY, "caption, re_caption is empty"),
        (fields(0) | {"image_path": None}, EMPTY, "image_path is empty"),
        (fields(0) | {"caption": "", "re_caption": "\n"}, EMPTY, "caption, re_caption is empty"),
        ({"image_path": "x"}, ABSENT_KEY, "has no key caption; it has image_path"),
    ],
)
def test_a_bad_record_is_reported_when_it_is_read(tmp_path, record, cause, message):
    photos.write_images(tmp_path)
    (tmp_path / "list.json").write_text(json.dumps([fields(0), record]))
    found = open_source(source(tmp_path, "list.json"))
    with pytest.raises(DataError, match=message) as error:
        found[1]
    assert error.value.cause == cause and "list.json[1]" in str(error.value)
    assert pickle.loads(pickle.dumps(error.value)).cause == cause


def test_a_line_that_is_no_json_is_a_bad_record(tmp_path):
    photos.write_images(tmp_path)
    (tmp_path / "lines.jsonl").write_text(json.dumps(fields(0)) + "\n{broken\n" + json.dumps(fields(2)) + "\n")
    found = open_source(source(tmp_path, "lines.jsonl"))
    with pytest.raises(DataError, match=r"lines.jsonl\[1\]: is no JSON") as error:
        found[1]
    assert error.value.cause == UNREADABLE
    assert found[2].captions["caption"] == (fields(2)["caption"],)


def test_a_tar_sample_without_image_or_text_is_a_bad_record(tmp_path):
    photos.write_tar(tmp_path)
    with tarfile.open(tmp_path / "00001.tar", "w") as archive:
        photos.add(archive, "0.jpg", jpeg(0))
        photos.add(archive, "1.json", b"{}")
        photos.add(archive, "1.cls", b"7")
    found = open_source(source(tmp_path, "*.tar", format="tar"))
    assert len(found) == 5
    for index, message in ((3, "no member with a json or txt"), (4, "no member with an image")):
        with pytest.raises(DataError, match=message):
            found[index]


def test_long_and_dotted_names_in_a_tar_are_understood(tmp_path):
    long = "folder/" + "x" * 150 + "/0001"
    with tarfile.open(tmp_path / "one.tar", "w", format=tarfile.GNU_FORMAT) as archive:
        photos.add(archive, f"{long}.thumb.jpg", b"not this one")
        photos.add(archive, f"{long}.JPG", jpeg(1))
        photos.add(archive, f"{long}.json", json.dumps(fields(1)).encode())
    found = open_source(source(tmp_path, "one.tar", format="tar"))
    assert len(found) == 1 and content(found[0]) == jpeg(1)


def test_one_name_in_two_folders_of_a_tar_is_two_samples(tmp_path):
    with tarfile.open(tmp_path / "one.tar", "w") as archive:
        for folder, index in (("a", 0), ("b", 1)):
            photos.add(archive, f"{folder}/1.jpg", jpeg(index))
            photos.add(archive, f"{folder}/1.json", json.dumps(fields(index)).encode())
    found = open_source(source(tmp_path, "one.tar", format="tar"))
    assert [content(found[i]) for i in range(len(found))] == [jpeg(0), jpeg(1)]


def test_a_shard_without_its_stats_is_left_out_where_they_are_asked_for(tmp_path, caplog):
    files = photos.write_tar(tmp_path)
    (tmp_path / "00001_stats.json").write_text("{}")
    found = open_source(source(tmp_path, files, format="tar", needs_stats=True))
    assert len(found) == 3 and content(found[0]) == jpeg(3)
    assert "1 of 2 shards have no _stats.json" in caplog.text
    (tmp_path / "00001_stats.json").unlink()
    with pytest.raises(UserError, match="names no complete tar shard"):
        open_source(source(tmp_path, files, format="tar", needs_stats=True))


@pytest.mark.parametrize(
    ("name", "file", "message"),
    [
        ("json", "list.json", "is not JSON"),
        ("tar", "00000.tar", "is not an uncompressed tar file, or is cut"),
        ("array_record", "all.array_record", "cannot be read as ArrayRecord"),
        ("parquet", "train-00000.parquet", "cannot be read as Parquet"),
    ],
)
def test_a_damaged_file_is_reported_when_the_source_is_opened(tmp_path, name, file, message):
    form, write = WRITERS[name]
    files = write(tmp_path)
    (tmp_path / file).write_bytes((tmp_path / file).read_bytes()[:700])
    with pytest.raises(UserError, match=message) as error:
        open_source(source(tmp_path, files, format=form))
    assert file in str(error.value)


@EVERY_FORMAT
def test_missing_files_are_reported_when_the_source_is_opened(tmp_path, name):
    with pytest.raises(UserError, match="there is no such file"):
        open_source(source(tmp_path, "gone.x", format=WRITERS[name][0]))


def test_a_source_without_any_of_its_images_is_refused_when_the_source_is_opened(tmp_path):
    (tmp_path / "list.json").write_text(json.dumps([fields(i) for i in range(40)]))
    with pytest.raises(UserError, match="is not usable; all 16 records that were tried are bad") as error:
        open_source(source(tmp_path, "list.json"))
    assert "images/0.jpg: there is no such image" in str(error.value)


def test_row_groups_that_are_read_in_any_order_stay_few(tmp_path, monkeypatch):
    monkeypatch.setattr(parquet, "GROUPS", 1)
    found = opened(tmp_path, "parquet")
    assert [content(found[i]) for i in (5, 0, 3, 1)] == [jpeg(i) for i in (5, 0, 3, 1)]
    assert len(found._groups) == 1


def test_packing_and_unpacking_is_the_identity():
    arrays = {"latent_mean": np.arange(6, dtype=np.float32).reshape(1, 2, 3), "b": np.ones((2, 0), np.int32)}
    for record in (photos.record(1), Record("é", arrays=arrays), Record("x", turns=(Turn("a", "b"),), answers=("b",))):
        again = unpack(pack(record))
        assert dataclasses.replace(again, arrays={}) == dataclasses.replace(record, arrays={})
        assert again.arrays.keys() == record.arrays.keys()
        for name, value in record.arrays.items():
            np.testing.assert_array_equal(again.arrays[name], value)
            assert again.arrays[name].dtype == value.dtype
    with pytest.raises(ValueError, match="instead of"):
        unpack(pack(photos.record(1))[:-1])


def test_patterns_name_files_in_their_order(tmp_path):
    for name in ("a_08.tar", "a_09.tar", "a_10.tar", "b.tar"):
        (tmp_path / name).touch()

    def names(pattern):
        return [file.name for file in expand(tmp_path, pattern)]

    assert names("a_{08..10}.tar") == ["a_08.tar", "a_09.tar", "a_10.tar"]
    assert names("{b,a_09}.tar") == ["b.tar", "a_09.tar"]
    assert names("a_{08,09..10}.{tar}") == names("a_{08..10}.tar")
    assert names("a_*.tar") == ["a_08.tar", "a_09.tar", "a_10.tar"]
    assert names("{b,*}.tar") == ["b.tar", "a_08.tar", "a_09.tar", "a_10.tar"]
    with pytest.raises(
        UserError, match="a_07.tar: there is no such file .the first of 2 missing files.; check the root"
    ):
        expand(tmp_path, "{a_07,a_08,c}.tar")
    with pytest.raises(UserError, match="no file matches 'c_"):
        expand(tmp_path, "c_*.tar")


def test_the_suffix_of_questions_is_the_formats_unless_the_config_has_one(tmp_path):
    short = " Answer the question using a single word or phrase."
    assert question_suffix(source(tmp_path, "", format="gqa", task="instruction")) == short
    assert question_suffix(source(tmp_path, "", format="vizwiz", task="instruction")).startswith(f"{short} Reply unans")
    assert question_suffix(source(tmp_path, "x.json")) == ""
    assert question_suffix(source(tmp_path, "", format="gqa", task="instruction", question_suffix=" Say.")) == " Say."


def test_an_index_is_kept_used_and_removed_when_the_file_changes(tmp_path, monkeypatch):
    monkeypatch.setattr("dualdiff_jax.data.records.index.SMALL", 0)
    cache = IndexCache(str(tmp_path / "cache"))
    for name in ("json", "json lines", "tar"):
        form, write = WRITERS[name]
        config = source(tmp_path / name, write(tmp_path / name), format=form)
        first = open_source(config, cache)
        with monkeypatch.context() as patch:
            for build in ("records.index._list", "records.index._lines", "formats.tar.tar_index"):
                patch.setattr(f"dualdiff_jax.data.{build}", None)
            again = open_source(config, cache)
        assert [content(again[i]) for i in range(COUNT)] == [content(first[i]) for i in range(COUNT)]
    before = sorted((tmp_path / "cache").iterdir())
    file = tmp_path / "json" / "list.json"
    file.write_text(json.dumps([fields(0)]))
    assert len(open_source(source(tmp_path / "json", "list.json"), cache)) == 1
    after = sorted((tmp_path / "cache").iterdir())
    assert len(before) == len(after) and before != after


def test_an_index_lies_beside_the_file_or_in_the_users_cache(tmp_path, monkeypatch):
    monkeypatch.setattr("dualdiff_jax.data.records.index.SMALL", 0)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    photos.write_json(tmp_path)
    open_source(source(tmp_path, "list.json"))
    (beside,) = (tmp_path / ".dualdiff_index").iterdir()
    assert beside.name.startswith("list.json.list.") and not (tmp_path / "home").exists()
    beside.unlink()
    beside.parent.rmdir()
    beside.parent.write_text("no folder can be made here")
    open_source(source(tmp_path, "list.json"))
    assert len(list((tmp_path / "home").rglob("*.npy"))) == 1
