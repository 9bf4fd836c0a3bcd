"""Heartbeats between processes: if one fails or is killed, all end, and each reports why.

Each process has a thread that every ``BEAT`` seconds writes a heartbeat into the key-value store of JAX's coordinator
(process 0) and looks for failures there. Process 0 also watches the heartbeats, since a killed process reports
nothing. If process 0 itself dies, the coordinator dies with it, and JAX ends the others at once.

    dualdiff_jax/alive/K           a count, and the machine on which process K runs
    dualdiff_jax/failed/K          the sentence with which process K ends
    dualdiff_jax/acknowledged/K    process K has seen that one has failed
"""

import contextlib
import logging
import os
import socket
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from typing import Any, NoReturn

import jax
from jax._src import distributed as jax_distributed  # JAX has no public API to its key-value store; Orbax does the same

from dualdiff_jax.errors import UserError, reason

BEAT = 2.0  # seconds
DEAD_AFTER = 30.0  # seconds without a heartbeat; a process sends them also while it computes or compiles
LINGER = 10.0  # seconds that process 0 stays, with the key-value store, so that the others see the failure
SPACE = "dualdiff_jax"  # prefix of all keys


def store() -> Any:
    """The client of JAX's key-value store; None unless ``jax.distributed`` is initialized."""
    return jax_distributed.global_state.client


class ProcessWatch:
    """Watches the other processes from a thread, and ends this process if one fails.

    Args:
        process_id: the number of this process.
        num_processes: how many there are.
    """

    def __init__(self, process_id: int, num_processes: int):
        self._id, self._others = process_id, set(range(num_processes)) - {process_id}
        self._host = socket.gethostname()
        self._is_stopped = threading.Event()
        self._ending = threading.Lock()  # taken once, by the thread that ends the process
        self._seen: dict[int, tuple[str, float]] = {}  # process -> its last heartbeat, and when it came
        self._thread = threading.Thread(target=self._run, name="process watch", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Ends the watch; the process goes on alone."""
        self._is_stopped.set()
        self._thread.join()

    def fail(self, error: BaseException) -> NoReturn:
        """Reports ``error`` here and to all other processes, and ends this process."""
        if isinstance(error, SystemExit) and not error.code:
            os._exit(0)
        if any(isinstance(cause, jax.errors.JaxRuntimeError) for cause in _causes(error)):
            # The cause may be another process that died during a collective. Its own report is better, and ends this
            # process while it sleeps.
            time.sleep(DEAD_AFTER + 2 * BEAT)
        self._ending.acquire()
        if not isinstance(error, UserError) or logging.getLogger().isEnabledFor(logging.DEBUG):
            traceback.print_exception(error)
        message = str(error).strip() if isinstance(error, UserError) else f"{type(error).__name__}: {error}".strip()
        print(f"error: {message}", file=sys.stderr, flush=True)
        self._end(f"process {self._id} on {self._host} failed: {message}")

    def _run(self) -> None:
        beats = 0
        while not self._is_stopped.wait(BEAT):
            beats += 1
            try:
                self._write("alive", self._id, f"{beats} {self._host}")
                failed = self._read("failed") or (self._report_silent() if self._id == 0 else {})
            except Exception as error:  # the coordinator is gone; JAX notices too, and ends the process
                failed = {0: f"process 0 cannot be reached any more ({reason(error)})"}
            if failed and self._ending.acquire(blocking=False):
                print(f"\nerror: {' | '.join(failed.values())}; so this process ends too", file=sys.stderr, flush=True)
                self._end(None)

    def _report_silent(self) -> dict[int, str]:
        """Reports to all processes those whose last heartbeat is too old, and returns the reports."""
        now, alive = time.monotonic(), self._read("alive")
        for number in self._others:
            beat = alive.get(number, "0 an unknown machine")
            if self._seen.get(number, ("", 0.0))[0] != beat:
                self._seen[number] = beat, now
        silent = {
            number: f"process {number} on {beat.split(' ', 1)[1]} has given no sign of life for {now - since:.0f} s: "
            "it was killed, ran out of memory, or its machine is gone"
            for number, (beat, since) in self._seen.items()
            if now - since > DEAD_AFTER
        }
        for number, report in silent.items():
            self._write("failed", number, report)
        return silent

    def _end(self, report: str | None) -> NoReturn:
        """Calls ``os._exit``: exit handlers would wait for processes that may wait for this one in a collective."""
        with contextlib.suppress(Exception):
            self._write("acknowledged", self._id, "")
            if report is not None:
                self._write("failed", self._id, report)
            deadline = time.monotonic() + LINGER
            while self._id == 0 and time.monotonic() < deadline:
                if self._others <= {*self._read("acknowledged"), *self._read("failed")}:
                    break
                time.sleep(0.1)
        sys.stdout.flush()
        os._exit(1)

    def _write(self, what: str, number: int, value: str) -> None:
        store().key_value_set(f"{SPACE}/{what}/{number}", value, allow_overwrite=True)

    def _read(self, what: str) -> dict[int, str]:
        entries = store().key_value_dir_get(f"{SPACE}/{what}/")
        return {int(key.rpartition("/")[2]): value for key, value in entries}


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
