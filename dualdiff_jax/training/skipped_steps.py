"""Counts the steps whose loss or gradient is not finite, which change nothing, and reports their records."""

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import jax

from dualdiff_jax.files.appended import LineLog

log = logging.getLogger(__name__)

RecordIds = Callable[[int], Mapping[str, Sequence[str]]]  # (batches before it) -> ids in a batch, by stream
SHOWN = 4  # ids of each stream in a warning; the file has all


class SkippedSteps:
    """Reads the count of steps skipped in a row, one step late, so that the device always has the next one to run.

    Each skipped step is a warning and a line of ``WORKDIR/skipped_steps.jsonl`` with the ids of its records: those
    that this host has read, with the host's number in the file's name beyond host 0.

    Args:
        workdir: the run's folder.
        limit: skipped steps in a row after which ``interval`` is set.
        record_ids: batches before a step -> the ids of its records by stream.

    Attributes:
        interval: (first, last) of the steps skipped in a row, once there are ``limit`` of them or a multiple of it: a
            run that is started again after it was stopped has as many tries once more.
    """

    def __init__(self, workdir: Path, limit: int, record_ids: RecordIds):
        self.interval: tuple[int, int] | None = None
        host = jax.process_index()
        self._file = workdir / f"skipped_steps{f'.{host}' if host else ''}.jsonl"
        self._log = LineLog(self._file)
        self._limit, self._record_ids = limit, record_ids
        self._unread: tuple[int, jax.Array] | None = None

    def note(self, step: int, skipped_in_row: jax.Array) -> None:
        """Takes the count after ``step``; returns when the step before has finished."""
        self.flush()
        self._unread = step, skipped_in_row

    def flush(self) -> None:
        """Reads the count that was noted last."""
        if self._unread is None:
            return
        (step, count), self._unread = self._unread, None
        in_row = int(count)
        if in_row:
            self._report(step)
            if in_row % self._limit == 0:
                self.interval = step - in_row + 1, step

    def _report(self, step: int) -> None:
        ids = {stream: list(found) for stream, found in self._record_ids(step - 1).items()}
        shown = "; ".join(
            f"{stream}: {', '.join(found[:SHOWN])}{' ...' if len(found) > SHOWN else ''}"
            for stream, found in ids.items()
        )
        log.warning("step %d: loss or gradient not finite, so nothing was updated; its records are %s", step, shown)
        try:
            self._log.append(json.dumps({"step": step, **ids}).encode() + b"\n")
        except OSError as error:
            log.warning("%s: cannot be written (%s)", self._file, error.strerror)
