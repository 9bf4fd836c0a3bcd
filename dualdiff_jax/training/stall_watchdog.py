"""Ends a run that makes no progress, and reports where every thread stands."""

import contextlib
import faulthandler
import logging
import os
import sys
import threading
import time
from pathlib import Path
from types import TracebackType

import jax

from dualdiff_jax.distributed.watch import LINGER
from dualdiff_jax.files import new_file

log = logging.getLogger(__name__)

PATIENCE = 30.0  # seconds that the file of the stacks may take


class StallWatchdog:
    """A context manager that ends the process when ``progress`` is not called for some time.

    The stacks of all threads go to stderr and to ``WORKDIR/stall_host_N.txt``. Each host watches itself: where one
    hangs, the others wait for it in a collective and report that. Compiling counts as part of its step.

    Args:
        seconds: without progress, until the process ends; 0 is never.
        workdir: the run's folder.
    """

    def __init__(self, seconds: float, workdir: Path):
        self._seconds = seconds
        self._file = workdir / f"stall_host_{jax.process_index()}.txt"
        self._alive = threading.Event()
        self._is_stopped = False
        self._last: int | None = None

    def __enter__(self) -> "StallWatchdog":
        if self._seconds:
            threading.Thread(target=self._watch, name="stall watchdog", daemon=True).start()
        return self

    def progress(self, step: int) -> None:
        """Notes that ``step`` has finished."""
        self._last = step
        self._alive.set()

    def __exit__(self, kind: type | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self._is_stopped = True
        self._alive.set()

    def _watch(self) -> None:
        while self._alive.wait(self._seconds):
            if self._is_stopped:
                return
            self._alive.clear()
        self._end()

    def _end(self) -> None:
        message = (
            f"error: no step has finished for {self._seconds:g} seconds, the last was {self._last}; the stacks of all "
            f"threads follow and are in {self._file}; the same command continues from the last checkpoint"
        )
        print(f"\n{message}", file=sys.stderr, flush=True)
        faulthandler.dump_traceback(sys.stderr, all_threads=True)
        try:
            writer = threading.Thread(target=self._write, args=[message], daemon=True)  # a bucket may not answer
            writer.start()
            writer.join(PATIENCE)
        finally:
            if jax.process_count() > 1 and jax.process_index() == 0:
                time.sleep(LINGER)  # the end of this process ends the others, which report first
            os._exit(1)  # exit handlers would wait for the thread that hangs

    def _write(self, message: str) -> None:
        with contextlib.suppress(OSError), new_file(self._file) as local, local.open("w", encoding="utf-8") as file:
            print(message, file=file, flush=True)
            faulthandler.dump_traceback(file, all_threads=True)
