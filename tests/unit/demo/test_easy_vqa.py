"""easy-VQA in VQAv2's layout, its hints, and the comparison with blind and most frequent answers."""

import json
from collections import Counter

import numpy as np
import pytest
from PIL import Image

from configs import easy_vqa, easy_vqa_balanced, easy_vqa_hints
from demo import easy_vqa_report
from demo.easy_vqa import ANNOTATORS, SHARES, Asked, balanced, hints, moved, write
from dualdiff_jax.config.resolve import resolve
from dualdiff_jax.data.formats.registry import open_source
from dualdiff_jax.data.records.index import IndexCache
from dualdiff_jax.data.tokenizer import Tokenizer
from dualdiff_jax.errors import UserError
from dualdiff_jax.evaluation.tasks.registry import task_of

GROUND, BLUE = (240, 250, 245), (0, 0, 255)
LONGEST = "does the image not contain a rectangle?"
ASKED = [
    ["what color is the shape?", "blue", 0],
    ["what is the blue shape?", "rectangle", 0],
    ["is there a red shape?", "no", 0],
    ["is there a teal shape?", "no", 1],
    ["is there a blue shape?", "yes", 1],
    [LONGEST, "no", 0],
]
EACH = [Asked(*row) for row in ASKED]


def picture() -> np.ndarray:
    image = np.full((64, 64, 3), GROUND, np.uint8)
    image[3:10, 50:64] = BLUE
    return image


@pytest.fixture(scope="module")
def package(tmp_path_factory):
    folder = tmp_path_factory.mktemp("package")
    for split in ("train", "test"):
        images = folder / "easy_vqa" / "data" / split / "images"
        images.mkdir(parents=True)
        (images.parent / "questions.json").write_text(json.dumps(ASKED))
        for number in range(2):
            Image.fromarray(picture()).save(images / f"{number}.png")
    return folder


@pytest.fixture(scope="module")
def written(package, tmp_path_factory):
    folder = tmp_path_factory.mktemp("easy_vqa") / "data"
    write(package, folder, copies=2)
    return folder


@pytest.mark.parametrize("config, count", [(easy_vqa, 12), (easy_vqa_hints, 12), (easy_vqa_balanced, 9)])
def test_the_configs_read_what_is_written(written, config, count):
    given = config.get_config()
    for each in given.data.sources:
        each["root"] = str(written)
    (source,) = resolve(given).data.sources
    records = open_source(source)
    assert len(records) == count
    assert records[0].turns[0] == ("what color is the shape?", "blue")
    assert all(np.asarray(Image.open(str(records[index].image))).shape == (64, 64, 3) for index in range(count))


def test_the_task_reads_the_test_split_with_its_kinds(written):
    for root in (written, written / "blind"):
        questions = task_of("vqav2").open(str(root), "val", IndexCache())
        assert [questions[index].text for index in range(len(ASKED))] == [row[0] for row in ASKED]
        assert questions[1].truths == ("rectangle",) * ANNOTATORS
        kinds = [questions[index].types["answer_type"] for index in range(4)]
        assert kinds == ["color", "shape", "yes/no", "yes/no"]
        colors = np.unique(np.asarray(Image.open(str(questions[0].image))).reshape(-1, 3), axis=0)
        assert len(colors) == (1 if root.name == "blind" else 2)


def test_the_tokenizer_spells_every_text_and_fits_the_configs(written):
    tokenizer = Tokenizer(written / "tokenizer")
    for question, answer, _ in ASKED:
        assert tokenizer.unknown_words(f"Q: {question} A: {answer}") == []
    assert len(tokenizer.question_ids(LONGEST, easy_vqa.LENGTH)) <= easy_vqa.LENGTH - 2


def test_a_copy_has_its_whole_shape_elsewhere():
    copies = moved([picture()], 40, seed=0)
    boxes = set()
    for copy in copies:
        is_shape = (copy == BLUE).all(axis=-1)
        assert is_shape.sum() == 7 * 14 and (copy[~is_shape] == GROUND).all()
        rows, columns = np.flatnonzero(is_shape.any(1)), np.flatnonzero(is_shape.any(0))
        assert (np.ptp(rows), np.ptp(columns)) == (6, 13)  # not wrapped round an edge
        boxes.add((rows[0], columns[0]))
    assert len(boxes) > 30
    assert min(left for _, left in boxes) < 10 and max(left for _, left in boxes) > 40


def test_hints_name_what_is_there_and_what_is_asked():
    found = hints(EACH)
    assert not any(each.is_negated for each, _ in found)
    answers = {each.question: set(answers) for each, answers in found}
    assert answers["what is the blue shape?"] == {"rectangle"}
    assert answers["is there a red shape?"] == {"no", "blue", "red"}
    assert answers["is there a blue shape?"] == {"yes", "blue"}
    said = [each.answer for each, _ in found if each.kind == "yes/no"]
    assert said.count("yes") == said.count("no") == 2


