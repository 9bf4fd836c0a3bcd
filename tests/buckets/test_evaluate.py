"""An evaluation whose data and results lie in a bucket: what a disk gives, stopped in between, and its comparison."""

import functools
import json
from pathlib import Path

import pytest

from dualdiff_jax.cli import evaluate
from dualdiff_jax.evaluation import predictions
from dualdiff_jax.files import as_path
from dualdiff_jax.weights import save_model
from tests.benchmark_layouts import LAYOUTS
from tests.end_to_end.command import run_here
from tests.unit.pipeline.shallow import shallow_pipeline

pytestmark = pytest.mark.slow
TASKS = ("vqav2", "mme", "mmbench", "mmmu")  # JSON beside images, folders, a table, Parquet


@pytest.fixture(scope="module")
def folder(bucket) -> Path:
    return as_path(f"{bucket.root}/evaluate")


@pytest.fixture(scope="module")
def local(folder, tmp_path_factory) -> Path:
    """A model and data on a disk; the data are in the bucket too."""
    root = tmp_path_factory.mktemp("local")
    pipe = shallow_pipeline(root / "tokenizer")
    save_model(root / "model", pipe.config, pipe.weights, pipe.tokenizer)
    for task in TASKS:
        (root / "data" / task).mkdir(parents=True)
        LAYOUTS[task](root / "data" / task)
        for file in (root / "data" / task).rglob("*"):
            if file.is_file():
                (folder / "data" / file.relative_to(root / "data")).write_bytes(file.read_bytes())
    return root


@pytest.fixture(autouse=True)
def loaded(monkeypatch, tmp_path):
    """The model is loaded once, and a name of a bucket that is taken for a local one makes a folder ``gs:`` here."""
    monkeypatch.setattr(evaluate, "load", _load)
    monkeypatch.chdir(tmp_path)


_load = functools.cache(evaluate.load)


def evaluated(local: Path, data: object, output: object) -> None:
    words = [
        f"--model={local / 'model'}",
        f"--data={data}",
        f"--output={output}",
        *(f"--task={task}" for task in TASKS),
    ]
    done = run_here("--mode=evaluate", *words, "--steps=2", "--length=64")
    assert done.returncode == 0, done.stderr


def answers(output: Path, task: str) -> list[dict]:
    lines = predictions.Predictions(output / f"{task}.predictions.jsonl").read().values()
    return [{name: value for name, value in line.items() if name != "image"} for line in lines]


def test_a_stopped_evaluation_in_a_bucket_goes_on_to_what_a_disk_has(local, folder, tmp_path, monkeypatch):
    evaluated(local, local / "data", tmp_path / "out")
    append, seen = predictions.Predictions.append, []

    def end_after_three(self, found):
        append(self, found)
        seen.append(len(found))
        if len(seen) == 3:
            self.flush()
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(predictions.Predictions, "append", end_after_three)
        with pytest.raises(KeyboardInterrupt):
            evaluated(local, folder / "data", folder / "out")
    evaluated(local, folder / "data", folder / "out")
    for task in TASKS:
        assert answers(folder / "out", task) == answers(tmp_path / "out", task)
        here, there = (json.loads((out / f"{task}.json").read_text()) for out in (tmp_path / "out", folder / "out"))
        assert here["score"] == there["score"] and here["data"]["fingerprint"] == there["data"]["fingerprint"]
    assert (folder / "out/report.html").read_text().count("<section>") == len(TASKS)
    said = run_here("--mode=compare", str(tmp_path / "out"), str(folder / "out"))
    assert "vqav2" in said.stdout and "5 questions: +0.0000" in said.stdout, said.stderr
    assert not list(tmp_path.glob("gs:*"))
