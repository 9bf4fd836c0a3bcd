"""Whatever is wrong with one record is that record's fault, in every format; the records around it are read."""

import json
import os
import struct
import tarfile

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from array_record.python import array_record_module  # pyright: ignore[reportAttributeAccessIssue]  # compiled

from dualdiff_jax.data.formats.array_record import LENGTH, pack
from dualdiff_jax.data.formats.registry import open_source
from dualdiff_jax.data.records import ranges
from dualdiff_jax.data.records.json_text import load
from dualdiff_jax.data.records.record import (
    ABSENT_KEY,
    EMPTY,
    OUTSIDE,
    OVERSIZED,
    UNREADABLE,
    WRONG_TYPE,
    DataError,
    Record,
    Turn,
    blame,
)
from dualdiff_jax.errors import UserError
from tests.unit.data import photos
from tests.unit.data.photos import content, fields, jpeg, source

DEEP = "[" * 1500 + "]" * 1500
VERY_DEEP = '{"a":' * 100_000 + "1" + "}" * 100_000
DIGITS = "9" * 5000


def good(index):
    return json.dumps(fields(index))


def json_list(folder, text):
    (folder / "list.json").write_text(f"[{good(0)}, {text},\n {good(2)}]")
    return "json", "list.json"


def json_lines(folder, text):
    (folder / "lines.jsonl").write_text(f"{good(0)}\n{text}\n{good(2)}\n")
    return "json", "lines.jsonl"


def tar(folder, text):
    with tarfile.open(folder / "one.tar", "w") as archive:
        for index, words in enumerate((good(0), text, good(2))):
            photos.add(archive, f"{index}.jpg", jpeg(index))
            photos.add(archive, f"{index}.json", words.encode())
    return "tar", "one.tar"


@pytest.mark.parametrize("write", [json_list, json_lines, tar])
@pytest.mark.parametrize(
    "text",
    [
        DEEP,
        VERY_DEEP,
        DIGITS,
        f'{{"deep": {DEEP}, "end": "}}]\\""}}',
        f'{{"width": {DIGITS}}}',
        "3",
        '"x"',
        "null",
        "[]",
    ],
    ids=["deep", "very deep", "digits", "deep in a record", "digits in a record", "number", "text", "null", "list"],
)
def test_json_that_python_refuses_spoils_its_own_record(tmp_path, write, text):
    photos.write_images(tmp_path)
    form, files = write(tmp_path, text)
    found = open_source(source(tmp_path, files, format=form))
    assert len(found) == 3 and [content(found[index]) for index in (0, 2)] == [jpeg(0), jpeg(2)]
    for read in (found.__getitem__, found.head):
        with pytest.raises(DataError) as error:
            read(1)
        assert str(error.value).count(f"{files}[1]") == 1 and len(str(error.value)) < 300


@pytest.mark.parametrize("write", [json_lines, tar])  # of a list, an element without an end refuses the file
@pytest.mark.parametrize(
    ("text", "message"),
    [
        (DEEP, "is nested more than 200 deep"),
        (f'{{"width": {DIGITS}}}', "has '999.* in line 1, expected a finite number"),
        ('{"caption": }', r"is no JSON \(line 1, column 13"),
    ],
    ids=["deep", "digits", "no json"],
)
def test_one_reader_says_what_is_wrong_with_a_record(tmp_path, write, text, message):
    photos.write_images(tmp_path)
    form, files = write(tmp_path, text)
    with pytest.raises(DataError, match=message):
        open_source(source(tmp_path, files, format=form))[1]


def test_a_record_may_hold_nan(tmp_path):
    photos.write_images(tmp_path)
    form, files = json_lines(tmp_path, json.dumps(fields(1) | {"score": float("nan"), "caption": float("nan")}))
    assert list(open_source(source(tmp_path, files, format=form))[1].captions) == ["re_caption"]


def packed(**changes):
    """A record whose header is changed; a value of None takes the key away."""
    whole = pack(photos.record(1))
    (length,) = LENGTH.unpack_from(whole)
    header = json.loads(whole[4 : 4 + length]) | changes
    text = json.dumps({key: value for key, value in header.items() if value is not None}).encode()
    return LENGTH.pack(len(text)) + text + whole[4 + length :]


