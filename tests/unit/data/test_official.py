"""Tiny files in the publishers' schemas give the right ids, images and answers, joined by id, not by order."""

import json
import random

import pytest

from configs import demo
from dualdiff_jax.config.resolve import resolve
from dualdiff_jax.data.formats.registry import open_source
from dualdiff_jax.data.records.record import ABSENT_KEY, EMPTY, OUTSIDE, WRONG_TYPE, DataError, Turn
from dualdiff_jax.errors import UserError
from tests.unit.data import photos
from tests.unit.data.photos import source


def put_image(root, path, index=0):
    (root / path).parent.mkdir(parents=True, exist_ok=True)
    (root / path).write_bytes(photos.jpeg(index))


def put_json(root, name, content):
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    (root / name).write_text(json.dumps(content))


def ten(*answers):
    """Annotators' answers as VQA has them: each of ``answers``, (text, how many)."""
    texts = [text for text, count in answers for _ in range(count)]
    return [{"answer": t, "answer_confidence": "yes", "answer_id": i + 1} for i, t in enumerate(texts)]


def opened(root, form, **changes):
    task = "captioning" if form == "coco_captions" else "instruction"
    keys = dict(caption_keys=("caption",), caption_weights=(1.0,))
    return open_source(source(root, "", format=form, task=task, **keys, **changes))


def write_vqa_v2(root, split="train"):
    questions = [
        {"image_id": 458752, "question": "What is this photo taken looking through?", "question_id": 458752000},
        {"image_id": 458752, "question": "What position is this man playing?", "question_id": 458752001},
        {"image_id": 262146, "question": "What color is the snow?", "question_id": 262146000},
    ]
    annotations = [
        {
            "question_type": "what",
            "multiple_choice_answer": word,
            "answers": ten((word, 6), ("other", 4)),
            "image_id": q["image_id"],
            "answer_type": "other",
            "question_id": q["question_id"],
        }
        for q, word in zip(questions, ("net", "pitcher", "white"), strict=True)
    ]
    random.Random(0).shuffle(annotations)
    assert [a["question_id"] for a in annotations] != [q["question_id"] for q in questions]
    head = {"info": {}, "task_type": "Open-Ended", "data_type": "mscoco", "license": {}, "data_subtype": f"{split}2014"}
    put_json(root, f"v2_OpenEnded_mscoco_{split}2014_questions.json", head | {"questions": questions})
    put_json(root, f"v2_mscoco_{split}2014_annotations.json", head | {"annotations": annotations})
    put_image(root, f"{split}2014/COCO_{split}2014_000000458752.jpg")


def test_vqa_v2(tmp_path):
    write_vqa_v2(tmp_path)
    found = opened(tmp_path, "vqa_v2")
    assert [found[i].turns[0].answer for i in range(3)] == ["net", "pitcher", "white"]
    record = found[1]
    assert record.record_id == "vqa_v2/train[458752001]"
    assert record.turns == (Turn("What position is this man playing?", "pitcher"),)
    assert record.answers == ("pitcher",) * 6 + ("other",) * 4
    assert record.image == tmp_path / "train2014/COCO_train2014_000000458752.jpg"


def test_vqa_v2_of_validation_and_of_the_test_server(tmp_path):
    write_vqa_v2(tmp_path, "val")
    assert opened(tmp_path, "vqa_v2", split="val")[0].image.name == "COCO_val2014_000000458752.jpg"
    questions = [{"image_id": 1, "question": "Is it?", "question_id": 1000}]
    put_json(tmp_path, "v2_OpenEnded_mscoco_test-dev2015_questions.json", {"questions": questions})
    put_image(tmp_path, "test2015/COCO_test2015_000000000001.jpg")
    record = opened(tmp_path, "vqa_v2", split="test-dev")[0]
    assert (record.turns, record.answers) == ((Turn("Is it?", ""),), ())
    assert record.image.is_file()


def test_a_question_without_its_annotation_is_a_bad_record(tmp_path):
    write_vqa_v2(tmp_path)
    file = tmp_path / "v2_mscoco_train2014_annotations.json"
    kept = [a for a in json.loads(file.read_text())["annotations"] if a["question_id"] != 458752001]
    put_json(tmp_path, file.name, {"annotations": kept})
    found = opened(tmp_path, "vqa_v2")
    assert found[2].turns[0].answer == "white"
    with pytest.raises(DataError, match=r"vqa_v2/train\[458752001\] has no answer") as error:
        found[1]
    assert error.value.cause == ABSENT_KEY


