"""The README's examples as they stand, with a model of random weights in place of the demo's."""

import re
import shlex

import numpy as np
import pytest
from PIL import Image

from dualdiff_jax.weights import save_model
from tests.end_to_end.command import ROOT, run_here
from tests.small_run import small_run
from tests.unit.tiny import random_weights

PAGE = (ROOT / "README.md").read_text(encoding="utf-8")
COMMANDS = [
    shlex.split(line, comments=True)[2:] for line in PAGE.splitlines() if line.startswith("python main.py --mode=")
]
NOT_HERE = {
    "train",
    "app",
    "evaluate",
    "check",
    "inspect-data",
    "encode-data",
}  # need data, or do not end by themselves


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A working directory with ``runs/demo/model``."""
    config, tokenizer = small_run(tmp_path / "data")
    save_model(tmp_path / "runs/demo/model", config.model, random_weights(config.model), tokenizer)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_script_runs(folder):
    (script,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    names: dict = {}
    exec(compile(script, "README.md", "exec"), names)
    assert [image.size for image in names["images"]] == [(8, 8), (8, 8)]
    assert [image.size for image in names["pairs"]] == [(16, 8)]
    for name in ("captions", "answers", "filled"):
        assert names[name] and all(isinstance(text, str) for text in names[name])
    assert np.isfinite(names["scores"].nats).all() and names["scores"].nats.shape == (2, 2)


def test_the_commands_run_one_after_the_other(folder):
    modes = []
    for flags in COMMANDS:
        mode = flags[0].removeprefix("--mode=")
        if mode not in NOT_HERE:
            finished = run_here(*flags)
            assert finished.returncode == 0 and finished.stdout, (flags, finished.stderr)
            modes.append(mode)
    assert modes == ["generate", "edit", "caption", "answer", "infill", "score"]
    before, after = (np.asarray(Image.open(folder / "runs" / name / "0000.png")) for name in ("out", "edited"))
    assert before.shape == after.shape and not np.array_equal(before, after)
