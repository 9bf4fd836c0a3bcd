"""Compares a model's answers to easy-VQA's test with its blind answers and with the most frequent ones.

    python -m demo.easy_vqa_report --folder=runs/easy_vqa --output=benchmarks/results/easy_vqa.json

The folder holds what ``make easy-vqa`` leaves: ``data``, the workdirs ``hints``, ``balanced`` and ``train`` of the
stages, and the evaluations ``test`` and ``blind``. The table has, for each kind of question, the accuracy
    model     of the trained model,
    blind     of the same model on grey images,
    majority  of the answer that is most frequent for each question in training.
The JSON file also has the model's accuracy by ``Asked.group``, which tells negated questions from the others.
"""

import argparse
import collections
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from demo.easy_vqa import ANNOTATIONS, KINDS, QUESTIONS, Asked
from demo.report import count_parameters, read_metrics, surroundings
from dualdiff_jax.errors import UserError
from dualdiff_jax.evaluation.predictions import Prediction, Predictions
from dualdiff_jax.files import write_text
from dualdiff_jax.json_files import field, read_object
from dualdiff_jax.weights import load_config

LARGEST_FILE = 1 << 28  # bytes of an annotation file; that of training has 90 million
STAGES = ("hints", "balanced", "train")
ALL = "all"
BOUNDS = {ALL: 0.90, "shape": 0.90, "yes/no above majority": 0.05}
CURVE = 40  # points of each stage

Accuracies = dict[str, float]  # by kind of question, and of all


def report(folder: Path) -> dict[str, Any]:
    """The figures of a run of ``make easy-vqa``.

    Args:
        folder: as the module says.

    Returns:
        What is written to ``benchmarks/results/easy_vqa.json``.

    Raises:
        UserError: a stage or an evaluation is missing or not finished.
    """
    record, answers = _evaluation(folder / "test")
    _, blind_answers = _evaluation(folder / "blind")
    most_frequent = majority(folder / "data")
    scores = {
        "model": accuracies({each["id"]: each["score"] for each in answers}, answers),
        "blind": accuracies({each["id"]: each["score"] for each in blind_answers}, blind_answers),
        "majority": accuracies(
            {each["id"]: float(most_frequent.get(each["question"]) == each["truth"][0]) for each in answers}, answers
        ),
    }
    return {
        "questions": dict(collections.Counter(each["types"]["answer_type"] for each in answers)) | {ALL: len(answers)},
        "accuracy": scores,
        "groups": groups(answers),
        "bounds": BOUNDS,
        "missed": missed(scores),
        "standard_error": record["standard_error"] / 100,
        "parameters": count_parameters(load_config(folder / "train" / "model")),
        "stages": {stage: _stage(folder / stage) for stage in STAGES},
        "evaluation": {key: record[key] for key in ("split", "settings", "seconds", "versions", "devices")},
    } | surroundings()


def majority(data: Path) -> dict[str, str]:
    """Question -> its most frequent answer in training. Raises ``UserError`` if a file cannot be read."""
    questions = _listed(data / QUESTIONS.format("train"), "questions")
    annotations = _listed(data / ANNOTATIONS.format("train"), "annotations")
    counts: dict[str, collections.Counter[str]] = collections.defaultdict(collections.Counter)
    for question, annotation in zip(questions, annotations, strict=True):
        counts[question["question"]][annotation["multiple_choice_answer"]] += 1
    return {question: answers.most_common(1)[0][0] for question, answers in counts.items()}


def accuracies(scores: Mapping[str, float], answers: list[Prediction]) -> Accuracies:
    """The mean score of each of ``KINDS``, and of all answers.

    Args:
        scores: of each answer, by its id.
        answers: tell the kinds.
    """
    kinds = {each["id"]: each["types"]["answer_type"] for each in answers}
    found = {kind: [scores[name] for name in kinds if kinds[name] == kind] for kind in KINDS}
    return {kind: float(np.mean(of_kind)) for kind, of_kind in found.items() if of_kind} | {
        ALL: float(np.mean([scores[name] for name in kinds]))
    }


def groups(answers: list[Prediction]) -> dict[str, dict[str, float]]:
    """How many questions there are in each ``Asked.group``, and how many of them are answered right, from 0 to 1."""
    scores: dict[str, list[float]] = collections.defaultdict(list)
    for each in answers:
        scores[Asked(each["question"], each["truth"][0], image=0).group].append(each["score"])
    return {
        group: {"questions": len(of_group), "accuracy": float(np.mean(of_group))} for group, of_group in scores.items()
    }


def missed(scores: Mapping[str, Accuracies]) -> list[str]:
    """The names of the bounds that the model does not reach."""
    model = scores["model"]
    reached = {
        ALL: model[ALL],
        "shape": model["shape"],
        "yes/no above majority": model["yes/no"] - scores["majority"]["yes/no"],
    }
    return [name for name, bound in BOUNDS.items() if reached[name] < bound]


def table(figures: Mapping[str, Any]) -> str:
    """The accuracies as plain text, and the bounds that were missed."""
    columns = list(figures["accuracy"])
    lines = [f"{'':8}{'questions':>10}" + "".join(f"{name:>10}" for name in columns)]
    for kind in (*KINDS, ALL):
        cells = "".join(f"{figures['accuracy'][name][kind]:10.4f}" for name in columns)
        lines.append(f"{kind:8}{figures['questions'][kind]:10}{cells}")
    return "\n".join([*lines, f"bounds missed: {', '.join(figures['missed']) or 'none'}"])


def _evaluation(folder: Path) -> tuple[dict[str, Any], list[Prediction]]:
    record = read_object(folder / "vqav2.json")
    if record.get("state") != "finished":
        raise UserError(f"{folder}: the evaluation is not finished; run it again, it goes on")
    return record, list(Predictions(folder / "vqav2.predictions.jsonl").read().values())


def _stage(workdir: Path) -> dict[str, Any]:
    """Config and curve of a training, by evenly spaced records of its metrics."""
    metrics = read_metrics(workdir / "metrics.jsonl")
    chosen = sorted(set(np.linspace(0, len(metrics) - 1, CURVE).round().astype(int)))
    names = ("step", "seconds", "text_loss")
    return {
        "steps": metrics[-1]["step"],
        "seconds": metrics[-1]["seconds"],
        "curve": [{name: metrics[index][name] for name in names} for index in chosen],
        "config": read_object(workdir / "config.json"),
    }


def _listed(file: Path, key: str) -> list[dict[str, Any]]:
    return field(read_object(file, LARGEST_FILE), key, list, str(file))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path("runs/easy_vqa"), help="what make easy-vqa left")
    parser.add_argument("--output", type=Path, required=True, help="JSON file for the figures")
    options = parser.parse_args()
    try:
        figures = report(options.folder)
    except UserError as error:
        sys.exit(f"error: {error}")
    write_text(options.output, json.dumps(figures, indent=2) + "\n")
    print(table(figures))


if __name__ == "__main__":
    main()
