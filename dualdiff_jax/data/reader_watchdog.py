"""Who reads what: so that a reader that dies or hangs can be told by the record it was reading.

Each thread of each reading process keeps one small file, with the record it has begun and not finished.
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
POLL = 0.5  # seconds between two looks at whether the consumer has gone


class ReadingNotes:
    """Can be pickled: the readers of all processes write into one folder, which goes with its first owner."""

    def __init__(self, folder: str | None = None):
        self.folder = folder or tempfile.mkdtemp(prefix="dualdiff_reading_")
        self._own = threading.local()
        if folder is None:
            weakref.finalize(self, remove, Path(self.folder))

    def __reduce__(self):
        return type(self), (self.folder,)

    def begin(self, record: str) -> None:
        os.pwrite(self._descriptor(), record.encode()[:WIDTH].ljust(WIDTH), 0)

    def end(self) -> None:
        os.pwrite(self._descriptor(), bytes([32]) * WIDTH, 0)

    def unfinished(self) -> str:
        """What is being read now, the longest first; for a message."""
        found = []
        for file in Path(self.folder).glob("*"):
            note = file.read_bytes().decode("utf-8", "replace").strip()
            if note:
                found.append((time.time() - file.stat().st_mtime, note))
        lines = [f"{note} for {seconds:.0f} s" for seconds, note in sorted(found, reverse=True)[:8]]
        return "; ".join(lines) or "nothing"

    def _descriptor(self) -> int:
        if not hasattr(self._own, "file"):
            name = f"{os.getpid()}-{threading.get_ident()}"
            self._own.file = io.FileIO(f"{self.folder}/{name}", "w")  # lives as long as its thread
        return self._own.file.fileno()


def watched(batches: Iterator[T], notes: ReadingNotes, patience: float) -> Iterator[T]:
    """The same batches; ``UserError`` with what was being read where a reader dies or none comes in time."""
    arrived: queue.Queue[tuple[Any, BaseException | None]] = queue.Queue(maxsize=1)
    gone = threading.Event()

    def put(item: Any, error: BaseException | None = None) -> None:
        while not gone.is_set():
            try:
                return arrived.put((item, error), timeout=POLL)
            except queue.Full:
                continue

    def pump() -> None:
        try:
            while not gone.is_set():
                put(next(batches))
        except BaseException as error:  # whatever it is, the consumer has to hear of it
            put(None, error)
        finally:
            if hasattr(batches, "close"):
                batches.close()

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
        gone.set()
