"""What a run says about itself: figures of many steps in one record, to ``metrics.jsonl`` and to people.

A step's metrics are noted as they are, on the device, and read when a record is due: nothing waits for them.
"""

import contextlib
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from dualdiff_jax.config import RunConfig
from dualdiff_jax.hardware import peak_flops
from dualdiff_jax.training.flops import device_memory, step_flops, streams
from dualdiff_jax.training.telemetry.sinks import JsonLines, ProgressLine, Sink, open_sinks

COUNTERS = ("skipped",)  # metrics of which the last value counts, not the mean


class Telemetry:
    """Figures since the last record: means of the losses (by bin too), rates, and shares of the time.

    ``metrics.jsonl`` has training, ``validation.jsonl`` what hooks return. Only the first host writes.
    """

    def __init__(self, workdir: Path, config: RunConfig, first_step: int, pending: Sequence[Mapping[str, Any]] = ()):
        self._steps, self._examples = config.train.steps, streams(config) * config.train.global_batch_size
        self._flops, self._devices = step_flops(config), jax.device_count()
        self._peak = peak_flops(jax.devices()[0].device_kind)
        self._is_writer = jax.process_index() == 0
        if self._is_writer:
            self._metrics = JsonLines(workdir / "metrics.jsonl", first_step)
            self._validation = JsonLines(workdir / "validation.jsonl", first_step)
            self._earlier_seconds = self._metrics.last().get("seconds", 0.0)
            self._line = ProgressLine(config.train.steps)
            self._sinks: list[Sink] = open_sinks(workdir, config, first_step)
        self._pending: list[Mapping[str, Any]] = list(pending)
        self._taken = 0  # steps of this process since the last record
        self._waited: dict[str, float] = {}
        self._start = self._since = time.perf_counter()

    def add(self, metrics: Mapping[str, jax.Array]) -> None:
        """Notes one step's metrics; nothing is read from the device yet."""
        self._pending.append(metrics)
        self._taken += 1

    def pending(self) -> list[dict[str, Any]]:
        """What was noted since the last record, for a run that goes on from here: plain numbers and lists."""
        self._pending = jax.device_get(self._pending)
        return [{name: np.asarray(value).tolist() for name, value in metrics.items()} for metrics in self._pending]

    @contextlib.contextmanager
    def waiting(self, what: str) -> Iterator[None]:
        """Counts the time inside as the loop's waiting for ``what``."""
        before = time.perf_counter()
        try:
            yield
        finally:
            self._waited[what] = self._waited.get(what, 0.0) + time.perf_counter() - before

    def write(self, step: int) -> None:
        """Reads what was noted, up to step ``step``, and tells it."""
        if not self._pending:
            return
        pending, self._pending = jax.device_get(self._pending), []
        now = time.perf_counter()
        seconds, self._since = now - self._since, now
        waited, self._waited = self._waited, {}
        rate, self._taken = self._taken / seconds, 0
        if not self._is_writer:
            return
        record = {name: summary(name, [metrics[name] for metrics in pending]) for name in pending[0]}
        record |= {
            "examples_per_second": rate * self._examples,
            **{f"{what}_wait_share": time_spent / seconds for what, time_spent in waited.items()},
            **self._efficiency(rate),
            "seconds": self._earlier_seconds + now - self._start,
            "seconds_left": (self._steps - step) / rate,
        }
        for sink in (self._metrics, self._line, *self._sinks):
            sink.write(step, record)

    def validated(self, step: int, values: Mapping[str, float]) -> None:
        """Tells what a hook has measured."""
        if self._is_writer:
            self._validation.write(step, values)
            for sink in self._sinks:
                sink.write(step, {f"validation/{name}": value for name, value in values.items()})

    def close(self) -> None:
        if self._is_writer:
            for sink in (self._line, *self._sinks):
                sink.close()

    def _efficiency(self, rate: float) -> dict[str, float]:
        """Of each device: model operations a second, their share of what it could do, and memory, where known."""
        per_device = rate * self._flops / self._devices
        memory = device_memory()
        return {
            "tflops_per_device": per_device / 1e12,
            **({} if self._peak is None else {"mfu": per_device / self._peak}),
            **({} if memory is None else {"memory_gib": memory / 2**30}),
        }


def summary(name: str, values: Sequence[np.ndarray]) -> Any:
    """One figure for many steps: the mean over those where it is finite, None where it never is.

    (2, bins) of sums and counts (``objectives.joint.by_clock``) become the list of the bins' mean losses.
    """
    if name in COUNTERS:
        return int(values[-1])
    finite = [np.asarray(value, np.float64) for value in values if np.isfinite(value).all()]
    if not finite:
        return None
    mean = sum(finite) / len(finite)
    if mean.ndim == 0:
        return float(mean)
    sums, counts = mean
    return [float(s / c * counts.sum()) if c else None for s, c in zip(sums, counts, strict=True)]
