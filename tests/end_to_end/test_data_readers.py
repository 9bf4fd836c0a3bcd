"""The command line with data readers in processes of their own, and with a reader that hangs."""

import contextlib
import json
import random
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.end_to_end.command import HANG, ROOT, command, environment, run
from tests.small_run import write_config, write_data

WORKERS = 2


def losses(workdir):
    lines = map(json.loads, (workdir / "metrics.jsonl").read_text().splitlines())
    return [(line["step"], line["loss"]) for line in lines]


def test_a_run_with_worker_processes_is_the_run_without(tmp_path):
    write_data(tmp_path / "data")
    write_config(tmp_path / "config.py", tmp_path / "data", steps=4, log_every=1)
    flags = ["--mode=train", f"--config={tmp_path / 'config.py'}"]
    for name, workers in (("threads", 0), ("processes", 1)):
        done = run(*flags, f"--workdir={tmp_path / name}", f"--config.data.workers={workers}")
        assert done.returncode == 0, done.stderr
    assert losses(tmp_path / "processes") == losses(tmp_path / "threads")


def children(process: int) -> list[int]:
    """Every process that ``process`` has started, and theirs."""
    found = []
    for task in Path(f"/proc/{process}/task").glob("*"):
        with contextlib.suppress(OSError):  # it has ended
            for child in map(int, (task / "children").read_text().split()):
                found += [child, *children(child)]
    return found


def is_running(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def kill_and_wait(run: subprocess.Popen) -> None:
    """Kills ``run``, which has started its readers; all that it has started ends with it."""
    readers = children(run.pid)
    assert len(readers) >= WORKERS
    run.kill()
    ends_by = time.monotonic() + HANG
    while any(map(is_running, readers)) and time.monotonic() < ends_by:
        time.sleep(0.1)
    assert not any(map(is_running, readers))


def test_readers_end_with_their_parent_that_is_killed(tmp_path):
    write_data(tmp_path)
    words = [sys.executable, "-m", "tests.end_to_end.reading_run", str(tmp_path), str(WORKERS)]
    with subprocess.Popen(words, cwd=ROOT, env=environment(), stdout=subprocess.PIPE, text=True) as run:
        assert run.stdout is not None and run.stdout.readline() == "batch\n"
        kill_and_wait(run)


def test_readers_that_still_import_end_with_their_parent_that_is_killed(tmp_path):
    """Until their imports are done, none of our code runs that Grain would call."""
    write_data(tmp_path)
    words = [sys.executable, "-m", "tests.end_to_end.importing_run", str(tmp_path), str(WORKERS)]
    with subprocess.Popen(words, cwd=ROOT, env=environment(), stdout=subprocess.PIPE, text=True) as run:
        assert run.stdout is not None
        assert [run.stdout.readline() for _ in range(WORKERS)] == ["importing\n"] * WORKERS
        kill_and_wait(run)


@pytest.mark.slow
def test_readers_end_with_the_training_that_is_killed_twenty_times(tmp_path):
    """At any moment from the start of the readers on: while they import, while steps are compiled, and in training."""
    write_data(tmp_path / "data")
    write_config(tmp_path / "config.py", tmp_path / "data", steps=100_000)
    flags = ["--mode=train", f"--config={tmp_path / 'config.py'}", f"--config.data.workers={WORKERS}"]
    rng = random.Random(0)
    for _ in range(20):
        words = command(*flags, f"--workdir={tmp_path / 'run'}")
        with subprocess.Popen(words, cwd=ROOT, env=environment(), stderr=subprocess.DEVNULL) as run:
            while len(children(run.pid)) < WORKERS and run.poll() is None:
                time.sleep(0.05)
            time.sleep(rng.uniform(0.0, 20.0))
            kill_and_wait(run)


@pytest.mark.slow
def test_a_run_whose_reader_hangs_ends_and_names_what_is_being_read(tmp_path):
    write_data(tmp_path / "data")
    write_config(tmp_path / "config.py", tmp_path / "data")
    flags = [f"--config={tmp_path / 'config.py'}", f"--workdir={tmp_path / 'run'}", "--config.data.patience=3.0"]
    done = subprocess.run(
        command("--mode=train", *flags, "--config.train.steps=40"),
        cwd=ROOT,
        env=environment() | {"HANG_ON": "/images/11.png"},
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert done.returncode == 1 and "Traceback" not in done.stderr
    # Record 11, unless the machine is so slow that the first batch takes longer than the patience.
    reading = r"being read: (images|captions|questions)\[\d+\] for \d+ s"
    assert re.search(rf"error: no batch came for 3 s \(data.patience\); {reading}", done.stderr), done.stderr
