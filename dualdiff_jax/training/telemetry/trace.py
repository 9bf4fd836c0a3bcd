"""A profiler's trace of a few steps, for TensorBoard's profile page or Perfetto."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import jax


class Trace:
    """Traces ``steps`` = (first, how many) of the first host into ``folder``; () traces nothing."""

    def __init__(self, steps: tuple[int, ...], folder: Path):
        self._window = range(steps[0], sum(steps)) if steps and not jax.process_index() else range(0)
        self._folder = folder
        self._is_on = False

    @contextlib.contextmanager
    def step(self, number: int) -> Iterator[None]:
        """Around the dispatch of a step; the trace begins before its first."""
        if number in self._window and not self._is_on:
            jax.profiler.start_trace(str(self._folder))
            self._is_on = True
        with jax.profiler.StepTraceAnnotation("train", step_num=number):
            yield

    def finished(self, number: int, result: object) -> None:
        """After the dispatch of step ``number``: the last one is waited for, and the trace written."""
        if self._is_on and number + 1 not in self._window:
            jax.block_until_ready(result)
            self.close()

    def close(self) -> None:
        if self._is_on:
            jax.profiler.stop_trace()
            self._is_on = False
