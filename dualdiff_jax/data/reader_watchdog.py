"""Ends a run whose data readers die or hang, and names the records that they were reading.

Each thread of each reading process keeps one small file with the record that it is reading.
"""

import io
import os
import queue
import tempfile
import threading
import time
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar

from dualdiff_jax.errors import StuckError, UserError
from dualdiff_jax.files import remove

T = TypeVar("T")

WIDTH = 512  # bytes of a note
POLL = 0.5  # seconds between two checks of whether the consumer has stopped


class ReadingNotes:
    """The records that are being read now, by all threads of all reading processes.

    A pickled copy writes into the same folder; the original removes the folder when it is garbage-collected.

    Args:
        folder: where the notes are; None makes a temporary folder.
    """

    def __init__(self, folder: str | None = None):
        self.folder = folder or tempfile.mkdtemp(prefix="dualdiff_reading_")
        self._own = threading.local()
        if folder is None:
            weakref.finalize(self, remove, Path(self.folder))

    def __reduce__(self):
        return type(self), (self.folder,)

    def begin(self, record: str) -> None:
        """Notes that this thread starts to read ``record``."""
        os.pwrite(self._descriptor(), record.encode()[:WIDTH].ljust(WIDTH), 0)

    def end(self) -> None:
        """Notes that this thread is done with its record."""
        os.pwrite(self._descriptor(), bytes([32]) * WIDTH, 0)

    def unfinished(self) -> str:
        """Up to eight records that are being read, the longest first, for a message."""
        reading = []
        for file in Path(self.folder).glob("*"):
            note = file.read_bytes().decode("utf-8", "replace").strip()
            if note:
                reading.append((time.time() - file.stat().st_mtime, note))
        lines = [f"{note} for {seconds:.0f} s" for seconds, note in sorted(reading, reverse=True)[:8]]
        return "; ".join(lines) or "nothing"

    def _descriptor(self) -> int:
        if not hasattr(self._own, "file"):
            name = f"{os.getpid()}-{threading.get_ident()}"
            self._own.file = io.FileIO(f"{self.folder}/{name}", "w")  # lives as long as its thread
        return self._own.file.fileno()


def with_watchdog(batches: Iterator[T], notes: ReadingNotes, patience: float) -> Iterator[T]:
    """Yields ``batches``, which a thread reads.

    Args:
        batches: the iterator to read from; closed if it has a method ``close``.
        notes: the records that the readers behind ``batches`` are reading.
        patience: seconds to wait for a batch.

    Raises:
        StuckError: no batch came within ``patience`` seconds.
        UserError: a reader died. A ``UserError`` of a reader is raised as it is.
    """
    arrived: queue.Queue[tuple[Any, BaseException | None]] = queue.Queue(maxsize=1)
    is_stopped = threading.Event()

    def put(item: Any, error: BaseException | None = None) -> None:
        while not is_stopped.is_set():
            try:
                return arrived.put((item, error), timeout=POLL)
            except queue.Full:
                continue

    def pump() -> None:
        try:
            while not is_stopped.is_set():
                put(next(batches))
        except BaseException as error:  # the consumer raises it, whatever it is
            put(None, error)
        finally:
            close = getattr(batches, "close", None)
            if close is not None:
                close()

    threading.Thread(target=pump, name="dualdiff-batches", daemon=True).start()
    try:
        while True:
            try:
                item, error = arrived.get(timeout=patience)
            except queue.Empty:
                raise StuckError(
                    f"no batch came for {patience:g} s (data.patience); being read: {notes.unfinished()}"
                ) from None
            if isinstance(error, UserError):
                raise error
            if error is not None:
                raise UserError(f"a reader of the data failed ({error}); being read: {notes.unfinished()}") from error
            yield item
    finally:
        is_stopped.set()
