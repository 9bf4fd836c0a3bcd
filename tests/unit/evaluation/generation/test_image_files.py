"""The folder of a drawing: its list of images, and what --overwrite removes."""

import json

import pytest

from dualdiff_jax.errors import UserError
from dualdiff_jax.evaluation.generation.image_files import ImageFiles, check_apart, listing_file, read_listing
from dualdiff_jax.evaluation.generation.prompts import Prompt

FOUND = {"task": "geneval", "settings": {}, "data": {}}
NAME = "00000/samples/0000.png"
PROMPTS = [Prompt("00000", "a cat", "00000/samples", metadata={"tag": "counting"})]


def begin(folder, *, overwrite, prompt="a cat"):
    files = ImageFiles("geneval", folder)
    try:
        return files.begin(FOUND, PROMPTS, [{"image": NAME, "prompt": prompt, "seed": 1}], overwrite)
    finally:
        files.close()


@pytest.mark.parametrize("prompt", ["a cat\u2028on a mat", "a cat\u2029", "a\u0085cat"])
def test_a_prompt_with_a_unicode_line_break_is_one_line(tmp_path, prompt):
    begin(tmp_path, overwrite=False, prompt=prompt)
    with listing_file(tmp_path / "geneval").open("a") as file:
        file.write("\n")
    assert read_listing(tmp_path / "geneval") == {NAME: prompt}


def test_overwrite_removes_what_a_drawing_wrote(tmp_path):
    begin(tmp_path, overwrite=False)
    for name in (NAME, "00000/samples/.0000.png.partial"):
        (tmp_path / "geneval" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "geneval" / name).write_bytes(b"image")
    assert NAME in begin(tmp_path, overwrite=False)
    assert not begin(tmp_path, overwrite=True)
    assert [file.name for file in (tmp_path / "geneval").rglob("*") if file.is_file()] == ["metadata.jsonl"]


@pytest.mark.parametrize("is_drawn", [True, False])
def test_overwrite_leaves_the_files_of_others(tmp_path, is_drawn):
    if is_drawn:
        begin(tmp_path, overwrite=False)
    theirs = tmp_path / "geneval/evaluation_metadata.jsonl"
    theirs.parent.mkdir(exist_ok=True)
    theirs.write_text(json.dumps({"tag": "counting"}))
    with pytest.raises(UserError, match=r"holds other files.*such as evaluation_metadata.jsonl; name another --output"):
        begin(tmp_path, overwrite=True)
    assert theirs.is_file()


def test_images_and_data_have_folders_of_their_own(tmp_path):
    check_apart(tmp_path / "out/geneval", tmp_path / "data/geneval")
    check_apart(tmp_path / "geneval", tmp_path)
    for data in (tmp_path / "geneval", tmp_path / "geneval/prompts"):
        with pytest.raises(UserError, match="name another --output"):
            check_apart(tmp_path / "out/../geneval", data)
