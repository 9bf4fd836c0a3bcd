"""Files of an evaluation that something else changed: a sentence that names the place, or lines that are dropped."""

import json

import pytest

from dualdiff_jax.errors import UserError
from dualdiff_jax.evaluation.compare import compare
from dualdiff_jax.evaluation.generation.geneval_results import geneval_figures
from dualdiff_jax.evaluation.generation.image_files import read_listing
from dualdiff_jax.evaluation.predictions import Predictions

RECORD = {"task": "vqav2", "split": "val", "settings": {}, "data": {"fingerprint": {}}, "score": 50.0, "unit": "%"}
LINE = {"id": "1", "question": "q", "answer": "a", "normalised": "a", "truth": ["a"], "types": {}, "score": 1.0}
WRONG = {
    **{"task": [3, None], "settings": [3, [], None], "data": ["x", [1], None], "split": [3, ["val"]]},
    **{"score": ["high", [1.0], True], "unit": [3, {}]},
}
NO_LINES = [3, None, [], {}, *({**LINE, name: value} for name, value in (("score", "1"), ("types", 3), ("truth", "a")))]


def folder_of(folder, record=RECORD, lines=(LINE,)):
    folder.mkdir(exist_ok=True)
    (folder / "vqav2.json").write_text(json.dumps(record))
    (folder / "vqav2.predictions.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


@pytest.mark.parametrize("name", WRONG)
def test_a_record_of_wrong_types_is_named_with_the_place(tmp_path, name):
    first = folder_of(tmp_path / "a")
    assert [each.difference for each in compare(first, folder_of(tmp_path / "b"))] == [0.0]
    for value in WRONG[name]:
        second = folder_of(tmp_path / "b", RECORD | {name: value})
        for pair in ((first, second), (second, first)):
            with pytest.raises(UserError, match=rf"b/vqav2.json: {name}: found .*; it is no record of an evaluation"):
                compare(*pair)


def test_records_without_a_fingerprint_are_of_other_data(tmp_path):
    second = folder_of(tmp_path / "b", {**RECORD, "data": {}})
    with pytest.raises(UserError, match="was evaluated on other data"):
        compare(folder_of(tmp_path / "a"), second)


def test_lines_of_wrong_types_are_dropped_with_a_warning(tmp_path, caplog):
    without = {name: value for name, value in LINE.items() if name != "score"}
    folder = folder_of(tmp_path / "a", lines=[*NO_LINES, without, LINE, {**LINE, "id": "2", "score": None}])
    assert list(Predictions(folder / "vqav2.predictions.jsonl").read()) == ["1", "2"]
    assert f"{len(NO_LINES) + 1} lines are no predictions" in caplog.text


def test_a_comparison_leaves_the_files_of_an_evaluation_that_goes_on(tmp_path, caplog):
    """A line that is being written is no damage, and what is appended meanwhile would be lost."""
    first, second = (folder_of(tmp_path / name, lines=[LINE, 3, LINE | {"id": "2"}]) for name in "ab")
    file = first / "vqav2.predictions.jsonl"
    with file.open("a") as stream:
        stream.write(json.dumps(LINE | {"id": "3"})[:-20])
    before = [(path, path.read_bytes(), path.stat().st_ino) for path in sorted(tmp_path.rglob("*.json*"))]
    assert [each.questions for each in compare(first, second)] == [2]
    assert before == [(path, path.read_bytes(), path.stat().st_ino) for path in sorted(tmp_path.rglob("*.json*"))]
    assert f"{file}: 2 lines are no predictions; their questions are left out" in caplog.text
    assert list(Predictions(file).read()) == ["1", "2"]
    assert len(file.read_bytes().splitlines()) == 2  # the command that writes the file mends it


@pytest.mark.parametrize("ending", ["results", "images"])
def test_a_list_without_end_is_refused_before_it_is_read(tmp_path, ending):
    file = tmp_path / f"geneval.{ending}.jsonl"
    with file.open("wb") as stream:
        stream.truncate(60 << 30)
    with pytest.raises(UserError, match=f"geneval.{ending}.jsonl: has 64424509440 bytes, more than"):
        geneval_figures(file, ["a"]) if ending == "results" else read_listing(tmp_path / "geneval")