def test_balanced_questions_have_their_shares_and_equal_answers():
    wordings = {
        "color": [("what color is the shape?", "blue"), ("what color is the shape?", "red")],
        "shape": [("what is the blue shape?", "circle")],
        "a color": [("is there a red shape?", "no")] * 7 + [("is there a blue shape?", "yes")],
        "no color": [("is no red shape present?", "yes")] * 7 + [("is no blue shape present?", "no")],
        "a shape": [("is there a circle?", "no"), ("is there a triangle?", "yes")],
        "no shape": [("is there not a circle?", "yes")] * 2 + [("is there not a triangle?", "no")],
    }
    given = [Asked(*row, image) for image in range(20) for rows in wordings.values() for row in rows]
    found = balanced(given, seed=0)
    assert len(given) <= len(found) < len(given) + 11  # cells are rounded up
    groups, answers = Counter(each.group for each in found), Counter((each.group, each.answer) for each in found)
    for group, rows in wordings.items():
        assert {Asked(*row, 0).group for row in rows} == {group}
        assert groups[group] / len(found) == pytest.approx(SHARES[group] / sum(SHARES.values()), abs=0.005)
        each_answer = {count for (of_group, _), count in answers.items() if of_group == group}
        assert len(each_answer) == 1
    times = Counter(each for each in found if (each.group, each.answer) == ("a color", "yes"))
    assert len(times) == 20 and max(times.values()) - min(times.values()) <= 1  # the rare ones in turn


@pytest.mark.parametrize(
    "row, shown, is_negated",
    [
        (("is no red shape present?", "no", 0), ["red"], True),
        (("is no red shape present?", "yes", 0), [], True),
        (("is a red shape present?", "yes", 0), ["red"], False),
        (("what color is the circle?", "red", 0), ["circle", "red"], False),
    ],
)
def test_question_and_answer_tell_what_an_image_shows(row, shown, is_negated):
    assert (Asked(*row).shown, Asked(*row).is_negated) == (shown, is_negated)


def test_a_damaged_package_is_named(package, tmp_path):
    with pytest.raises(UserError, match=r"questions\.json"):
        write(tmp_path, tmp_path / "data")
    questions = tmp_path / "easy_vqa" / "data" / "train" / "questions.json"
    questions.parent.mkdir(parents=True)
    questions.write_text(json.dumps([["what?", "blue"]]))
    with pytest.raises(UserError, match="question 0"):
        write(tmp_path, tmp_path / "data")
    questions.write_text(json.dumps(ASKED))
    with pytest.raises(UserError, match=r"0\.png: cannot be read"):
        write(tmp_path, tmp_path / "data")
    assert not (tmp_path / "data").exists()


def test_accuracies_by_kind_and_the_bounds_that_are_missed(written):
    kinds = ("color", "shape", "yes/no", "yes/no")
    answers = [{"id": str(index), "types": {"answer_type": kind}} for index, kind in enumerate(kinds)]
    found = easy_vqa_report.accuracies({"0": 1.0, "1": 0.0, "2": 1.0, "3": 0.0}, answers)
    assert found == {"color": 1.0, "shape": 0.0, "yes/no": 0.5, "all": 0.5}
    good = {"color": 1.0, "shape": 0.95, "yes/no": 0.9, "all": 0.93}
    assert easy_vqa_report.missed({"model": good, "majority": {**good, "yes/no": 0.80}}) == []
    assert easy_vqa_report.missed({"model": good, "majority": good}) == ["yes/no above majority"]
    assert easy_vqa_report.missed({"model": found, "majority": {**found, "yes/no": 0.0}}) == ["all", "shape"]
    assert easy_vqa_report.majority(written)["is there a red shape?"] == "no"


def test_negated_questions_are_told_from_the_others():
    rows = [(LONGEST, "no", 1.0), (LONGEST, "no", 0.0), ("is there a teal shape?", "no", 1.0), ("what?", "blue", 0.5)]
    answers = [{"question": question, "truth": [answer], "score": score} for question, answer, score in rows]
    assert easy_vqa_report.groups(answers) == {
        "no shape": {"questions": 2, "accuracy": 0.5},
        "a color": {"questions": 1, "accuracy": 1.0},
        "color": {"questions": 1, "accuracy": 0.5},
    }


def test_a_folder_of_other_files_is_refused_before_any_work(tmp_path):
    (tmp_path / "thesis.txt").touch()
    with pytest.raises(UserError, match="holds other files"):
        write(tmp_path / "no_package", tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ["thesis.txt"]
