"""Loads the code that benchmarks are scored with elsewhere, unchanged in what it computes."""

import ast
import contextlib
import importlib
import importlib.machinery
import importlib.util
import io
import json
import os
import re
import string
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np


def lmms_eval(module: str) -> Any:
    """A module of lmms-eval by its name below the package, whose own ``__init__`` files load a whole model zoo."""
    found = importlib.machinery.PathFinder.find_spec("lmms_eval")
    assert found and found.submodule_search_locations, "make check-scorers installs lmms-eval"
    name, folder = "lmms_eval", Path(found.submodule_search_locations[0])
    for part in (None, *module.split(".")[:-1]):
        if part is not None:
            name, folder = f"{name}.{part}", folder / part
        if name not in sys.modules:
            sys.modules[name] = types.ModuleType(name)
            sys.modules[name].__path__ = [str(folder)]
    return importlib.import_module(f"lmms_eval.{module}")


class Vqa:
    """``vqaEval.py`` of the checkout in $VQA, with its print statements as calls."""

    def __init__(self):
        file = Path(os.environ["VQA"]) / "PythonEvaluationTools/vqaEvaluation/vqaEval.py"
        source = re.sub(r"^(\s*)print (.*)$", r"\1print(\2)", file.read_text(encoding="utf-8"), flags=re.MULTILINE)
        scope: dict[str, Any] = {}
        exec(compile(source, str(file), "exec"), scope)
        self._scorer = scope["VQAEval"]

    def accuracies(self, records: list[tuple[str, list[str]]]) -> list[float]:
        """The accuracies of predictions with their annotators' answers, which get the ids that the dataset has."""
        truths = {
            index: {
                "question_type": "what",
                "answer_type": "other",
                "answers": [{"answer_id": place + 1, "answer": answer} for place, answer in enumerate(answers)],
            }
            for index, (_, answers) in enumerate(records)
        }
        truth = types.SimpleNamespace(qa=truths, getQuesIds=lambda: list(truths))
        said = types.SimpleNamespace(qa={index: {"answer": text} for index, (text, _) in enumerate(records)})
        scorer = self._scorer(truth, said, n=14)  # decimals
        with contextlib.redirect_stdout(io.StringIO()):
            scorer.evaluate()
        return [scorer.evalQA[index] / 100 for index in range(len(records))]


def pope(folder: Path, records: list[tuple[str, str]]) -> dict[str, float]:
    """What ``evaluate.py`` of the checkout in $POPE prints of answers and labels, given in files of ``folder``."""
    file = Path(os.environ["POPE"]) / "evaluate.py"
    source = file.read_text(encoding="utf-8")
    for name, lines in (
        ("ans_file", [{"answer": answer} for answer, _ in records]),
        ("label_file", [{"label": label} for _, label in records]),
    ):
        path = folder / name
        path.write_text("\n".join(json.dumps(line) for line in lines))
        assert f"{name} = ''" in source
        source = source.replace(f"{name} = ''", f"{name} = {str(path)!r}")
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(source, str(file), "exec"), {})
    return {name: float(value) for name, value in re.findall(r"^(\w[\w ]*): (.*)$", printed.getvalue(), re.MULTILINE)}


def pope_accuracy(folder: Path, answer: str, label: str) -> float:
    """The accuracy that ``pope`` prints of one record, beside one that makes its other figures defined."""
    return 2 * pope(folder, [(answer, label), ("yes", "yes")])["Accuracy"] - 1


def exact_match() -> Callable[..., dict[str, float]]:
    """``exact_match_hf_evaluate`` of lmms-eval, alone: its file loads scorers of translations first."""
    found = importlib.machinery.PathFinder.find_spec("lmms_eval")
    assert found and found.submodule_search_locations, "make check-scorers installs lmms-eval"
    file = Path(found.submodule_search_locations[0]) / "api/metrics.py"
    tree = ast.parse(file.read_text(encoding="utf-8"))
    tree.body = [node for node in tree.body if getattr(node, "name", None) == "exact_match_hf_evaluate"]
    scope: dict[str, Any] = {"np": np, "re": re, "string": string}
    exec(compile(tree, str(file), "exec"), scope)
    return scope["exact_match_hf_evaluate"]


def mmbench() -> Any:
    """``MMBench_Evaluator`` of lmms-eval, alone: its file loads requests and pandas for parts that are not called."""
    found = importlib.machinery.PathFinder.find_spec("lmms_eval")
    assert found and found.submodule_search_locations, "make check-scorers installs lmms-eval"
    file = Path(found.submodule_search_locations[0]) / "tasks/mmbench/mmbench_evals.py"
    tree = ast.parse(file.read_text(encoding="utf-8"))
    tree.body = [node for node in tree.body if getattr(node, "name", None) == "MMBench_Evaluator"]
    log = types.SimpleNamespace(info=lambda text: None)
    scope: dict[str, Any] = {"os": os, "string": string, "eval_logger": log}
    exec(compile(tree, str(file), "exec"), scope)
    return scope["MMBench_Evaluator"]()


def mmmu_open() -> types.SimpleNamespace:
    """``parse_open_response`` and ``eval_open`` of lmms-eval, alone: their file reads its YAML and sets up a judge."""
    found = importlib.machinery.PathFinder.find_spec("lmms_eval")
    assert found and found.submodule_search_locations, "make check-scorers installs lmms-eval"
    file = Path(found.submodule_search_locations[0]) / "tasks/mmmu/utils.py"
    tree = ast.parse(file.read_text(encoding="utf-8"))
    names = {"extract_numbers", "check_is_number", "normalize_str", "parse_open_response", "eval_open"}
    tree.body = [node for node in tree.body if getattr(node, "name", None) in names]
    scope: dict[str, Any] = {"re": re}
    exec(compile(tree, str(file), "exec"), scope)
    return types.SimpleNamespace(parse=scope["parse_open_response"], score=scope["eval_open"])