@pytest.mark.parametrize(
    "record",
    [
        b"",
        b"\0\0",
        struct.pack("<I", 1 << 31) + b"{}",
        packed(id=7),
        packed(id=["a"]),
        packed(captions=["a", "b"]),
        packed(captions={"caption": "text"}),
        packed(captions={"caption": [3]}),
        packed(captions=None),
        packed(turns=[["question"]]),
        packed(turns=[[1, 2]]),
        packed(turns={"a": "b"}),
        packed(answers="text"),
        packed(size=[1]),
        packed(size=["80", "120"]),
        packed(size=[0, 10**400]),
        packed(image=-5),
        packed(image="all"),
        packed(arrays=[["latent_mean", "float32", [-1, 4]]]),
        packed(arrays=[["latent_mean", "float32", [10**12]]]),
        packed(arrays=[["latent_mean", "object", [1]]]),
        packed(arrays=7),
        json.dumps([1]).encode(),
    ],
    ids=lambda data: repr(data[4:60]),
)
def test_a_record_of_an_array_record_file_that_nobody_packed(tmp_path, record):
    for name in "ab":
        writer = array_record_module.ArrayRecordWriter(str(tmp_path / f"{name}.array_record"), "group_size:1")
        for data in (pack(photos.record(0)), record, pack(photos.record(2))):
            writer.write(data)
        writer.close()
    found = open_source(source(tmp_path, "*.array_record", format="array_record"))
    assert [found[index].record_id for index in (0, 2, 5)] == ["photo 0", "photo 2", "photo 2"]
    for index, name in ((1, "a"), (4, "b")):  # each names its own file
        with pytest.raises(DataError) as error:
            found[index]
        assert f"{name}.array_record[1]" in str(error.value) or "photo 1" in str(error.value)


@pytest.mark.parametrize("error", [ValueError("x"), RecursionError(), MemoryError(), OSError(5, "I/O"), UserError("y")])
def test_every_exception_in_reading_a_record_is_its_fault(error):
    with pytest.raises(DataError, match="rec 7") as found, blame("rec 7"):
        raise error
    assert found.value.cause == UNREADABLE


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, GeneratorExit])
def test_what_ends_a_run_passes(error):
    with pytest.raises(error), blame("rec 7"):
        raise error


def test_a_fault_keeps_its_cause_and_its_message_stays_short():
    with pytest.raises(DataError, match="^old$") as found, blame("rec 7"):
        raise DataError(EMPTY, "old")
    assert found.value.cause == EMPTY
    message = str(DataError(EMPTY, "\ud83d" + "x" * 5000))
    assert len(message) == 1000 and message.startswith("\ufffdx")


IMAGES = [
    ("x" * 300, WRONG_TYPE, "should be the path of a file"),
    ("iVBOR/w0KGgo" * 500, WRONG_TYPE, "should be the path of a file"),
    ("data:image/png;base64,iVBORw0KGgo=", WRONG_TYPE, "should be the path of a file, found 'data:image"),
    ("https://example.com/1.jpg", WRONG_TYPE, "should be the path of a file"),
    ("images/\0.jpg", WRONG_TYPE, "should be the path of a file"),
    ("", EMPTY, "image_path is empty"),
    (None, EMPTY, "image_path is empty"),
    (float("nan"), WRONG_TYPE, "should be text, found nan"),
    ([], WRONG_TYPE, "names 0 images; give one"),
    (["images/1.jpg", "images/2.jpg"], WRONG_TYPE, "names 2 images; give one"),
    ({"bytes": None, "path": None}, WRONG_TYPE, "should be text, found None"),
    ({"bytes": "iVBOR/" * 900}, WRONG_TYPE, "should be the path of a file"),
    ("../images/1.jpg", OUTSIDE, "leaves the root: '../images/1.jpg'"),
    ("images/../../1.jpg", OUTSIDE, "leaves the root"),
    ("link/../secret.jpg", OUTSIDE, "leaves the root"),
]


