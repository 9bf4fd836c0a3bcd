"""lmms-eval runs a task from local files with the plug-in, to the score of our own task, digit for digit."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from dualdiff_jax.weights import save_model
from tests.benchmark_layouts import LAYOUTS
from tests.end_to_end.command import ROOT, environment, run
from tests.small_run import small_run
from tests.unit.tiny import random_weights

pytestmark = pytest.mark.lmms_eval
STEPS, LENGTH = 4, 48
TASK = """
task: local_textvqa
dataset_path: json
dataset_kwargs:
  data_files:
    test: {file}
test_split: test
output_type: generate_until
doc_to_visual: !function local.visual
doc_to_text: !function local.text
doc_to_target: "answer"
process_results: !function local.score
generation_kwargs:
  max_new_tokens: 16
metric_list:
  - metric: exact_match
    aggregation: mean
    higher_is_better: true
    ignore_case: true
    ignore_punctuation: true
metadata:
  - version: 0.0
"""
FUNCTIONS = """
from PIL import Image

from lmms_eval.tasks.textvqa.utils import textvqa_process_results


def visual(doc):
    return [Image.open(doc["image"]).convert("RGB")]


def text(doc):
    return doc["question"] + "\\nAnswer the question using a single word or phrase."


def score(doc, results):
    return {"exact_match": textvqa_process_results(doc, results)["exact_match"]}
"""


def ours(root: Path, output: str) -> tuple[dict, list[dict]]:
    given = {"model": root / "model", "data": root / "data", "output": root / output, "task": "textvqa"}
    words = [f"--{name}={value}" for name, value in given.items()]
    done = run("--mode=evaluate", *words, f"--steps={STEPS}", f"--length={LENGTH}")
    assert done.returncode == 0, done.stderr
    lines = (root / output / "textvqa.predictions.jsonl").read_text().splitlines()
    return json.loads((root / output / "textvqa.json").read_text()), list(map(json.loads, lines))


def test_lmms_eval_gives_the_score_of_our_own_task(tmp_path):
    config, tokenizer = small_run(tmp_path / "run")
    save_model(tmp_path / "model", config.model, random_weights(config.model), tokenizer)
    (tmp_path / "data").mkdir()
    LAYOUTS["textvqa"](tmp_path / "data")
    # Some annotators say what the model says, so that scores differ from question to question.
    _, said = ours(tmp_path, "first")
    assert len({line["answer"] for line in said}) > 1 and all(line["answer"] for line in said)
    file = tmp_path / "data/TextVQA_0.5.1_val.json"
    content = json.loads(file.read_text())
    for number, (question, line) in enumerate(zip(content["data"], said, strict=True)):
        question["answers"] = [line["answer"]] * number + ["stop"] * (10 - number)
    file.write_text(json.dumps(content))
    record, lines = ours(tmp_path, "second")
    assert len({line["score"] for line in lines}) > 2 and 0 < record["score"] < 100

    rows = [question | {"image": line["image"]} for question, line in zip(content["data"], lines, strict=True)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "tasks").mkdir()
    (tmp_path / "tasks/local_textvqa.yaml").write_text(TASK.format(file=tmp_path / "rows.jsonl"))
    (tmp_path / "tasks/local.py").write_text(FUNCTIONS)
    words = ["--model", "dualdiff", "--model_args", f"pretrained={tmp_path / 'model'},steps={STEPS},length={LENGTH}"]
    words += ["--tasks", "local_textvqa", "--include_path", str(tmp_path / "tasks"), "--batch_size", "1"]
    words += ["--output_path", str(tmp_path / "theirs"), "--log_samples"]
    offline = {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "hf"), "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(
        [sys.executable, str(Path(__file__).parent), *words],
        cwd=ROOT,
        env=environment() | offline,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    results = next((tmp_path / "theirs").rglob("*_results.json"), None)
    assert results, done.stderr[-4000:]  # it ends with 0 after an error
    found = json.loads(results.read_text())["results"]["local_textvqa"]
    (samples,) = (tmp_path / "theirs").rglob("*_samples_local_textvqa.jsonl")
    theirs = [json.loads(line) for line in samples.read_text().splitlines()]
    answers = {sample["doc_id"]: sample["filtered_resps"] for sample in theirs}
    assert [answers[index] for index in range(len(lines))] == [line["answer"] for line in lines]
    assert 100 * found["exact_match,none"] == record["score"]