def test_okvqa(tmp_path):
    questions = [{"image_id": 51606, "question": "What is the hairstyle called?", "question_id": 516065}]
    answers = [a | {"raw_answer": a["answer"] + "s"} for a in ten(("ponytail", 2), ("pony tail", 6), ("braid", 2))]
    annotation = {"image_id": 51606, "answer_type": "other", "question_type": "four", "question_id": 516065}
    head = {"info": {}, "license": {}}
    put_json(tmp_path, "OpenEnded_mscoco_train2014_questions.json", head | {"questions": questions})
    put_json(tmp_path, "mscoco_train2014_annotations.json", head | {"annotations": [annotation | {"answers": answers}]})
    put_image(tmp_path, "train2014/COCO_train2014_000000051606.jpg")
    record = opened(tmp_path, "okvqa")[0]
    assert record.record_id == "okvqa/train[516065]" and record.image.is_file()
    assert record.turns[0].answer == "pony tail" and len(record.answers) == 10


def gqa_question(image, question, answer):
    return {
        "semantic": [{"operation": "select", "dependencies": [], "argument": "wall (722332)"}],
        "entailed": [],
        "equivalent": ["02930152"],
        "question": question,
        "imageId": image,
        "isBalanced": True,
        "groups": {"global": None, "local": "10q-wall_color"},
        "answer": answer,
        "annotations": {"answer": {}, "question": {}, "fullAnswer": {}},
        "fullAnswer": f"It is {answer}.",
    }


def test_gqa(tmp_path):
    questions = {
        "02930152": gqa_question("2354786", "Is the sky dark?", "yes"),
        "07333408": gqa_question("2375429", "What is on the white wall – a café?", "pipe"),
    }
    put_json(tmp_path, "train_balanced_questions.json", questions)
    put_image(tmp_path, "images/2375429.jpg")
    found = opened(tmp_path, "gqa")
    assert [found[i].record_id for i in range(2)] == ["gqa/train_balanced[02930152]", "gqa/train_balanced[07333408]"]
    assert found[1].turns == (Turn("What is on the white wall – a café?", "pipe"),)
    assert found[1].image == tmp_path / "images/2375429.jpg" and found[1].answers == ("pipe",)


def textvqa_question(number, answers):
    return {
        "question": "what is the brand of this camera?",
        "image_id": "003a8ae2ef43b901",
        "image_classes": ["Cassette deck"],
        "flickr_original_url": "",
        "flickr_300k_url": "",
        "image_width": 1024,
        "image_height": 664,
        "answers": answers,
        "question_tokens": ["what"],
        "question_id": number,
        "set_name": "val",
    }


def test_textvqa(tmp_path):
    answers = ["nous les gosses", "dakota", "clos culombu", "dakota digital"] + ["dakota"] * 6
    head = {"dataset_type": "val", "dataset_name": "textvqa", "dataset_version": "0.5.1"}
    put_json(tmp_path, "TextVQA_0.5.1_val.json", head | {"data": [textvqa_question(34602, answers)]})
    put_image(tmp_path, "train_images/003a8ae2ef43b901.jpg")
    record = opened(tmp_path, "textvqa", split="val")[0]
    assert record.record_id == "textvqa/val[34602]" and record.image.is_file()
    assert record.turns[0].answer == "dakota" and record.answers == tuple(answers)


def test_vizwiz(tmp_path):
    questions = [
        {
            "image": f"VizWiz_train_0000000{i}.jpg",
            "question": "What's the name of this product?",
            "answers": [{"answer_confidence": "yes", "answer": a} for a in answers],
            "answer_type": "other",
            "answerable": 1,
        }
        for i, answers in enumerate((["basil leaves"] * 5 + ["basil"] * 5, ["unanswerable"] * 9 + ["soup"]))
    ]
    put_json(tmp_path, "Annotations/train.json", questions)
    put_image(tmp_path, "train/VizWiz_train_00000000.jpg")
    found = opened(tmp_path, "vizwiz")
    assert found[0].record_id == "vizwiz/train[VizWiz_train_00000000.jpg]" and found[0].image.is_file()
    assert [found[i].turns[0].answer for i in range(2)] == ["basil leaves", "unanswerable"]  # the first of equals
    assert found[0].answers == ("basil leaves",) * 5 + ("basil",) * 5


