"""Standard output with ``--format=json --quiet`` is one JSON value, whatever the mode, and standard error is empty."""

import dataclasses
import functools
import json

import jax
import pytest
from PIL import Image

from dualdiff_jax import progress
from dualdiff_jax.cli.modes import MODES
from dualdiff_jax.evaluation.fid import features, score
from dualdiff_jax.evaluation.fid.inception_weights import read_weights
from dualdiff_jax.hardware import CHIPS
from dualdiff_jax.planning import report
from dualdiff_jax.planning.topology import Topology
from tests.benchmark_layouts import LAYOUTS
from tests.end_to_end.command import run_here
from tests.image_benchmarks import write_geneval
from tests.small_run import write_config, write_data
from tests.unit.evaluation.fid import narrow
from tests.unit.pipeline.shallow import shallow_pipeline

SHOWS_NO_RESULT = {"app"}  # it serves until it is interrupted
CHIP = dataclasses.replace(CHIPS["h100"], name="a CPU", platform="cpu", memory=1 << 28)
PROMPT, IMAGE, STEPS = "--prompt=a handwritten three", "--image=data/images/0.png", "--steps=1"
MODEL, CONFIG, OUT = "--model=model", "--config=config.py", "--output=out"
T5_OF_MODEL = [
    f"--config.model.t5.{size}" for size in ("vocab_size=34", "relative_buckets=8", "relative_max_distance=12")
]
QUESTIONS = [MODEL, "--task=vqav2", "--data=data", STEPS, "--length=64"]
WRITTEN = {"image", "seed"}
CASES = [  # mode, its flags, the names of its object, or of each object of its list
    ("train", [CONFIG, "--workdir=run"], {"workdir", "finished", "model", "lora"}),
    ("generate", [MODEL, PROMPT, OUT, STEPS], WRITTEN | {"prompt"}),
    ("edit", [MODEL, PROMPT, OUT, IMAGE, STEPS], WRITTEN | {"source"}),
    ("inpaint", [MODEL, PROMPT, OUT, IMAGE, "--mask=mask.png", STEPS], WRITTEN | {"source"}),
    ("variations", [MODEL, OUT, IMAGE, STEPS, "--count=1"], WRITTEN | {"source"}),
    ("joint", [MODEL, OUT, STEPS], WRITTEN | {"text"}),
    ("caption", [MODEL, IMAGE, STEPS], WRITTEN | {"caption"}),
    ("answer", [MODEL, IMAGE, STEPS, "--question=which digit is this?"], WRITTEN | {"question", "answer"}),
    ("infill", [MODEL, IMAGE, STEPS, "--text=a handwritten _"], WRITTEN | {"text"}),
    ("score", [MODEL, IMAGE, "--text=a handwritten three", "--samples=4"], {"image", "text", "nats"}),
    ("evaluate", [*QUESTIONS, OUT], {"task", "score"}),
    ("evaluate", [MODEL, "--task=geneval", "--data=data", OUT, STEPS, "--limit=1"], {"task", "score"}),
    (
        "evaluate",
        ["--task=fid", "--images=data/images", "--data=data/images", "--weights=inception.pth", OUT],
        {"score"},
    ),
    ("plan", [CONFIG, "--topology=here"], {"topology", "memory"}),
    ("list-images", ["--images=data/images", "--text=a digit"], {"file", "pictures", "left_out"}),
    ("inspect-data", [CONFIG, OUT, "--samples=4"], {"page", "sources"}),
    ("encode-data", [CONFIG, *T5_OF_MODEL, MODEL, OUT], {"name", "format"}),
    ("check", [CONFIG, "--workdir=run"], {"what", "status", "found"}),
    ("compare", ["scores", "scores"], {"task", "difference"}),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("json")
    write_data(folder / "data")
    LAYOUTS["vqav2"](folder / "data")
    write_geneval(folder / "data", prompts=1)
    write_config(folder / "config.py", folder / "data", steps=3)
    shallow_pipeline(folder / "tokenizer").save_pretrained(folder / "model")
    narrow.write(folder / "inception.pth")
    Image.new("L", (8, 8), 255).save(folder / "mask.png")
    return folder


@pytest.fixture(scope="module")
def scores():
    """An evaluation, to be compared."""
    assert run_here("--mode=evaluate", *QUESTIONS, "--output=scores").returncode == 0


@pytest.fixture(autouse=True)
def here(folder, monkeypatch):
    """In the folder; --quiet ends with the test, Inception is small, and a plan is for this machine's own device."""
    monkeypatch.chdir(folder)
    monkeypatch.setattr(progress, "_silenced", False)
    monkeypatch.setattr(features, "ROWS", 4)
    monkeypatch.setattr(score, "read_weights", functools.partial(read_weights, divisor=narrow.DIVISOR))
    monkeypatch.setattr(report, "_open", lambda name: Topology(name, CHIP, 1, jax.devices()[:1]))


def strict_json(text: str):
    """The one value of ``text``; NaN and Infinity, which no other parser takes, are refused."""

    def refuse(name: str):
        raise AssertionError(f"{name} is not JSON")

    return json.loads(text, parse_constant=refuse)


def test_every_mode_is_tried():
    assert {mode for mode, _, _ in CASES} == MODES.keys() - SHOWS_NO_RESULT


@pytest.mark.parametrize(("mode", "flags", "names"), CASES, ids=[f"{mode}{n}" for n, (mode, *_) in enumerate(CASES)])
def test_standard_output_is_one_json_value(mode, flags, names, tmp_path, capfd, request):
    if mode == "compare":
        request.getfixturevalue("scores")
    words = [f"--output={tmp_path}" if word == OUT else word for word in flags]
    finished = run_here(f"--mode={mode}", *words, "--format=json", "--quiet")
    assert (finished.returncode, finished.stderr) == (0, ""), finished.stderr
    assert capfd.readouterr().out == "", "written past sys.stdout"
    found = strict_json(finished.stdout)
    rows = found if isinstance(found, list) else [found]
    assert rows and all(names <= row.keys() for row in rows), found