@pytest.mark.parametrize(("value", "cause", "message"), IMAGES, ids=[repr(value)[:30] for value, _, _ in IMAGES])
def test_what_is_no_path_in_the_root_is_one_bad_record(tmp_path, value, cause, message):
    root = tmp_path / "root"
    photos.write_images(root)
    (tmp_path / "other" / "folder").mkdir(parents=True)
    (root / "link").symlink_to(tmp_path / "other" / "folder")
    records = [fields(0) | {"image_path": value}, fields(1)]  # the first, which is looked at when the source is opened
    (root / "list.json").write_text(json.dumps(records))
    found = open_source(source(root, "list.json"))
    assert content(found[1]) == jpeg(1)
    with pytest.raises(DataError, match=message) as error:
        found[0]
    assert error.value.cause == cause and "list.json[0]" in str(error.value) and len(str(error.value)) < 300


@pytest.mark.parametrize(
    "path",
    [
        "images/1.jpg",
        "images/../images/1.jpg",
        "./images//1.jpg",
        ["images/1.jpg"],
        "link/1.jpg",
        "{root}/images/1.jpg",
    ],
)
def test_paths_that_stay_in_the_root_or_are_absolute_or_follow_a_link(tmp_path, path):
    root = tmp_path / "root"
    photos.write_images(root)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "1.jpg").write_bytes(jpeg(1))
    (root / "link").symlink_to(tmp_path / "other")
    path = path.format(root=root) if isinstance(path, str) else path
    (root / "list.json").write_text(json.dumps([fields(0) | {"image_path": path}]))
    assert content(open_source(source(root, "list.json"))[0]) == jpeg(1)


def test_a_source_may_allow_images_outside_its_root(tmp_path):
    photos.write_images(tmp_path)
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / "list.json").write_text(json.dumps([fields(0) | {"image_path": "../images/1.jpg"}]))
    given = source(tmp_path / "root", "list.json", allow_outside_root=True)
    assert content(open_source(given)[0]) == jpeg(1)


@pytest.mark.parametrize("empty", [None, "", " ", [], [None, ""], float("nan"), "absent"])
def test_a_caption_that_is_null_or_absent_counts_as_empty(tmp_path, empty):
    photos.write_images(tmp_path)
    one, none = fields(0) | {"caption": empty}, fields(1) | {"caption": empty, "re_caption": empty}
    if empty == "absent":
        del one["caption"], none["caption"], none["re_caption"]
    (tmp_path / "list.json").write_text(json.dumps([one, none]))
    found = open_source(source(tmp_path, "list.json"))
    assert found[0].captions == {"re_caption": (fields(0)["re_caption"],)}
    with pytest.raises(DataError) as error:
        found[1]
    assert error.value.cause == (ABSENT_KEY if empty == "absent" else EMPTY)


def test_the_first_wording_with_text_is_the_question_and_the_answer(tmp_path):
    photos.write_images(tmp_path)
    records = [fields(0) | {"question": [None, "", "what?"], "answer": ["", "a", "b"]}, fields(1) | {"answer": None}]
    (tmp_path / "list.json").write_text(json.dumps(records))
    found = open_source(source(tmp_path, "list.json", task="instruction"))
    assert found[0].turns == (Turn("what?", "a"),) and found[0].answers == ("a", "b")
    with pytest.raises(DataError, match="answer is empty"):
        found[1]


def test_each_parquet_file_has_columns_of_its_own(tmp_path):
    rows = [fields(index) | {"image_path": {"bytes": jpeg(index), "path": None}} for index in range(3)]
    tables = [
        [{k: v for k, v in row.items() if k != gone}]
        for row, gone in zip(rows, ("caption", "re_caption", "image_path"), strict=True)
    ]
    for name, table in zip("abc", tables, strict=True):
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(table), tmp_path / f"{name}.parquet")
    found = open_source(source(tmp_path, "*.parquet", format="parquet"))
    assert [list(found[index].captions) for index in (0, 1)] == [["re_caption"], ["caption"]]
    with pytest.raises(DataError, match=r"c.parquet\[2\] has no key image_path") as error:
        found[2]
    assert error.value.cause == ABSENT_KEY


