"""``--mode=evaluate`` and ``compare`` on a few questions in each benchmark's layout, with a model of random weights."""

import functools
import json
import math
import shutil
import sys
import types

import pytest

from dualdiff_jax.cli import evaluate
from dualdiff_jax.evaluation import predictions, report
from dualdiff_jax.evaluation.asking import Asker
from dualdiff_jax.evaluation.metrics.vqa_accuracy import vqa_accuracy
from dualdiff_jax.evaluation.tasks.registry import TASKS
from dualdiff_jax.weights import save_model
from tests.benchmark_layouts import LAYOUTS, write_layouts
from tests.end_to_end.command import refused, run_here
from tests.small_run import small_run
from tests.unit.tiny import random_weights

COUNTS = {"pope": 12, "mme": 20, "mme_cognition": 8, "mmmu": 6, "mmbench": 11}  # of the others 5
BATCH = 4  # the model's


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """``model/`` and ``data/`` with a folder for each task."""
    root = tmp_path_factory.mktemp("evaluate")
    config, tokenizer = small_run(root / "run")
    save_model(root / "model", config.model, random_weights(config.model), tokenizer)
    write_layouts(root / "data")
    return root


@pytest.fixture(autouse=True)
def loaded(monkeypatch, request):
    """Models that were loaded stay so, except where a test is about all of a command."""
    if "captions" not in request.fixturenames:
        monkeypatch.setattr(evaluate, "load", _load)
        monkeypatch.setattr(evaluate, "model_fingerprint", _fingerprint)


_load = functools.cache(evaluate.load)
_fingerprint = functools.cache(evaluate.model_fingerprint)


def flags(root, output, *more, task="vqav2", data=None):
    found = ["--mode=evaluate", f"--model={root / 'model'}", f"--data={data or root / 'data'}", f"--output={output}"]
    return [*found, f"--task={task}", "--steps=2", "--length=64", *more]


def evaluated(*words):
    finished = run_here(*words)
    assert finished.returncode == 0, finished.stderr
    return finished.stdout


def rows(output, task="vqav2"):
    return [json.loads(line) for line in (output / f"{task}.predictions.jsonl").read_text().splitlines()]


def record(output, task="vqav2"):
    return json.loads((output / f"{task}.json").read_text())


def many_questions(root, tmp_path, count=13):
    """A folder with VQAv2 of more than three batches."""
    folder = tmp_path / "many"
    folder.mkdir()
    LAYOUTS["vqav2"](folder, questions=count)
    return folder


class CountsEqualWords:
    """In place of a scorer of pycocoevalcap: as many words as a caption and its references have in common."""

    def __init__(self, *_):
        pass

    def compute_score(self, references, captions, verbose=0):
        each = [len({*captions[key][0].split()} & {*references[key][0].split()}) for key in captions]
        return sum(each) / len(each), each


@pytest.fixture
def captions(monkeypatch):
    scorers = {"cider": "Cider", "bleu": "Bleu", "rouge": "Rouge"}
    for name, kind in scorers.items():
        module = types.ModuleType(f"pycocoevalcap.{name}.{name}")
        setattr(module, kind, CountsEqualWords)
        monkeypatch.setitem(sys.modules, module.__name__, module)
        monkeypatch.setitem(sys.modules, f"pycocoevalcap.{name}", types.ModuleType(f"pycocoevalcap.{name}"))
    bleu = sys.modules["pycocoevalcap.bleu.bleu"]
    bleu.Bleu = type("Bleu", (), {"__init__": lambda *_: None, "compute_score": lambda *_, **__: ([0.5] * 4, None)})
    monkeypatch.setitem(sys.modules, "pycocoevalcap", types.ModuleType("pycocoevalcap"))


