"""The list of a folder of pictures: captions beside them, what is left out, and what is refused."""

import os

import pytest
from PIL import Image

from dualdiff_jax.cli import pictures
from dualdiff_jax.cli.pictures import list_images
from dualdiff_jax.data.picture_list import list_pictures
from dualdiff_jax.errors import UserError


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "more").mkdir()
    Image.new("RGB", (6, 4)).save(tmp_path / "b.png")
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned
    Image.new("RGB", (30, 20)).save(tmp_path / "more" / "a.jpg", exif=exif)
    return tmp_path


def test_captions_are_those_beside_the_pictures_else_the_one_of_all(folder):
    (folder / "b.txt").write_bytes("\ufeffa  red\nthing \udce9".encode("utf-8", "surrogatepass"))
    (folder / ".hidden.png").write_bytes(b"")
    found = list_pictures(folder, "of mine")
    assert [record["image_path"] for record in found.records] == ["b.png", "more/a.jpg"]
    assert found.records[0]["caption"].startswith("a red thing") and found.records[1]["caption"] == "of mine"
    assert (found.records[1]["height"], found.records[1]["width"]) == (30, 20)  # upright
    assert found.left_out == []


def test_pictures_that_cannot_be_read_are_left_out_by_name(folder):
    (folder / "broken.png").write_bytes((folder / "b.png").read_bytes()[:40])
    (folder / "phone.HEIC").write_bytes(b"x")
    found = list_pictures(folder, "of mine")
    assert len(found.records) == 2
    assert any("broken.png" in fault for fault in found.left_out)
    assert "phone.HEIC: is HEIC; export it as JPEG" in found.left_out


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda folder: None, "2 pictures have no caption, such as 'b.png'; give --text.* 'b.txt'"),
        (lambda folder: (folder / "b.txt").write_text(" \n"), r"b\.txt: is empty"),
        (lambda folder: [file.unlink() for file in (folder / "b.png", folder / "more" / "a.jpg")], "holds no pictures"),
    ],
)
def test_what_is_missing_is_named(folder, spoil, message):
    spoil(folder)
    with pytest.raises(UserError, match=message):
        list_pictures(folder, None)


def test_no_folder_is_named(tmp_path):
    with pytest.raises(UserError, match="there is no such folder"):
        list_pictures(tmp_path / "photos", "x")


def test_a_list_that_is_there_is_not_replaced_unasked(folder, capsys):
    list_images(str(folder), ["of mine"], overwrite=False, as_json=True)
    before = (folder / "metadata.json").read_text()
    with pytest.raises(UserError, match=r"metadata\.json: exists; give --overwrite"):
        list_images(str(folder), ["of yours"], overwrite=False, as_json=True)
    assert (folder / "metadata.json").read_text() == before
    list_images(str(folder), ["of yours"], overwrite=True, as_json=True)
    assert "of yours" in (folder / "metadata.json").read_text()
    with pytest.raises(UserError, match="give it once"):
        list_images(str(folder), ["a", "b"], overwrite=True, as_json=True)
    assert '"pictures": 2' in capsys.readouterr().out


def test_a_folder_that_cannot_be_written_is_named_before_the_pictures_are_read(folder, monkeypatch):
    monkeypatch.setattr(pictures, "is_writable", lambda folder: False)
    monkeypatch.setattr(pictures, "list_pictures", None)
    with pytest.raises(UserError, match="cannot be written, and the list is kept there; make the folder writable"):
        list_images(str(folder), ["a photo"], overwrite=False, as_json=True)


def test_a_picture_whose_name_is_no_text_is_left_out(tmp_path):
    for name in (b"whole.png", b"caf\xe9.png"):
        Image.new("RGB", (4, 4)).save(os.fsdecode(os.fsencode(tmp_path) + b"/" + name), "PNG")
    found = list_pictures(tmp_path, "a photo")
    assert [record["image_path"] for record in found.records] == ["whole.png"]
    assert found.left_out == [r"'caf\udce9.png': its name is no valid text; rename it"]
