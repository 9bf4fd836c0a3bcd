"""Benchmarks while a model trains: the figures of an evaluation by the same settings, the same questions every time."""

import dataclasses
import json

import jax
import pytest

from dualdiff_jax.cli import train
from dualdiff_jax.config import MeshConfig, TaskConfig
from dualdiff_jax.errors import UserError
from dualdiff_jax.evaluation.runner import evaluate
from dualdiff_jax.evaluation.task_scores import TaskScores, opened_task
from dualdiff_jax.pipeline.pipeline import DualDiffusionPipeline
from dualdiff_jax.sharding import make_mesh
from tests.benchmark_layouts import LAYOUTS
from tests.small_run import small_run
from tests.unit.tiny import random_weights

MESH = make_mesh(MeshConfig(), jax.devices()[:1])


def with_tasks(root, *tasks, every=2):
    config, tokenizer = small_run(
        root / "run", model={"mmdit": {"depth": 1}, "sampling": {"answer_length": 32}}, train={"steps": 3}
    )
    for task in tasks:
        (root / task.name).mkdir(parents=True)
        LAYOUTS[task.name](root / task.name)
    validation = dataclasses.replace(config.validation, tasks_every=every, tasks=tasks)
    return dataclasses.replace(config, validation=validation), tokenizer


def test_the_figures_are_those_of_an_evaluation(tmp_path):
    pope = TaskConfig(name="pope", root=str(tmp_path / "pope"), limit=7)
    config, tokenizer = with_tasks(tmp_path, pope, TaskConfig(name="vqav2", root=str(tmp_path / "vqav2")))
    hook, weights = TaskScores(config, tokenizer), random_weights(config.model)
    figures = hook(1, weights)
    assert figures == hook(2, weights)
    (tmp_path / "out").mkdir()
    pipeline = DualDiffusionPipeline(config.model, weights, tokenizer)
    facts = {"path": "", "fingerprint": ""}
    found = evaluate(opened_task(pope, config), pipeline, facts, tmp_path / "out")
    assert found["questions"]["asked"] == found["count"] == 7 and found["settings"]["length"] == 32
    assert figures["tasks/pope"] == found["score"]
    assert figures["tasks/pope/standard_error"] == found["standard_error"]
    assert {name: figures[f"tasks/pope/{name}"] for name in found["parts"]} == found["parts"]
    assert "tasks/vqav2" in figures and "tasks/vqav2/yes/no" in figures


def test_a_run_writes_its_scores(tmp_path, monkeypatch):
    monkeypatch.setattr(train, "make_mesh", lambda _: MESH)
    config, _ = with_tasks(tmp_path, TaskConfig(name="vqav2", root=str(tmp_path / "vqav2"), limit=3))
    config = dataclasses.replace(config, telemetry=dataclasses.replace(config.telemetry, tensorboard=True))
    train.run_training(config, str(tmp_path / "workdir"))
    lines = [json.loads(line) for line in (tmp_path / "workdir/validation.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [2, 3] and all("tasks/vqav2" in line for line in lines)
    (events,) = (tmp_path / "workdir/tensorboard").iterdir()
    assert b"validation/tasks/vqav2" in events.read_bytes()


def test_faults_are_found_before_training(tmp_path):
    def fault(task):
        validation = dataclasses.replace(config.validation, tasks=(task,))
        with pytest.raises(UserError) as error:
            TaskScores(dataclasses.replace(config, validation=validation), tokenizer)
        return str(error.value)

    config, tokenizer = with_tasks(tmp_path, every=0)
    assert "there is no task 'nlvr'; choose some of vqav2, " in fault(TaskConfig(name="nlvr", root="x"))
    assert "expected v2_OpenEnded_mscoco_val2014_questions.json" in fault(TaskConfig(name="vqav2", root=str(tmp_path)))
    LAYOUTS["vqav2"](tmp_path, split="test-dev")
    task = TaskConfig(name="vqav2", root=str(tmp_path), split="test-dev")
    assert "answers of vqa_v2/test-dev are not published" in fault(task)


def test_contradictions_of_the_config_are_named(tmp_path):
    with pytest.raises(UserError, match="validation: tasks_every is 3, but there are no tasks"):
        small_run(tmp_path, validation={"tasks_every": 3})
    twice = [{"name": "pope", "root": "a"}, {"name": "pope", "root": "b"}]
    with pytest.raises(UserError, match="two tasks are named 'pope'"):
        small_run(tmp_path, validation={"tasks": twice})
