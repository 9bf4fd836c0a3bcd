"""Silences the messages of libraries about a save that fails: the caller reports it in one line."""

import logging
import sys
import warnings
from typing import Any

# TensorStore reports each write to an event loop that Orbax has closed; Orbax drops the writes that it has not begun.
CLOSED_LOOP = "Event loop is closed"
DROPPED_WRITE = r"coroutine 'async_serialize_from_host\b.* was never awaited"


def silence_failed_saves() -> None:
    """Call before a save: a full disk would otherwise cost thousands of lines on stderr."""
    for library in ("absl", "asyncio"):
        logging.getLogger(library).setLevel(logging.CRITICAL)
    warnings.filterwarnings("ignore", DROPPED_WRITE, RuntimeWarning)
    if not isinstance(sys.unraisablehook, _IgnoreClosedLoops):
        sys.unraisablehook = _IgnoreClosedLoops(sys.unraisablehook)


class _IgnoreClosedLoops:
    """A ``sys.unraisablehook`` that hands on all errors but those of callbacks to a closed event loop."""

    def __init__(self, previous: Any):
        self._previous = previous

    def __call__(self, unraisable: Any) -> None:
        error = unraisable.exc_value
        if unraisable.object is not None or not isinstance(error, RuntimeError) or str(error) != CLOSED_LOOP:
            self._previous(unraisable)
