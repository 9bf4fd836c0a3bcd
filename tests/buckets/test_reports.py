"""What a run reports beside its metrics reaches the bucket: event files, traces, previews, the stacks of a stall."""

import os
import re
import subprocess
import sys

import jax.numpy as jnp
import pytest
from PIL import Image

from configs import demo
from dualdiff_jax.config import PreviewConfig
from dualdiff_jax.config.resolve import resolve
from dualdiff_jax.evaluation import previews
from dualdiff_jax.files import as_path
from dualdiff_jax.files.listing import file_sizes
from dualdiff_jax.training.telemetry import sinks
from dualdiff_jax.training.telemetry.sinks import TensorBoard
from dualdiff_jax.training.telemetry.trace import Trace

STALL = """
import sys, time
from dualdiff_jax.files import as_path
from dualdiff_jax.training.stall_watchdog import StallWatchdog
with StallWatchdog(0.2, as_path(sys.argv[1])):
    time.sleep(600)
"""


@pytest.fixture
def workdir(bucket, request):
    yield as_path(f"{bucket.root}/{request.node.name}")
    bucket.fail()


def test_event_files_are_copied_while_the_run_lives_and_long_ones_are_ended(workdir, monkeypatch):
    monkeypatch.setattr(sinks, "COPY_EVERY", 0.0)
    monkeypatch.setattr(sinks, "FIGURES", 2)
    board = TensorBoard(workdir, 0)
    for step in (1, 2, 3):
        board.write(step, {"loss": 1.5, "bins": [0.5, None]})
    assert len(file_sizes(workdir / "tensorboard")) == 2  # the last file may lack figures that still wait in a queue
    board.close()
    content = b"".join(file.read_bytes() for file in (workdir / "tensorboard").iterdir())
    assert content.count(b"loss") == content.count(b"bins/0") == 3


def test_a_refused_copy_is_reported_and_made_up_for(workdir, bucket, monkeypatch, caplog):
    board = TensorBoard(workdir, 0)
    monkeypatch.setattr(sinks, "COPY_EVERY", 0.0)
    bucket.fail(refused=True)
    board.write(1, {"loss": 1.5})
    assert "TensorBoard's files cannot be copied" in caplog.text and file_sizes(workdir) == {}
    bucket.fail()
    board.close()
    assert len(file_sizes(workdir / "tensorboard")) == 1


def test_a_trace_is_copied_when_it_ends(workdir):
    trace = Trace((1, 1), workdir / "profile")
    with trace.step(1):
        result = jnp.ones(3) + 1
    trace.finished(1, result)
    assert any(name.endswith(".xplane.pb") for name in file_sizes(workdir / "profile"))


def test_a_preview_is_written(workdir, monkeypatch):
    class Pipeline:
        def __init__(self, *arguments):
            pass

        def text_to_image(self, prompts):
            return [Image.new("RGB", (8, 8), "red") for _ in prompts]

    monkeypatch.setattr(previews, "DualDiffusionPipeline", Pipeline)
    model = resolve(demo.get_config()).model
    preview = previews.Preview(PreviewConfig(prompts=("a", "b")), model, None, workdir / "samples")  # pyright: ignore[reportArgumentType]
    preview(3, {})
    assert set(file_sizes(workdir / "samples")) == {"step_0000003.json", "step_0000003.png"}
    with Image.open((workdir / "samples" / "step_0000003.png").open("rb")) as image:
        assert image.getpixel((5, 5)) == (255, 0, 0)


def test_the_stacks_of_a_stall_are_written(workdir):
    finished = subprocess.run(
        [sys.executable, "-c", STALL, str(workdir)],
        capture_output=True,
        text=True,
        env=os.environ | {"JAX_PLATFORMS": "cpu"},
    )
    assert finished.returncode == 1 and "no step has finished for 0.2 seconds" in finished.stderr
    assert re.search(r"no step has finished.*Thread 0x", (workdir / "stall_host_0.txt").read_text(), re.DOTALL)