def test_every_task_is_evaluated_from_its_publishers_files(root, tmp_path, captions):
    tasks = [f"--task={name}" for name in TASKS if name != "vqav2"]
    said = evaluated(*flags(root, tmp_path), *tasks, "--words=plain")
    assert len(said.splitlines()) == len(TASKS)
    for name, task in TASKS.items():
        found, lines = record(tmp_path, name), rows(tmp_path, name)
        assert found["state"] == "finished" and math.isfinite(found["score"]), found
        assert found["title"] == task.title and found["reported"] == [each._asdict() for each in task.reported]
        assert found["settings"]["words"] == ("plain" if name == "coco_captions" else "ptb")  # the others' own
        assert found["settings"]["suffix"] == task.settings.suffix and found["settings"]["length"] == 64
        assert found["data"]["fingerprint"]["records"] == len(lines) == COUNTS.get(name, 5)
        assert len({line["id"] for line in lines}) == len(lines)
        assert all(task.settings.suffix in line["question"] or "open" in line["types"].values() for line in lines)
        assert all(line["truth"] and line["score"] is not None for line in lines), name
        assert f"{task.title}, {found['split']}" in said


def test_a_score_is_the_mean_of_its_lines_and_truths_are_joined_by_id(root, tmp_path):
    evaluated(*flags(root, tmp_path))
    found, lines = record(tmp_path), rows(tmp_path)
    assert [line["truth"][1] for line in lines] == ["red", "blue", "green", "white", "black"]
    scores = [vqa_accuracy("vqav2", line["answer"], line["truth"]) for line in lines]
    assert [line["score"] for line in lines] == scores
    assert found["score"] == pytest.approx(100 * sum(scores) / 5, abs=1e-12) and found["count"] == 5
    assert {kind: each["count"] for kind, each in found["by_type"]["answer_type"].items()} == {"yes/no": 3, "other": 2}
    assert found["command"][1] == "--mode=evaluate" and found["versions"]["jax"]
    assert len(found["versions"]["source"]) == 12
    assert found["seconds"]["questions"] == 5


def test_an_ended_run_goes_on_and_asks_nothing_twice(root, tmp_path, monkeypatch):
    data = many_questions(root, tmp_path)
    evaluated(*flags(root, tmp_path / "whole", data=data))
    append, asked = predictions.Predictions.append, []

    def end_after_two(self, found):
        asked.append([each["id"] for each in found])
        append(self, found)
        if len(asked) == 2:
            self.flush()
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(predictions.Predictions, "append", end_after_two)
        with pytest.raises(KeyboardInterrupt):
            run_here(*flags(root, tmp_path / "ended", data=data))
    assert record(tmp_path / "ended")["state"] == "unfinished" and record(tmp_path / "ended")["score"] is None
    with (tmp_path / "ended/vqav2.predictions.jsonl").open("a") as file:
        file.write('{"id": "110", "question": "wh')  # what a kill leaves
    monkeypatch.setattr(
        predictions.Predictions, "append", lambda self, found: (asked.append(found), append(self, found))
    )
    evaluated(*flags(root, tmp_path / "ended", data=data))
    assert list(map(len, asked)) == [4, 4, 4, 1]
    assert rows(tmp_path / "ended") == rows(tmp_path / "whole") and len(rows(tmp_path / "whole")) == 13
    assert record(tmp_path / "ended")["score"] == record(tmp_path / "whole")["score"]


def test_a_larger_limit_goes_on_with_the_answers_of_a_smaller_one(root, tmp_path, monkeypatch):
    data, ask = many_questions(root, tmp_path), Asker._answers
    counted: list[int] = []

    def answers(self, read):
        found = ask(self, read)
        counted.append(len(read))  # of answers that were computed, which those of a rehearsal are not
        return found

    monkeypatch.setattr(Asker, "_answers", answers)
    evaluated(*flags(root, tmp_path / "out", "--limit=3", data=data))
    few = rows(tmp_path / "out")
    assert record(tmp_path / "out")["questions"] == {"in_split": 13, "asked": 3, "limit": 3}
    evaluated(*flags(root, tmp_path / "out", "--limit=9", data=data))
    assert rows(tmp_path / "out")[:3] == few and len(rows(tmp_path / "out")) == 9
    assert counted == [3, 4, 2]
    evaluated(*flags(root, tmp_path / "out", "--limit=3", data=data))
    assert record(tmp_path / "out")["count"] == 3 and len(rows(tmp_path / "out")) == 9  # nothing is lost
    assert counted == [3, 4, 2]


