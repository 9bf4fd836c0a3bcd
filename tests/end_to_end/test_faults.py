"""What goes wrong in the middle of a run ends as promised: numbers that are not finite, data that never comes."""

import json
import os
import signal
import subprocess
import time

import jax
import pytest

from dualdiff_jax.config import MeshConfig
from dualdiff_jax.data.mixture import Mixture
from dualdiff_jax.errors import UserError
from dualdiff_jax.sharding import make_mesh
from dualdiff_jax.training.loop import train
from tests.end_to_end.command import ROOT, command, environment
from tests.full_disk import full_disk
from tests.small_run import RECORDS, small_run, write_config

FIRST = 3  # batches without what blocks


def one_device():
    return make_mesh(MeshConfig(), jax.devices()[:1])


def test_steps_that_stay_not_finite_end_the_run_saved(tmp_path, caplog):
    """A rate that throws the weights out of what fp32 holds: every loss after the first update is NaN."""
    sections = {
        "optimizer": {"learning_rate": 1e38, "warmup_steps": 0, "schedule": "constant", "weight_decay": 0.0},
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
    assert logged[0]["loss"] is not None and logged[1]["loss"] is None
    assert [record["skipped"] for record in logged] == [0, 1, 2, 3, 4]
    with pytest.raises(UserError, match="no step from 2 to 7"):  # as many tries once more
        train(config, tmp_path / "run", one_device())


def test_a_full_disk_does_not_end_the_run(tmp_path, caplog):
    """No room from step 5 to step 9: what is due in between is told and comes later, records are all there."""
    config, _ = small_run(tmp_path / "data", train={"steps": 12, "log_every": 1, "save_every": 2})
    last_good = {}
    with full_disk() as fill:

        def hook(step, weights):
            if step in (5, 9):
                fill(step == 5)
                kept = (tmp_path / "run" / "checkpoints").iterdir()
                last_good[step] = max(int(path.name) for path in kept if path.name.isdigit())

        assert train(config, tmp_path / "run", one_device(), [(1, hook)]) == tmp_path / "run" / "model"
    assert last_good[9] in (2, 4) and "a checkpoint cannot be written" in caplog.text
    assert f"the last good one is of step {last_good[9]}" in caplog.text
    logged = [json.loads(line)["step"] for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert logged == list(range(1, 13))
    assert (tmp_path / "run" / "checkpoints" / "12").is_dir()


def mixture(config, tokenizer) -> Mixture:
    return Mixture(config.data, tokenizer, seed=config.seed, global_batch_size=config.train.global_batch_size)


def test_the_ids_are_of_the_records_that_were_read(tmp_path):
    """Each id's own caption or answer is among the texts of the batch."""
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
def blocked(tmp_path):
    """Flags of a run one of whose images is a pipe that nobody writes to: who opens it waits for ever.

    None of the first three batches has it.
    """
    config, tokenizer = small_run(tmp_path / "data")
    early = str([mixture(config, tokenizer).record_ids(step) for step in range(FIRST)])
    late = next(index for index in range(1, RECORDS) if f"[{index}]" not in early)
    pipe = tmp_path / "data" / "images" / f"{late}.png"
    pipe.unlink()
    os.mkfifo(pipe)
    write_config(tmp_path / "config.py", tmp_path / "data", steps=400, log_every=1, stall_seconds=45.0)
    return ["--mode=train", f"--config={tmp_path / 'config.py'}", f"--workdir={tmp_path / 'run'}"]


def start(flags):
    return subprocess.Popen(command(*flags), cwd=ROOT, env=environment(), stderr=subprocess.PIPE, text=True)


def test_a_worker_that_hangs_is_shown_and_ends_the_run(blocked, tmp_path):
    process = start(blocked)
    _, told = process.communicate(timeout=240)
    assert process.returncode == 1
    assert "error: no step has finished for 45 seconds" in told
    for stacks in (told, (tmp_path / "run" / "stall_host_0.txt").read_text()):
        assert "read_pixels" in stacks and "loop.py" in stacks


def test_a_second_signal_ends_it_at_once(blocked, tmp_path):
    """The first is noted, but the loop waits for data and cannot come to its end."""
    process = start(blocked)
    deadline = time.monotonic() + 240
    metrics = tmp_path / "run" / "metrics.jsonl"
    while time.monotonic() < deadline and not (metrics.exists() and len(metrics.read_text().splitlines()) >= FIRST):
        time.sleep(0.05)
    time.sleep(2.0)  # the other data that was read ahead is used up
    process.send_signal(signal.SIGTERM)
    time.sleep(2.0)
    assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=10)
    assert process.returncode == -signal.SIGTERM
