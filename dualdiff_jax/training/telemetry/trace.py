"""A profiler's trace of a few steps, for TensorBoard's profile page or Perfetto."""

import contextlib
import logging
from collections.abc import Iterator
from pathlib import Path

import jax

from dualdiff_jax.errors import reason
from dualdiff_jax.files.mirror import Mirror

log = logging.getLogger(__name__)


class Trace:
    """A trace of the first host.

    Args:
        steps: (first, how many); () traces nothing.
        folder: where the trace is written.
    """

    def __init__(self, steps: tuple[int, ...], folder: Path):
        self._window = range(steps[0], sum(steps)) if steps and not jax.process_index() else range(0)
        self._mirror = Mirror(folder)
        self._is_on = False

    @contextlib.contextmanager
    def step(self, number: int) -> Iterator[None]:
        """Wraps the dispatch of step ``number``; the trace begins before the first of its steps."""
        if number in self._window and not self._is_on:
            with _warning():
                jax.profiler.start_trace(str(self._mirror.path))
                self._is_on = True
        with jax.profiler.StepTraceAnnotation("train", step_num=number):
            yield

    def finished(self, number: int, result: object) -> None:
        """Call after the dispatch of step ``number``: waits for the last step of the trace and writes it."""
        if self._is_on and number + 1 not in self._window:
            jax.block_until_ready(result)
            self.close()

    def close(self) -> None:
        """Writes the trace, if one is being taken."""
        if self._is_on:
            self._is_on = False
            with _warning():
                jax.profiler.stop_trace()
                self._mirror.copy()


@contextlib.contextmanager
def _warning() -> Iterator[None]:
    try:
        yield
    except Exception as error:  # the profiler raises RuntimeErrors of its own where a file cannot be written
        log.warning("the trace cannot be written (%s); training continues", reason(error))