def test_answers_do_not_depend_on_the_others_that_are_asked(root, tmp_path):
    data = many_questions(root, tmp_path)
    for name, more in (("all", []), ("few", ["--limit=5"]), ("seed", ["--seed=1"])):
        evaluated(*flags(root, tmp_path / name, "--order=ancestral", *more, data=data))
    every = {line["id"]: line["answer"] for line in rows(tmp_path / "all")}
    assert all(every[line["id"]] == line["answer"] for line in rows(tmp_path / "few"))
    assert any(every[line["id"]] != line["answer"] for line in rows(tmp_path / "seed"))


def test_another_model_or_other_settings_are_refused_with_what_differs(root, tmp_path):
    out = tmp_path / "out"
    evaluated(*flags(root, out))
    before = rows(out)
    message = refused(*flags(root, out, "--suffix=In one word.", "--seed=3"))
    assert "choose another --output, or give --overwrite" in message
    assert "settings.suffix: 'Answer the question using a single word or phrase.' -> 'In one word.'" in message
    assert "settings.seed: 0 -> 3" in message and "model.fingerprint" not in message
    config, tokenizer = small_run(root / "run")
    save_model(tmp_path / "other", config.model, random_weights(config.model, 1), tokenizer)
    other = [f"--model={tmp_path / 'other'}" if word.startswith("--model") else word for word in flags(root, out)]
    message = refused(*other)
    assert "model.fingerprint: '" in message and "settings" not in message.split("There -> here:")[1]
    data = tmp_path / "data"
    shutil.copytree(root / "data/vqav2", data)
    LAYOUTS["vqav2"](data, questions=6)
    assert "data.fingerprint.records: 5 -> 6" in refused(*flags(root, out, data=data))
    assert rows(out) == before
    evaluated(*flags(root, out, "--suffix=In one word.", "--overwrite"))
    assert all(line["question"].endswith("? In one word.") for line in rows(out)) and len(rows(out)) == 5
    (out / "vqav2.json").unlink()
    assert "has answers to vqav2, but no vqav2.json" in refused(*flags(root, out))


def test_a_split_without_answers_gives_a_submission_and_no_score(root, tmp_path):
    data = tmp_path / "data"
    LAYOUTS["vqav2"](data, split="test-dev", questions=3)
    words = flags(root, tmp_path / "out", "--split=test-dev", data=data)
    assert "put it there" in refused(*words)  # the server wants the whole test split
    LAYOUTS["vqav2"](data, split="test", questions=5)
    said = evaluated(*words)
    assert "no score: the answers of this split are not published" in said
    found = record(tmp_path / "out")
    assert found["score"] is None and found["state"].startswith("no score")
    sent = json.loads((tmp_path / "out/vqav2.submission.json").read_text())
    answers = {int(line["id"]): line["answer"] for line in rows(tmp_path / "out")}
    assert [each["question_id"] for each in sent] == [0, 10, 20, 30, 40] and len(answers) == 3
    assert [each["answer"] for each in sent] == [answers.get(each["question_id"], "") for each in sent]
    assert "no score" in (tmp_path / "out/report.html").read_text()


def test_an_option_is_chosen_by_its_score(root, tmp_path):
    evaluated(*flags(root, tmp_path, "--choose_by=score", task="mmbench"))
    for line in rows(tmp_path, "mmbench"):
        assert len(line["scores"]) in (3, 4) and line["normalised"] == line["answer"]
        assert line["answer"] == "ABCD"[line["scores"].index(max(line["scores"]))]


