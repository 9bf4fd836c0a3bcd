"""Signals, stalls and traces, each by itself."""

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from dualdiff_jax.config import MeshConfig
from dualdiff_jax.sharding import make_mesh
from dualdiff_jax.training.interruption import SIGNALS, Interruption
from dualdiff_jax.training.skipped_steps import SkippedSteps
from dualdiff_jax.training.stall_watchdog import StallWatchdog
from dualdiff_jax.training.telemetry.trace import Trace

ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_and_its_echo_are_noted_and_the_next_ends_the_process(number, monkeypatch):
    before = {each: signal.getsignal(each) for each in SIGNALS}
    with Interruption(make_mesh(MeshConfig(), jax.devices()[:1])) as interruption:
        assert not interruption.is_requested()
        os.kill(os.getpid(), number)
        assert interruption.is_requested() and interruption.signal == number.name
        os.kill(os.getpid(), number)
        assert signal.getsignal(number) is not signal.SIG_DFL
        raised = []
        monkeypatch.setattr(signal, "raise_signal", raised.append)
        interruption._since -= 2.0
        os.kill(os.getpid(), number)
        assert raised == [number] and signal.getsignal(number) is signal.SIG_DFL
    assert {each: signal.getsignal(each) for each in SIGNALS} == before


def test_another_thread_may_train_without_listening():
    caught = []

    def use():
        with Interruption(make_mesh(MeshConfig(), jax.devices()[:1])) as interruption:
            caught.append(interruption.is_requested())

    thread = threading.Thread(target=use)
    thread.start()
    thread.join()
    assert caught == [False]


STALL = """
import sys, time
from pathlib import Path
from dualdiff_jax.training.stall_watchdog import StallWatchdog

def hang():
    time.sleep(3600)

with StallWatchdog(5.0, Path(sys.argv[1])) as watchdog:
    for step in range(5):
        watchdog.progress(step)
    hang()
"""


def test_a_stall_shows_where_it_hangs_and_ends(tmp_path):
    code = [sys.executable, "-c", STALL, str(tmp_path)]
    finished = subprocess.run(code, cwd=ROOT, capture_output=True, text=True, timeout=1800)
    assert finished.returncode == 1
    assert "no step has finished for 5 seconds, the last was 4" in finished.stderr
    for stacks in (finished.stderr, (tmp_path / "stall_host_0.txt").read_text()):
        assert "in hang" in stacks


@pytest.mark.parametrize("seconds", [0.0, 600.0])
def test_the_watchdog_ends_with_the_run_and_is_absent_where_it_is_turned_off(tmp_path, seconds, monkeypatch):
    def watchdogs() -> list[threading.Thread]:
        return [thread for thread in threading.enumerate() if thread.name == "stall watchdog"]

    monkeypatch.setattr(StallWatchdog, "_end", lambda self: ended.append(self))
    ended = []
    with StallWatchdog(seconds, tmp_path) as watchdog:
        watchdog.progress(1)
        threads = watchdogs()
        assert len(threads) == (seconds > 0)
    for thread in threads:
        thread.join(300.0)
        assert not thread.is_alive()
    assert not ended


def test_skipped_steps_are_told_a_step_late_and_counted_in_a_row(tmp_path, caplog):
    skipped = SkippedSteps(tmp_path, 2, lambda step: {"image_stream": [f"digits[{step}]"] * 6})
    for step, count in ((1, 0), (2, 1), (3, 0), (4, 1)):
        skipped.note(step, jnp.int32(count))
    assert skipped.interval is None and caplog.text.count("not finite") == 1
    skipped.note(5, jnp.int32(2))
    assert skipped.interval is None
    skipped.flush()
    assert skipped.interval == (4, 5)
    assert "step 2: loss or gradient not finite" in caplog.text and "digits[1]" in caplog.text
    assert "digits[4], digits[4], digits[4], digits[4] ..." in caplog.text
    assert len((tmp_path / "skipped_steps.jsonl").read_text().splitlines()) == 3


def test_a_trace_is_of_the_steps_that_were_asked_for(tmp_path, monkeypatch):
    calls = []
    monkeypatch.setattr(jax.profiler, "start_trace", lambda folder: calls.append(("start", folder)))
    monkeypatch.setattr(jax.profiler, "stop_trace", lambda: calls.append("stop"))
    trace = Trace((3, 2), tmp_path)
    for step in range(1, 8):
        with trace.step(step):
            calls.append(step)
        trace.finished(step, jnp.zeros(()))
    assert calls == [1, 2, ("start", str(tmp_path)), 3, 4, "stop", 5, 6, 7]
    resumed = Trace((3, 2), tmp_path)
    with resumed.step(4):
        pass
    resumed.close()
    assert calls[-2:] == [("start", str(tmp_path)), "stop"]


@pytest.mark.parametrize("call", ["start_trace", "stop_trace"])
def test_a_trace_that_cannot_be_written_ends_no_run(tmp_path, monkeypatch, caplog, call):
    def refuse(*arguments):
        raise RuntimeError("FAILED_PRECONDITION: plugins is not a directory")

    for name in ("start_trace", "stop_trace"):
        monkeypatch.setattr(jax.profiler, name, refuse if name == call else lambda *arguments: None)
    trace = Trace((1, 1), tmp_path)
    with trace.step(1):
        result = jnp.ones(3) + 1
    trace.finished(1, result)
    trace.close()
    assert caplog.text.count("the trace cannot be written (FAILED_PRECONDITION") == 1


def test_a_real_trace_is_written(tmp_path):
    trace = Trace((1, 1), tmp_path)
    with trace.step(1):
        result = jnp.ones(3) + 1
    trace.finished(1, result)
    assert list(tmp_path.rglob("*.xplane.pb"))