HALF = "half \ud83d"


def test_text_that_is_no_unicode_is_mended_at_the_border_of_a_record():
    record = Record(
        HALF, captions={HALF: (HALF, "fine")}, turns=(Turn(HALF, "a"), Turn("q", HALF)), answers=(HALF,), size=(1, 2)
    )
    mended = "half \ufffd"
    assert record == Record(
        mended,
        captions={mended: (mended, "fine")},
        turns=(Turn(mended, "a"), Turn("q", mended)),
        answers=(mended,),
        size=(1, 2),
    )


@pytest.mark.parametrize("write", [json_list, json_lines, tar])
def test_half_a_letter_in_a_caption_is_replaced(tmp_path, write):
    photos.write_images(tmp_path)
    form, files = write(tmp_path, json.dumps(fields(1) | {"caption": HALF, "re_caption": [HALF, "\ud83d\ude00"]}))
    found = open_source(source(tmp_path, files, format=form))
    assert found[1].captions == {"caption": ("half \ufffd",), "re_caption": ("half \ufffd", "\U0001f600")}


@pytest.mark.parametrize(
    ("value", "is_size"),
    [(120, True), (np.int64(120), True), (10**400, False), (-3, False), (True, False), ("9", False)],
)
def test_a_size_that_no_image_has_is_no_size(value, is_size):
    from dualdiff_jax.data.records.fields import _size

    assert _size({"height": value, "width": 80}) == ((120, 80) if is_size else None)


@pytest.mark.parametrize("rest", ['[{"a": 1}]', "\0\0\0", "]", "{"])
def test_what_follows_the_end_of_a_list_is_not_left_out_silently(tmp_path, rest):
    photos.write_images(tmp_path)
    (tmp_path / "list.json").write_text(f"[{good(0)}]\n {rest}")
    with pytest.raises(UserError, match=r"list.json: goes on at byte \d+, after the end of its list"):
        open_source(source(tmp_path, "list.json"))
    (tmp_path / "list.json").write_text(f"[{good(0)}]\n \r\n")
    assert len(open_source(source(tmp_path, "list.json"))) == 1


def test_no_line_and_no_element_is_read_for_ever(tmp_path, monkeypatch):
    for name in ("lines.jsonl", "list.json"):
        (tmp_path / name).write_text("[" if name == "list.json" else "")
        os.truncate(tmp_path / name, 60 << 30)
        with pytest.raises(UserError, match=f"{name}: "):
            open_source(source(tmp_path, name))
    monkeypatch.setattr(ranges, "LONGEST", 300)
    photos.write_images(tmp_path)
    json_list(tmp_path, json.dumps(fields(1) | {"caption": "x" * 400}))
    with pytest.raises(DataError) as error:
        open_source(source(tmp_path, "list.json"))[1]
    assert error.value.cause == OVERSIZED


@pytest.mark.parametrize(
    "content", [DEEP, VERY_DEEP, DIGITS, f'{{"a": [{DEEP}, 1], "b": {DIGITS}}}', f'[{{"k": {DEEP}}}]']
)
def test_a_whole_json_file_loses_only_what_python_refuses(tmp_path, content):
    (tmp_path / "a.json").write_text(content)
    found = load(tmp_path / "a.json")
    json.dumps(found)
    if content[0] == "{" and content != VERY_DEEP:
        assert found == {"a": [None, 1], "b": None}


@pytest.mark.parametrize(
    "content", [b"", b"[", b'{"a": ', DEEP[:-1].encode(), b"[" + DEEP.encode() + b", nul]", b"\xff\xfe\xfa"]
)
def test_what_is_no_json_is_refused(tmp_path, content):
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(UserError, match="a.json: is not JSON"):
        load(tmp_path / "a.json")


@pytest.mark.parametrize("files", ["{0..99999999999999999999}.tar", "{0..99999999}.tar"])
def test_a_pattern_of_more_files_than_there_can_be_is_refused(tmp_path, files):
    with pytest.raises(UserError, match="are more than 10000000; name fewer"):
        open_source(source(tmp_path, files, format="tar"))
