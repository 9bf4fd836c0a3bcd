"""Every fault of a JSON text is one sentence that names the file and the place."""

import json
import os

import pytest

from dualdiff_jax.errors import QUOTED, UserError
from dualdiff_jax.json_files import DEEPEST, checked, field, parse_json, read_json, read_object

GOOD = [
    "null",
    "[]",
    "-0",
    "3",
    "-1.5e-3",
    '{"a": [1, {"b": "\\ud83d\\ude00"}], "c": true}',
    "1" * 300,
    "1e308",
    '"1e999"',
]
BAD = {
    "": "line 1, column 1",
    "{": "is no JSON",
    '{"a": 1,\n "b" 2}': "line 2, column 6",
    '["a\nb"]': "is no JSON",
    "[1] [2]": "is no JSON",
    "[1,\nNaN]": "has 'NaN' in line 2, expected a finite number",
    "[-Infinity]": "has '-Infinity' in line 1",
    "[1e400]": "has '1e400' in line 1",
    f'{{"a":\n{"7" * 5000}}}': "7' in line 2, expected a finite number",
    "1" + "0" * 400: "in line 1, expected a finite number",
    "-" + "9" * 309: "in line 1, expected a finite number",
    "[" * (DEEPEST + 1) + "]" * (DEEPEST + 1): f"nested more than {DEEPEST} deep",
    '{"a":' * 1500 + "1" + "}" * 1500: "nested more than",
    "[" * 200_000: "nested more than",
}
BAD_BYTES = {
    b'["caf\xe9"]': "is no utf-8 text at byte 5",
    b'{"a": "\xed\xa0\x80"}': "is no utf-8 text at byte 7",
    b"\xff\xfe[\x00": "is no JSON",
    b"\xff\xfe[\x00\xd8": "is no utf-16-le text",
    b"\x00\x00": "is no",
}


@pytest.mark.parametrize("text", GOOD)
def test_good_json_is_what_the_standard_library_reads(text):
    assert parse_json(text, "x") == json.loads(text)
    assert type(parse_json(text.encode(), "x")) is type(json.loads(text))


@pytest.mark.parametrize("text", BAD)
def test_a_fault_is_named_with_its_place(text):
    with pytest.raises(UserError, match="^some file: ") as error:
        parse_json(text, "some file")
    assert BAD[text] in str(error.value) and len(str(error.value)) < QUOTED + 100


@pytest.mark.parametrize("data", BAD_BYTES)
def test_bytes_that_are_no_text_are_refused(data):
    with pytest.raises(UserError, match=f"^x: .*{BAD_BYTES[data]}"):
        parse_json(data, "x")


def test_the_deepest_value_and_other_encodings_are_read():
    text = "[" * DEEPEST + "]" * DEEPEST
    assert json.dumps(parse_json(text, "x")) == text
    for encoding in ("utf-8-sig", "utf-16", "utf-32"):
        assert parse_json('["é"]'.encode(encoding), "x") == ["é"]


def test_not_a_number_is_read_where_it_is_allowed():
    value = parse_json("[NaN, -Infinity, 1]", "x", allow_nan=True)
    assert value[0] != value[0] and value[1:] == [float("-inf"), 1]


def test_a_file_is_checked_before_it_is_read(tmp_path):
    file = tmp_path / "a.json"
    file.write_text('{"a": 3}')
    assert read_json(file) == read_object(file) == {"a": 3}
    with pytest.raises(UserError, match="a.json: has 8 bytes, more than the 7 that"):
        read_json(file, largest=7)
    os.truncate(file, 60 << 30)
    os.mkfifo(tmp_path / "fifo")
    for path in (file, tmp_path / "fifo", tmp_path, tmp_path / "nothing", "/dev/zero"):
        with pytest.raises(UserError, match=f"^{path}: "):
            read_json(path)
    file.write_text("[1]")
    with pytest.raises(UserError, match=r"a.json: found \[1], expected an object"):
        read_object(file)


@pytest.mark.parametrize(
    ("value", "kind", "message"),
    [
        (3, dict, "x: found 3, expected an object"),
        ("vae", list, "x: found 'vae', expected a list"),
        (None, str, "x: found None, expected a text"),
        (True, int, "x: found True, expected a whole number"),
        (2.5, int, "x: found 2.5, expected a whole number"),
        (True, float, "x: found True, expected a number"),
        ({"a": 1}, float, "x: found {'a': 1}, expected a number"),
        (0, bool, "x: found 0, expected true or false"),
    ],
)
def test_a_value_of_another_type_is_named(value, kind, message):
    with pytest.raises(UserError) as error:
        checked(value, kind, "x")
    assert str(error.value) == message


def test_fields_are_checked_and_whole_numbers_are_numbers():
    content = {"a": 3, "b": "text"}
    assert field(content, "a", int, "f") == 3 and type(field(content, "a", float, "f")) is float
    with pytest.raises(UserError, match="^f: b: found 'text', expected a list$"):
        field(content, "b", list, "f")
    with pytest.raises(UserError, match="^f: lacks 'c', expected an object$"):
        field(content, "c", dict, "f")
