"""Silences the messages of libraries about arrays that cannot be written or read: the caller reports it in one line."""

import inspect
import logging
import sys
import warnings
from typing import Any

# TensorStore reports each transfer to an event loop that Orbax has closed. Orbax drops transfers that it has not begun,
# and leaves reads that it has begun to the garbage collector.
CLOSED_LOOP = "Event loop is closed"
READ = "_read_array_index_and_device_put"
DROPPED = rf"coroutine '(async_serialize_from_host|{READ}|Store\._get_array_metadatas)\b.* was never awaited"


def silence_failed_transfers() -> None:
    """Call before arrays are written or read: a full disk would otherwise cost thousands of lines on stderr."""
    for library in ("absl", "asyncio"):
        logging.getLogger(library).setLevel(logging.CRITICAL)
    warnings.filterwarnings("ignore", DROPPED, RuntimeWarning)
    if not isinstance(sys.unraisablehook, _IgnoreDropped):
        sys.unraisablehook = _IgnoreDropped(sys.unraisablehook)


class _IgnoreDropped:
    """A ``sys.unraisablehook`` that hands on all errors but those of transfers that a failed one left behind."""

    def __init__(self, previous: Any):
        self._previous = previous

    def __call__(self, unraisable: Any) -> None:
        error, source = unraisable.exc_value, unraisable.object
        closed_loop = source is None and isinstance(error, RuntimeError) and str(error) == CLOSED_LOOP
        dropped_read = inspect.iscoroutine(source) and source.__qualname__ == READ
        if not closed_loop and not dropped_read:
            self._previous(unraisable)
