"""Two processes of four devices, killed again and again, answer as one device does, each question once."""

import json
import random
import time

import pytest

from dualdiff_jax.weights import save_model
from tests.benchmark_layouts import LAYOUTS
from tests.end_to_end.command import HANG, run
from tests.multidevice.hosts import finish, start, start_two
from tests.small_run import small_run
from tests.unit.tiny import random_weights

pytestmark = pytest.mark.slow
QUESTIONS = 203
KILLS = 5


def lines(output):
    file = output / "vqav2.predictions.jsonl"
    return file.read_bytes().splitlines() if file.exists() else []


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A model, the data, and what one device makes of them in ``one/``."""
    root = tmp_path_factory.mktemp("evaluate_hosts")
    config, tokenizer = small_run(root / "run")
    save_model(root / "model", config.model, random_weights(config.model), tokenizer)
    (root / "data").mkdir()
    LAYOUTS["vqav2"](root / "data", questions=QUESTIONS)
    done = run(*flags(root, "one")[1:])
    assert done.returncode == 0, done.stderr
    return root


def flags(root, output):
    given = {"model": root / "model", "data": root / "data", "output": root / output, "task": "vqav2"}
    return ["main.py", "--mode=evaluate", *(f"--{name}={value}" for name, value in given.items()), "--length=24"]


def check_as_one_device(root, output):
    found, expected = ([json.loads(line) for line in lines(root / name)] for name in (output, "one"))
    assert [each["id"] for each in found] == [each["id"] for each in expected]
    assert len({each["id"] for each in found}) == QUESTIONS
    assert found == expected
    ours, theirs = (json.loads((root / name / "vqav2.json").read_text()) for name in (output, "one"))
    for name in ("score", "standard_error", "count", "parts", "settings", "data"):
        assert ours[name] == theirs[name], name
    assert ours["model"]["fingerprint"] == theirs["model"]["fingerprint"]


def test_two_processes_killed_at_random_moments_answer_as_one_device(root):
    rng = random.Random(time.time_ns())
    counts = []
    for kill in range(KILLS):
        processes = start_two(*flags(root, "killed"))
        target, deadline = len(lines(root / "killed")) + rng.randrange(1, 40), time.monotonic() + HANG
        while len(lines(root / "killed")) < target and time.monotonic() < deadline:
            assert all(process.poll() is None for process in processes), finish(processes)
            time.sleep(0.01)
        time.sleep(rng.random() / 5)
        for process in processes if kill % 2 else processes[1:]:  # of one, the other ends by itself
            process.kill()
        finish(processes)
        counts.append(len(lines(root / "killed")))
    assert counts == sorted(counts) and counts[0] > 0 and counts[-1] < QUESTIONS, counts
    said = finish(processes := start_two(*flags(root, "killed")))
    assert [process.returncode for process in processes] == [0, 0], said
    assert said[0].count("VQAv2, val, 203 questions") == 1 and "VQAv2" not in said[1]
    check_as_one_device(root, "killed")


def test_eight_devices_answer_as_one(root):
    said = finish([process := start(*flags(root, "eight"), devices=8)])
    assert process.returncode == 0, said
    check_as_one_device(root, "eight")
