"""``--mode=evaluate`` names faults of flags and data before a model is loaded: there is none here."""

import csv
import json
import shutil

import pytest

from tests.benchmark_layouts import LAYOUTS, write_karpathy, write_layouts
from tests.end_to_end.command import refused


def flags(data, folder, task, *more):
    words = [f"--model={folder / 'model'}", f"--data={data}", f"--output={folder / 'out'}", f"--task={task}"]
    return ["--mode=evaluate", *words, *more]


def test_faults_of_the_data_are_one_sentence_before_the_model_is_loaded(tmp_path):
    def fault(data, task="vqav2", *more):
        message = refused(*flags(data, tmp_path, task, *more))
        assert "Traceback" not in message
        return message

    data = tmp_path / "data"
    LAYOUTS["vqav2"](data)
    assert "expected v2_OpenEnded_mscoco_val2014_questions.json, v2_mscoco" in fault(tmp_path / "none")
    assert "task vqav2 has no split 'dev'; choose one of val, train" in fault(data, "vqav2", "--split=dev").replace(
        "vqav2 has", "task vqav2 has"
    )
    assert "v2_OpenEnded_mscoco_train2014_questions.json: there is no such file" in fault(
        data, "vqav2", "--split=train"
    )
    questions = data / "v2_OpenEnded_mscoco_val2014_questions.json"
    content = json.loads(questions.read_text())
    questions.write_text(json.dumps({"questions": [*content["questions"], content["questions"][0]]}))
    assert "questions 0 and 5 have the same id '0'" in fault(data)
    questions.write_text(json.dumps(content))
    (data / "val2014/COCO_val2014_000000000001.jpg").unlink()
    message = fault(data)
    assert "COCO_val2014_000000000001.jpg: there is no such image; question '10' is about it" in message
    mme = tmp_path / "mme"
    LAYOUTS["mme"](mme)
    (mme / "OCR/0001.txt").write_text("only one\tYes\n")
    assert "OCR/0001.txt: expected two lines" in fault(mme, "mme")
    shutil.rmtree(mme / "scene")
    assert "has no questions in scene/" in fault(mme, "mme")


def test_answers_that_cannot_be_scored_are_named_before_the_model_is_loaded(tmp_path):
    def fault(task, *more):
        return refused(*flags(tmp_path / "data", tmp_path, task, *more))

    write_layouts(tmp_path / "data")
    for task, file, old, new, told in (
        ("pope", "coco_pope_random.json", '"no"', '"nope"', "has the answer 'nope', which is neither yes nor no"),
        ("mme", "OCR/0001.txt", "\tNo", "\tNope", "question 'OCR/0001/2' has the answer 'Nope', which is neither"),
    ):
        path = tmp_path / "data" / task / file
        path.write_text(path.read_text().replace(old, new))
        assert told in fault(task)
    table = tmp_path / "data/mmbench/MMBench_DEV_EN.tsv"
    lines = list(csv.DictReader(table.open(newline=""), delimiter="\t"))
    with table.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, list(lines[0]), delimiter="\t")
        writer.writeheader()
        writer.writerows([lines[0] | {"answer": ""}, *lines[1:]])
    assert "question '0' has no answer" in fault("mmbench")
    karpathy = tmp_path / "data/coco_captions"
    write_karpathy(karpathy)
    content = json.loads((karpathy / "dataset_coco.json").read_text())
    content["images"][0]["sentences"] = []
    (karpathy / "dataset_coco.json").write_text(json.dumps(content))
    assert "question '0' has no caption" in fault("coco_captions", "--split=karpathy_test", "--words=plain")
    LAYOUTS["vqav2"](tmp_path / "data/vqav2", split="test-dev")
    assert "v2_OpenEnded_mscoco_test2015_questions.json: is missing" in fault("vqav2", "--split=test-dev")


@pytest.mark.parametrize(
    "words, unused",
    [
        (
            ["--task=vqav2", "--question=what?", "--words=plain", "--choose_by=score"],
            "--question, --choose_by, --words",
        ),
        (["--task=coco_captions", "--choose_by=score"], "--choose_by"),
        (["--task=coco_captions", "--suffix=In one word."], "--suffix"),
        (["--task=mme", "--task=mmbench", "--words=plain"], "--words"),
    ],
)
def test_settings_without_use_are_named(tmp_path, words, unused):
    message = refused("--mode=evaluate", "--model=m", "--data=d", f"--output={tmp_path / 'o'}", *words)
    assert f"does not use {unused}; leave" in message and words[0] in message
    assert not any(tmp_path.iterdir())