def test_pope(tmp_path):
    lines = [
        {"question_id": i + 1, "image": "COCO_val2014_000000310196.jpg", "text": f"Is there a {thing} in the image?"}
        | {"label": label}
        for i, (thing, label) in enumerate((("snowboard", "yes"), ("car", "no")))
    ]
    (tmp_path / "coco_pope_popular.json").write_text("\n".join(map(json.dumps, lines)) + "\n")
    put_image(tmp_path, "val2014/COCO_val2014_000000310196.jpg")
    found = opened(tmp_path, "pope", split="popular")
    assert [found[i].turns[0] for i in range(2)] == [
        Turn("Is there a snowboard in the image?", "yes"),
        Turn("Is there a car in the image?", "no"),
    ]
    assert found[1].record_id == "pope/popular[popular/2]" and found[1].image.is_file()


def test_coco_captions(tmp_path):
    images = [
        {"license": 5, "file_name": f"COCO_val2014_{i:012d}.jpg", "coco_url": "", "height": 360, "width": 640, "id": i}
        for i in (391895, 522418)
    ]
    annotations = [
        {"image_id": image, "id": number, "caption": text}
        for number, (image, text) in enumerate(
            [(522418, "A woman cutting a cake. "), (391895, "A man on a bike."), (522418, "Cake.")]
        )
    ]
    head = {"info": {}, "licenses": []}
    put_json(tmp_path, "annotations/captions_val2014.json", head | {"images": images, "annotations": annotations})
    put_image(tmp_path, "val2014/COCO_val2014_000000391895.jpg")
    found = opened(tmp_path, "coco_captions", split="val")
    assert found[1].captions == {"caption": ("A woman cutting a cake.", "Cake.")}
    assert found[0].record_id == "coco_captions/val2014[391895]"
    assert found[0].size == (360, 640) and found[0].image.is_file()


def test_files_may_have_other_names(tmp_path):
    write_vqa_v2(tmp_path)
    (tmp_path / "v2_OpenEnded_mscoco_train2014_questions.json").rename(tmp_path / "q.json")
    (tmp_path / "v2_mscoco_train2014_annotations.json").rename(tmp_path / "a.json")
    form = dict(format="vqa_v2", task="instruction")
    assert open_source(source(tmp_path, "{q,a}.json", **form))[0].turns[0].answer == "net"
    with pytest.raises(
        UserError, match="q.json. names 1, but vqa_v2 has 2: v2_OpenEnded_mscoco_train2014_questions.json and"
    ):
        open_source(source(tmp_path, "q.json", **form))


@pytest.mark.parametrize("content", [{"questions": [{"image_id": 1}]}, {"q": []}, [3]])
def test_a_file_in_another_schema_is_reported(tmp_path, content):
    write_vqa_v2(tmp_path)
    put_json(tmp_path, "v2_OpenEnded_mscoco_train2014_questions.json", content)
    with pytest.raises(UserError, match="train2014_questions.json.* not as its publisher writes it"):
        opened(tmp_path, "vqa_v2")


def test_a_missing_file_is_reported(tmp_path):
    with pytest.raises(UserError, match="train_balanced_questions.json: there is no such file"):
        opened(tmp_path, "gqa")


@pytest.mark.parametrize(
    ("form", "changes"),
    [
        ("gqa", {"split": "testdev"}),
        ("gqa", {"split": "test_balanced"}),
        ("gqa", {"files": "testdev_balanced_questions.json"}),
        ("vqa_v2", {"split": "test-dev"}),
        ("pope", {"split": "random"}),
        ("tfds", {"split": "test[:50%]"}),
    ],
)
def test_training_on_test_data_is_refused(form, changes):
    config = demo.get_config().to_dict()
    config["data"]["sources"][3] |= {"format": form, "files": "x"} | changes
    with pytest.raises(UserError, match="which is there to be tested on; name a training split"):
        resolve(config)
    config["data"]["sources"][3] |= {"format": "gqa", "files": "train_balanced_questions.json", "split": "train"}
    resolve(config)


DIALOGUE = [
    {"from": "human", "value": "<image>\nWhat are the colors of the bus?"},
    {"from": "gpt", "value": "The bus is white and red."},
    {"from": "human", "value": "Is it moving?"},
    {"from": "gpt", "value": "Yes."},
    {"from": "human", "value": "Where to?"},
]
TEXT = [{"from": "human", "value": "What are the colors of a bus?"}, *DIALOGUE[1:]]


def write_llava(root, *records):
    put_json(root, "llava_v1_5_mix665k.json", list(records))
    put_image(root, "coco/train2017/000000033471.jpg")


