"""One wrong entry in a publisher's file is one bad record, and the others are read."""

import json

import pytest

from dualdiff_jax.data.records.record import DataError
from dualdiff_jax.errors import UserError
from tests.unit.data.test_official import opened, put_image, put_json

DEEP = "[" * 3000 + "]" * 3000
DIGITS = "7" * 5000


def gqa(root, **entries):
    """``entries``: id -> what replaces parts of a good question; a str is the question's JSON."""
    good = {"imageId": "1", "question": "what?", "answer": "two"}
    parts = [
        f'"{key}": {value if isinstance(value, str) else json.dumps(good | value)}' for key, value in entries.items()
    ]
    (root / "train_balanced_questions.json").write_text("{" + ", ".join(parts) + "}", encoding="latin-1")
    put_image(root, "images/1.jpg")


def outcomes(source):
    """The answer of each record, or the message of its fault."""
    found = []
    for index in range(len(source)):
        try:
            found.append(source[index].turns[0].answer)
        except DataError as error:
            found.append(str(error))
    return found


@pytest.mark.parametrize(
    ("entry", "outcome"),
    [
        ({"answer": 3}, "3"),
        ({"answer": 2.5}, "2.5"),
        ({"answer": None}, "has no answer"),
        ({"answer": ["two"]}, "expected text, found ['two']"),
        ({"answer": True}, "expected text, found True"),
        ({"question": None}, "has no question"),
        ({"question": {"text": "q"}}, "expected text, found {'text': 'q'}"),
        ({"imageId": ["1"]}, "expected text, found ['1']"),
        ({"imageId": "../../1"}, "leaves the root"),
        ({"answer": "half \ud83d"}, "half \ufffd"),
        ('{"question": "no image"}', "KeyError('imageId')"),
        ("null", "is not as its publisher writes it"),
        ("7", "is not as its publisher writes it"),
        (f'{{"imageId": "1", "question": "q", "answer": "a", "deep": {DEEP}}}', "is not as its publisher writes it"),
        (f'{{"imageId": "1", "question": "q", "answer": {DIGITS}}}', "is not as its publisher writes it"),
        ('{"imageId": "1", "question": "q", "answer": "caf\xe9"}', "is not as its publisher writes it"),  # no UTF-8
    ],
    ids=lambda value: str(value)[:60],
)
def test_one_entry_of_gqa(tmp_path, entry, outcome):
    gqa(tmp_path, a={}, b=entry, c={"answer": "three"})
    found = outcomes(opened(tmp_path, "gqa"))
    assert found[0] == "two" and found[2] == "three"
    assert found[1] == outcome or (outcome in found[1] and "gqa/train_balanced[" in found[1])
    assert len(found[1]) < 400


def test_a_file_without_any_good_entry_is_refused(tmp_path):
    gqa(tmp_path, a={"imageId": []}, b="null")
    with pytest.raises(
        UserError, match="train_balanced_questions.json: not as its publisher writes it; the last of its"
    ):
        opened(tmp_path, "gqa")


def test_vqa_joins_what_it_can(tmp_path, caplog):
    question = {"image_id": 1, "question": "what?"}
    questions: list = [question | {"question_id": n} for n in range(5)] + [
        question,
        4,
        question | {"question_id": None},
    ]
    questions[1]["image_id"] = "one"
    answers = [{"answer": "two"}, {"answer": None}, {"answer": ""}]
    annotations: list = [{"question_id": n, "answers": answers} for n in range(4)] + [{"answers": answers}, None]
    annotations[2]["multiple_choice_answer"] = 6
    annotations[3]["answers"] = None
    annotations[4] = {"question_id": 4, "multiple_choice_answer": "four", "answers": None}
    put_json(tmp_path, "v2_OpenEnded_mscoco_train2014_questions.json", {"questions": questions})
    put_json(tmp_path, "v2_mscoco_train2014_annotations.json", {"annotations": annotations})
    put_image(tmp_path, "train2014/COCO_train2014_000000000001.jpg")
    source = opened(tmp_path, "vqa_v2")
    found = outcomes(source)
    assert found[0] == "two" and found[2] == "6" and found[4] == "four" and source[0].answers == ("two", "", "")
    assert all("vqa_v2/train[" in found[n] for n in (1, 3, 5, 6, 7))
    assert "annotations.json: 1 annotations have no question_id and are left out" in caplog.text


@pytest.mark.parametrize(
    "spoilt", [f'"extra": {DEEP}', f'"extra": {DIGITS}', '"extra": "\xff"'], ids=["deep", "digits", "bytes"]
)
def test_what_python_cannot_parse_spoils_nothing_around_it(tmp_path, spoilt):
    entries = [f'{{"image": "1.jpg", "question": "q", "answers": [{{"answer": "{word}"}}]}}' for word in ("one", "two")]
    entries.insert(1, f'{{"image": "1.jpg", "question": "q", {spoilt}, "answers": [{{"answer": "]}}\\""}}]}}')
    put_image(tmp_path, "train/1.jpg")
    (tmp_path / "Annotations").mkdir()
    (tmp_path / "Annotations/train.json").write_text(f"[{', '.join(entries)}]", encoding="latin-1")
    assert outcomes(opened(tmp_path, "vizwiz")) == ["one", ']}"', "two"]


@pytest.mark.parametrize(
    ("answers", "outcome"),
    [
        (None, "has no answer"),
        ([" ", None, "", "a"], "a"),
        ([" "], "has no answer"),
        ("abc", "expected a list of answers"),
    ],
)
def test_answers_that_are_null_blank_or_no_list(tmp_path, answers, outcome):
    good = {"question_id": 1, "image_id": "1", "question": "q", "answers": ["two"]}
    put_json(tmp_path, "TextVQA_0.5.1_train.json", {"data": [good, good | {"answers": answers}]})
    put_image(tmp_path, "train_images/1.jpg")
    found = outcomes(opened(tmp_path, "textvqa"))
    assert found[0] == "two" and (found[1] == outcome or (len(outcome) > 1 and outcome in found[1]))


def test_files_without_records_are_named(tmp_path):
    put_json(tmp_path, "TextVQA_0.5.1_train.json", {"data": {}})
    with pytest.raises(UserError, match="^TextVQA_0.5.1_train.json: holds no records"):
        opened(tmp_path, "textvqa")


def test_a_line_of_pope_and_a_caption_of_coco(tmp_path):
    good = json.dumps({"question_id": 1, "image": "1.jpg", "text": "q \u2028 q", "label": "yes"}, ensure_ascii=False)
    (tmp_path / "coco_pope_popular.json").write_bytes(good.encode() + b"\n{\n" + b'{"text": "caf\xe9"}\n\n')
    put_image(tmp_path, "val2014/1.jpg")
    found = outcomes(opened(tmp_path, "pope", split="popular"))
    assert found[0] == "yes" and len(found) == 3 and all("pope/popular[number" in text for text in found[1:])
    images = [{"id": n, "file_name": "1.jpg", "height": 4, "width": 4} for n in range(2)] + [{"id": 3}]
    images[1]["height"] = None
    captions = [{"image_id": 0, "caption": None}, {"image_id": 0, "caption": "a"}, {"image_id": 1, "caption": "b"}, 7]
    put_json(tmp_path, "annotations/captions_val2014.json", {"images": images, "annotations": captions})
    source = opened(tmp_path, "coco_captions", split="val")
    assert source[0].captions == {"caption": ("a",)} and source[0].size == (4, 4)
    assert source[1].captions == {"caption": ("b",)} and source[1].size is None
    with pytest.raises(DataError, match="number 2.*KeyError"):
        source[2]
