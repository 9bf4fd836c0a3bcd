"""Several devices and several processes sample together: each example once, and the results of one device."""

import json

import numpy as np
import pytest
from PIL import Image

from dualdiff_jax.weights import save_model
from tests.end_to_end.command import run_here
from tests.multidevice.hosts import finish, start, start_two
from tests.small_run import small_run
from tests.unit.tiny import random_weights

PROMPTS = ["one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "zero", "one two"]
LEVELS = 2  # of 255: the devices of a batch sum in another order


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model, and what one device, eight devices and two processes of four make of it."""
    folder = tmp_path_factory.mktemp("sampling")
    config, tokenizer = small_run(folder, model={"mmdit": {"depth": 2}})
    save_model(folder / "model", config.model, random_weights(config.model), tokenizer)
    model = f"--model={folder / 'model'}"
    drawing = ["main.py", "--mode=generate", model, "--steps=3", *(f"--prompt={prompt}" for prompt in PROMPTS)]
    images = [f"--image={folder / 'one' / f'{index:04d}.png'}" for index in range(len(PROMPTS))]
    reading = ["main.py", "--mode=caption", model, "--steps=3", "--length=8", *images]
    here = [run_here(*words[1:], f"--output={folder / 'one'}") for words in (drawing, reading)]
    assert all(done.returncode == 0 for done in here), here
    said = {"one": [[done.stdout + done.stderr] for done in here]}
    for name, run in {
        "eight": lambda *words: [start(*words, devices=8)],
        "two": start_two,
    }.items():
        said[name] = []
        for words in (drawing, reading):
            processes = run(*words, f"--output={folder / name}")
            said[name].append(finish(processes))
            assert all(process.returncode == 0 for process in processes), said[name]
    (folder / "said.json").write_text(json.dumps(said))
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("name", ["eight", "two"])
def test_images_and_texts_are_those_of_one_device(folder, name):
    for index, prompt in enumerate(PROMPTS):
        ours, theirs = (np.asarray(Image.open(folder / run / f"{index:04d}.png"), int) for run in ("one", name))
        assert np.abs(ours - theirs).max() <= LEVELS, prompt
    listed = json.loads((folder / name / "images.json").read_text())
    assert [row["prompt"] for row in listed] == PROMPTS
    captions = [json.loads((folder / run / "captions.json").read_text()) for run in ("one", name)]
    assert captions[0] == captions[1] and len(captions[0]) == len(PROMPTS)


def test_only_the_first_process_prints_and_one_line_says_where_the_weights_lie(folder):
    said = json.loads((folder / "said.json").read_text())
    line = "whole weights on each of 8 devices"
    for drawn in (said["eight"][0], said["two"][0]):
        assert drawn[0].count(line) == 1 and all(prompt in drawn[0] for prompt in PROMPTS)
    assert line not in said["one"][0][0]
    assert "0000.png" not in said["two"][0][1] and line not in said["two"][0][1]
