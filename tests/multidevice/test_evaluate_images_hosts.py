"""Two processes of four devices, killed again and again, draw and score what one device does, each image once."""

import json
import random
import time

import numpy as np
import pytest
from PIL import Image

from dualdiff_jax.weights import save_model
from tests.end_to_end.command import HANG, run
from tests.image_benchmarks import write_geneval
from tests.multidevice.hosts import finish, start, start_two
from tests.small_run import small_run
from tests.unit.evaluation.fid import narrow
from tests.unit.tiny import random_weights

pytestmark = pytest.mark.slow
PROMPTS, KILLS = 40, 5
LEVELS = 2  # of 255: the devices of a batch sum in another order


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A model, the data, and what one device draws in ``one/``."""
    root = tmp_path_factory.mktemp("evaluate_images_hosts")
    config, tokenizer = small_run(root / "run")
    save_model(root / "model", config.model, random_weights(config.model), tokenizer)
    write_geneval(root / "data", prompts=PROMPTS)
    done = run(*drawing(root, "one")[1:])
    assert done.returncode == 0, done.stderr
    return root


def drawing(root, output):
    given = {"model": root / "model", "data": root / "data", "output": root / output, "task": "geneval", "steps": 2}
    return ["main.py", "--mode=evaluate", *(f"--{name}={value}" for name, value in given.items())]


def images(root, output):
    return sorted(file for file in (root / output / "geneval").rglob("*.png") if not file.name.startswith("."))


def check_as_one_device(root, output):
    found, expected = images(root, output), images(root, "one")
    assert [file.relative_to(root / output) for file in found] == [file.relative_to(root / "one") for file in expected]
    assert len(found) == 4 * PROMPTS
    for ours, theirs in zip(found, expected, strict=True):
        pixels = [np.asarray(Image.open(file)).astype(int) for file in (ours, theirs)]
        assert np.abs(pixels[0] - pixels[1]).max() <= LEVELS
    records = [json.loads((root / name / "geneval.json").read_text()) for name in (output, "one")]
    for name in ("state", "images", "settings", "data"):
        assert records[0][name] == records[1][name], name


def test_two_processes_killed_at_random_moments_draw_each_image_once(root):
    rng = random.Random(time.time_ns())
    written: dict = {}
    counts = []
    for kill in range(KILLS):
        processes = start_two(*drawing(root, "killed"))
        target, deadline = len(images(root, "killed")) + rng.randrange(1, 25), time.monotonic() + HANG
        while len(images(root, "killed")) < target and time.monotonic() < deadline:
            assert all(process.poll() is None for process in processes), finish(processes)
            time.sleep(0.01)
        time.sleep(rng.random() / 10)
        for process in processes if kill % 2 else processes[1:]:  # of one, the other ends by itself
            process.kill()
        finish(processes)
        now = {file: file.stat().st_mtime_ns for file in images(root, "killed")}
        assert written.items() <= now.items()  # none was written again
        written = now
        counts.append(len(now))
    assert counts == sorted(counts) and counts[0] > 0 and counts[-1] < 4 * PROMPTS, counts
    said = finish(processes := start_two(*drawing(root, "killed")))
    assert [process.returncode for process in processes] == [0, 0], said
    assert said[0].count("GenEval, 40 prompts, 160 images") == 1 and "GenEval, 40" not in said[1]
    assert written.items() <= {file: file.stat().st_mtime_ns for file in images(root, "killed")}.items()
    check_as_one_device(root, "killed")


def test_eight_devices_draw_as_one(root):
    said = finish([process := start(*drawing(root, "eight"), devices=8)])
    assert process.returncode == 0, said
    check_as_one_device(root, "eight")


def test_fid_at_its_true_size_is_the_same_on_two_processes(root):
    """The published network's size, by the command; the distance of images of one seed and of another."""
    narrow.write(root / "inception.pth", divisor=1)
    for name, seed in (("a", 0), ("b", 1)):
        (root / name).mkdir()
        rng = np.random.default_rng(seed)
        for number in range(10 + seed):
            pixels = rng.integers(0, 256 - 100 * seed, (40, 30 + number, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(root / name / f"{number}.png")
    words = {"images": root / "a", "data": root / "b", "weights": root / "inception.pth"}
    command = ["main.py", "--mode=evaluate", "--task=fid", *(f"--{name}={value}" for name, value in words.items())]
    done = run(*command[1:], f"--output={root / 'fid_one'}")
    assert done.returncode == 0, done.stderr
    said = finish(processes := start_two(*command, f"--output={root / 'fid_two'}"))
    assert [process.returncode for process in processes] == [0, 0], said
    one, two = (json.loads((root / f"fid_{name}/fid.json").read_text()) for name in ("one", "two"))
    assert one["score"] > 0 and two["score"] == pytest.approx(one["score"], rel=1e-6)
    assert one["counts"] == two["counts"] == {"images": 10, "reference": 11}
