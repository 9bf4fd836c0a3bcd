"""Images of the official sets under other endings than their publishers', and the kinds of questions."""

from PIL import Image

from dualdiff_jax.data.formats.official_source import OfficialTable
from dualdiff_jax.data.records.index import IndexCache
from tests.unit.data.test_official import gqa_question, opened, put_image, put_json, write_vqa_v2


def test_a_folder_of_png_files_stands_for_one_of_jpg(tmp_path):
    write_vqa_v2(tmp_path, "val")
    put_image(tmp_path, "val2014/COCO_val2014_000000262146.jpg")
    for file in (tmp_path / "val2014").iterdir():
        Image.open(file).save(file.with_suffix(".png"))
        file.unlink()
    found = opened(tmp_path, "vqa_v2", split="val")
    assert [found[index].image.name for index in (0, 2)] == [
        "COCO_val2014_000000458752.png",
        "COCO_val2014_000000262146.png",
    ]
    assert all(found[index].image.is_file() for index in range(3))


def test_an_image_that_is_nowhere_keeps_its_publishers_name(tmp_path):
    write_vqa_v2(tmp_path, "val")
    (tmp_path / "val2014/COCO_val2014_000000458752.jpg").unlink()
    table = OfficialTable("vqa_v2", str(tmp_path), "val", "", IndexCache())
    assert table.row(0)[2].name == "COCO_val2014_000000458752.jpg"
    put_image(tmp_path, "val2014/COCO_val2014_000000458752.jpeg")
    assert table.row(0)[2].name == "COCO_val2014_000000458752.jpeg"


def test_rows_have_the_kinds_of_their_questions(tmp_path):
    write_vqa_v2(tmp_path, "val")
    table = OfficialTable("vqa_v2", str(tmp_path), "val", "", IndexCache())
    assert table.row(0)[1]["types"] == {"answer_type": "other", "question_type": "what"}
    kinds = {"types": {"structural": "verify", "semantic": "attr", "detailed": "existAttrC"}}
    put_json(tmp_path, "testdev_balanced_questions.json", {"1": gqa_question("2", "Is it?", "yes") | kinds})
    table = OfficialTable("gqa", str(tmp_path), "testdev", "", IndexCache())
    assert table.row(0)[1]["types"] == {"structural": "verify", "semantic": "attr"}
