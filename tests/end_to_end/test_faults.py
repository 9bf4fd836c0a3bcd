"""Faults in the middle of a run: losses that are not finite, a full disk, data that never comes, a second signal."""

import contextlib
import json
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import pytest

from dualdiff_jax.config import MeshConfig
from dualdiff_jax.data.mixture import Mixture
from dualdiff_jax.errors import UserError
from dualdiff_jax.sharding import make_mesh
from dualdiff_jax.training import optimizer
from dualdiff_jax.training.loop import train
from tests.end_to_end.command import HANG, PROGRESS, ROOT, environment, run_module
from tests.small_run import RECORDS, small_run, write_config, write_data

FIRST = 3  # batches without the record that blocks


def one_device():
    return make_mesh(MeshConfig(), jax.devices()[:1])


def test_steps_that_stay_not_finite_end_the_run_saved(tmp_path, caplog, monkeypatch):
    """A rate at which the gradients leave fp32's range (no config may name it): all steps but the first are skipped."""
    monkeypatch.setattr(optimizer, "learning_rate", lambda *_: lambda count: 1e15)
    sections = {
        "optimizer": {"weight_decay": 0.0},
        "train": {"steps": 40, "stop_after_skipped": 3, "log_every": 1},
    }
    config, tokenizer = small_run(tmp_path / "data", **sections)
    with pytest.raises(UserError, match="no step from 2 to 4 had a finite loss and gradient") as error:
        train(config, tmp_path / "run", one_device())
    assert "the state is saved at step 5" in str(error.value)
    assert (tmp_path / "run" / "checkpoints" / "5").is_dir()
    lines = [json.loads(line) for line in (tmp_path / "run" / "skipped_steps.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines[:3]] == [2, 3, 4]
    assert lines[0]["image_stream"] == mixture(config, tokenizer).record_ids(1)["image_stream"]
    assert "step 2: loss or gradient not finite" in caplog.text and lines[0]["text_stream"][0] in caplog.text
    logged = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert logged[0]["gradient_norm"] is not None and logged[1]["gradient_norm"] is None
    assert [record["skipped"] for record in logged] == [0, 1, 2, 3, 4]
    with pytest.raises(UserError, match="no step from 2 to 7"):  # it may skip as many steps once more
        train(config, tmp_path / "run", one_device())


def test_a_full_disk_does_not_end_the_run(tmp_path):
    """No room from step 5 to step 9: the saves due in between are reported and come later, no record is lost."""
    write_data(tmp_path / "data")
    write_config(tmp_path / "config.py", tmp_path / "data", steps=12, log_every=1, save_every=2)
    flags = ["--mode=train", f"--config={tmp_path / 'config.py'}", f"--workdir={tmp_path / 'run'}"]
    finished = run_module("tests.end_to_end.full_disk_run", "5", "9", *flags)
    assert finished.returncode == 0, finished.stderr
    assert re.search(r"a checkpoint cannot be written \(.*\); the last good one is of step [24];", finished.stderr)
    other = [line for line in finished.stderr.splitlines() if not re.match(rf"WARNING: |{PROGRESS}", line)]
    assert not other, other[:20]
    logged = [json.loads(line)["step"] for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert logged == list(range(1, 13))
    assert (tmp_path / "run" / "checkpoints" / "12").is_dir() and (tmp_path / "run" / "model").is_dir()


def mixture(config, tokenizer) -> Mixture:
    return Mixture(config.data, tokenizer, seed=config.seed, global_batch_size=config.train.global_batch_size)


def test_record_ids_name_the_records_of_the_batch(tmp_path):
    """The text of each row is a caption or answer of the record that its id names."""
    config, tokenizer = small_run(tmp_path)
    data = mixture(config, tokenizer)
    metadata = {name: json.loads((tmp_path / f"{name}.json").read_text()) for name in ("captions", "questions")}
    for step in (0, 7):
        ids, batch = data.record_ids(step), data.batch(step)
        for stream, examples in zip(("image_stream", "text_stream"), batch, strict=True):
            for name, tokens in zip(ids[stream], examples["token_ids"], strict=True):
                source, index = name.rstrip("]").split("[")
                record = metadata[source.removesuffix(".json")][int(index)]
                texts = [record.get(key, "") for key in ("caption", "re_caption", "answer")]
                read = tokenizer.decode(tokens)
                assert any(text and text in read for text in texts), (name, read)


@pytest.fixture
def blocked(tmp_path, monkeypatch) -> tuple[list[str], int]:
    """(flags of a run that blocks, batches before it does): opening one image waits for ever."""
    config, tokenizer = small_run(tmp_path / "data")
    ids = [str(mixture(config, tokenizer).record_ids(step)) for step in range(20)]
    late = next(index for index in range(1, RECORDS) if f"[{index}]" not in str(ids[:FIRST]))
    monkeypatch.setenv("HANG_ON", f"/images/{late}.png")
    write_config(tmp_path / "config.py", tmp_path / "data", steps=400, log_every=1, stall_seconds=20.0)
    flags = ["--mode=train", f"--config={tmp_path / 'config.py'}", f"--workdir={tmp_path / 'run'}"]
    return flags, next(step for step, of_batch in enumerate(ids) if f"[{late}]" in of_batch)


@pytest.mark.slow
def test_a_worker_that_hangs_is_shown_and_ends_the_run(blocked, tmp_path):
    flags, _ = blocked
    finished = run_module("tests.end_to_end.patient_run", *flags)
    assert finished.returncode == 1
    assert "error: no step has finished for 20 seconds" in finished.stderr
    for stacks in (finished.stderr, (tmp_path / "run" / "stall_host_0.txt").read_text()):
        assert "read_pixels" in stacks and "loop.py" in stacks


def wait_for_lines(process: subprocess.Popen, file: Path, count: int) -> None:
    """Until ``file`` has ``count`` lines; an error if the process ends before."""
    deadline = time.monotonic() + HANG
    while not file.exists() or len(file.read_text().splitlines()) < count:
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.05)


@pytest.mark.slow
def test_a_second_signal_ends_it_at_once(blocked, tmp_path):
    """The first is noted, but the loop waits for data and cannot come to its end."""
    flags, batches = blocked
    words = [sys.executable, "main.py", *flags, "--config.train.stall_seconds=0", "--config.data.patience=86400"]
    process = subprocess.Popen(words, cwd=ROOT, env=environment(), stderr=subprocess.DEVNULL)
    try:
        wait_for_lines(process, tmp_path / "run" / "metrics.jsonl", batches)  # then it waits for the next batch
        process.send_signal(signal.SIGTERM)
        for _ in range(int(HANG / 2)):  # a signal within a second of the first counts as its echo
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(2.0)
                break
            process.send_signal(signal.SIGTERM)
    finally:
        process.kill()
    assert process.wait() == -signal.SIGTERM