def test_a_question_that_is_too_long_counts_as_wrong(root, tmp_path):
    evaluated(*flags(root, tmp_path, "--length=36", task="mmbench"))
    faults = [line for line in rows(tmp_path, "mmbench") if "fault" in line]
    assert 0 < len(faults) < 11 and all(line["answer"] == "" and line["score"] == 0.0 for line in faults)
    assert record(tmp_path, "mmbench")["too_long"] == len(faults)


def test_captions_without_their_package_are_refused_with_what_to_install(root, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pycocoevalcap.cider.cider", None)
    message = refused(*flags(tmp_path, tmp_path, task="coco_captions", data=root / "data"))
    assert "pip install pycocoevalcap" in message


def test_the_report_escapes_and_keeps_the_sections_of_other_tasks(root, tmp_path):
    data = tmp_path / "data"
    LAYOUTS["gqa"](data)
    file = data / "testdev_balanced_questions.json"
    file.write_text(file.read_text().replace("is it red?", "is <script>alert(1)</script> it & red?"))
    evaluated(*flags(root, tmp_path / "out", task="gqa", data=data))
    evaluated(*flags(root, tmp_path / "out"))
    evaluated(*flags(root, tmp_path / "out"))
    page = (tmp_path / "out" / report.FILE).read_text()
    assert "<script" not in page and "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert page.count("<section>") == page.count("</section>") == 2
    assert page.count("<h2>GQA, testdev</h2>") == page.count("<h2>VQAv2, val</h2>") == 1
    assert page.count("data:image/jpeg;base64,") == 20 and "http" not in page.replace("https://github", "")
    assert "60.1" in page and "arXiv 2505.23606" in page and "<td>yes/no</td>" in page


def test_two_evaluations_are_compared_question_by_question(root, tmp_path):
    data = many_questions(root, tmp_path)
    for name, more in (("a", []), ("b", ["--limit=9"])):
        evaluated(*flags(root, tmp_path / name, *more, data=data))
    lines = rows(tmp_path / "b")
    for number, line in enumerate(lines):
        line["score"] = (1.0, 0.0, 0.5)[number % 3]
    (tmp_path / "b/vqav2.predictions.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    before = {line["id"]: line["score"] for line in rows(tmp_path / "a")}
    deltas = [line["score"] - before[line["id"]] for line in lines]
    mean = sum(deltas) / 9
    error = math.sqrt(sum((each - mean) ** 2 for each in deltas) / 8 / 9)
    (found,) = json.loads(evaluated("--mode=compare", "--format=json", str(tmp_path / "a"), str(tmp_path / "b")))
    assert found["questions"] == 9 and found["difference"] == pytest.approx(mean, abs=1e-12)
    assert found["standard_error"] == pytest.approx(error, abs=1e-12)
    assert (found["better"], found["worse"]) == (sum(d > 0 for d in deltas), sum(d < 0 for d in deltas))
    said = evaluated("--mode=compare", str(tmp_path / "a"), str(tmp_path / "b"))
    assert f"9 questions: {mean:+.4f} +- {error:.4f}" in said and "answer_type/yes/no" in said
    LAYOUTS["vqav2"](data, questions=14)
    evaluated(*flags(root, tmp_path / "c", data=data))
    assert "was evaluated on other data" in refused("--mode=compare", str(tmp_path / "a"), str(tmp_path / "c"))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--height=3"], "which this model cannot make; give multiples of"),
        (["--order=confidence", "--remask=0.1"], "remask is for order ancestral, and order is confidence"),
        (["--guidance_null=text"], "guidance_null is given without a guidance_scale above 1"),
    ],
)
def test_what_cannot_be_asked_is_refused_before_the_weights_are_read(root, tmp_path, words, message, monkeypatch):
    monkeypatch.setattr(evaluate, "load", None)
    assert message in refused(*flags(root, tmp_path, *words))