def test_llava_gives_all_turns_and_texts_without_an_image(tmp_path):
    write_llava(
        tmp_path,
        {"id": "000000033471", "image": "coco/train2017/000000033471.jpg", "conversations": DIALOGUE},
        {"id": "wgByO4Y_0", "model": "", "conversations": TEXT[:2]},
    )
    found = opened(tmp_path, "llava")
    assert found[0].turns == (
        Turn("What are the colors of the bus?", "The bus is white and red."),
        Turn("Is it moving?", "Yes."),
    )
    assert found[0].image.is_file() and not found[0].is_text_only
    assert found[1].is_text_only and len(found[1].turns) == 1
    assert found.has_image().tolist() == [True, False]
    assert [found[i].record_id for i in range(2)] == [
        "llava_v1_5_mix665k.json[0] 000000033471",
        "llava_v1_5_mix665k.json[1] wgByO4Y_0",
    ]


@pytest.mark.parametrize(
    ("record", "cause", "message"),
    [
        ([], WRONG_TYPE, "is not an object"),
        ({"id": "x"}, ABSENT_KEY, "has no key conversations"),
        ({"conversations": DIALOGUE[:1]}, WRONG_TYPE, "conversations should be a list of questions and answers"),
        ({"conversations": DIALOGUE[1:3]}, WRONG_TYPE, r"conversations\[0\] should be a text from human"),
        (
            {"conversations": [DIALOGUE[0], {"from": "gpt", "value": 3}]},
            WRONG_TYPE,
            r"conversations\[1\] should be a text from gpt",
        ),
        ({"conversations": [DIALOGUE[0], {"from": "gpt", "value": " "}]}, EMPTY, "every answer is empty"),
        ({"image": 3, "conversations": DIALOGUE}, WRONG_TYPE, "image should be text, found 3"),
        ({"image": "", "conversations": TEXT}, EMPTY, "image is empty"),
        ({"conversations": DIALOGUE}, ABSENT_KEY, "has no image under image or images, but names or asks"),
        (
            {"conversations": [{"from": "human", "value": "<video> What?"}, TEXT[1]]},
            ABSENT_KEY,
            "has no image under image",
        ),
        ({"video": "1.mp4", "conversations": TEXT}, ABSENT_KEY, "has no image under image"),
        ({"image_path": "1.jpg", "conversations": TEXT}, ABSENT_KEY, "names or asks about an image"),
        ({"Frames": 3, "media": ["1.jpg"], "conversations": TEXT}, ABSENT_KEY, "names or asks about an image"),
        ({"images": ["1.jpg", "2.jpg"], "conversations": TEXT}, WRONG_TYPE, "images names 2 images; give one"),
        ({"image": [], "images": None, "videos": ["v"], "conversations": TEXT}, ABSENT_KEY, "has no image under image"),
        ({"image": "../a.jpg", "conversations": DIALOGUE}, OUTSIDE, "image leaves the root: '../a.jpg'"),
    ],
)
def test_a_bad_dialogue_is_reported_when_it_is_read(tmp_path, record, cause, message):
    write_llava(tmp_path, {"id": "1", "conversations": TEXT}, record)
    found = opened(tmp_path, "llava")
    with pytest.raises(DataError, match=message) as error:
        found[1]
    assert error.value.cause == cause
    assert found.has_image().tolist()[0] is False


@pytest.mark.parametrize(
    ("fields", "is_text"),
    [
        ({"image": "coco/train2017/000000033471.jpg"}, False),
        ({"image": ["coco/train2017/000000033471.jpg"]}, False),
        ({"images": ["coco/train2017/000000033471.jpg"]}, False),
        ({"images": [], "video": None}, True),
        ({"image": None}, True),
    ],
)
def test_a_list_of_one_image_is_that_image_and_an_empty_list_is_none(tmp_path, fields, is_text):
    html = {"from": "gpt", "value": "In HTML, <video> and <image> are tags."}  # of an answer, so no medium is missing
    question = DIALOGUE[0] if not is_text else TEXT[0]
    write_llava(tmp_path, fields | {"conversations": [question, html]})
    found = opened(tmp_path, "llava")
    assert found[0].is_text_only == is_text and found.has_image().tolist() == [not is_text]
    assert is_text or found[0].image.is_file()


def test_an_answer_or_a_question_that_is_null_counts_as_empty(tmp_path):
    null = [{"from": "human", "value": None}, {"from": "gpt"}]
    write_llava(tmp_path, {"conversations": [*null, *TEXT[:2], {"from": "human"}, TEXT[3]]})
    assert opened(tmp_path, "llava")[0].turns == (Turn(TEXT[0]["value"], TEXT[1]["value"]), Turn("", TEXT[3]["value"]))
