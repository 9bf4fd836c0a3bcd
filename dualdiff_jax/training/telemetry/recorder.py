"""Metrics of a run: those of many steps become one record, in ``metrics.jsonl`` and on the terminal.

A step's metrics stay on the device until a record is due, so that nothing waits for them.
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
from dualdiff_jax.training.telemetry.sinks import JsonLines, ProgressLine, Sink, open_sinks

LATEST = {"skipped": int, "learning_rate": float}  # metrics whose last value counts, not the mean


class Telemetry:
    """Collects metrics between records: means of the losses (also by bin), rates, and shares of the time.

    ``metrics.jsonl`` holds training's, ``validation.jsonl`` those that hooks return. Only the first host writes.

    Args:
        workdir: the run's folder.
        config: the run's.
        first_step: steps that are behind this process's first; later records are dropped from the files.
        unlogged_metrics: of steps before it that are in no record yet.
        step_flops: operations of one step on all devices.
    """

    def __init__(
        self,
        workdir: Path,
        config: RunConfig,
        first_step: int,
        unlogged_metrics: Sequence[Mapping[str, Any]] = (),
        *,
        step_flops: float,
    ):
        self._steps = config.train.steps
        self._examples = len(config.objective.streams) * config.train.global_batch_size
        self._flops, self._devices = step_flops, jax.device_count()
        self._peak = peak_flops(jax.devices()[0].device_kind)
        self._is_writer = jax.process_index() == 0
        if self._is_writer:
            self._metrics = JsonLines(workdir / "metrics.jsonl", first_step)
            self._validation = JsonLines(workdir / "validation.jsonl", first_step)
            seconds = self._metrics.last.get("seconds")
            self._earlier_seconds = float(seconds) if isinstance(seconds, int | float) else 0.0
            self._line = ProgressLine(config.train.steps)
            self._sinks: list[Sink] = open_sinks(workdir, config, first_step)
        self._unlogged: list[Mapping[str, Any]] = list(unlogged_metrics)
        self._steps_taken = 0  # by this process since the last record
        self._waited: dict[str, float] = {}
        self._start = self._since = time.perf_counter()

    def add(self, metrics: Mapping[str, jax.Array]) -> None:
        """Notes one step's metrics; nothing is read from the device yet."""
        self._unlogged.append(metrics)
        self._steps_taken += 1

    def unlogged_metrics(self) -> list[dict[str, Any]]:
        """Metrics since the last record, as plain numbers and lists, for a run that resumes here."""
        self._unlogged = jax.device_get(self._unlogged)
        return [{name: np.asarray(value).tolist() for name, value in metrics.items()} for metrics in self._unlogged]

    @contextlib.contextmanager
    def waiting(self, share: str) -> Iterator[None]:
        """Counts the time inside towards the field ``share`` of the next record, a share of all time."""
        before = time.perf_counter()
        try:
            yield
        finally:
            self._waited[share] = self._waited.get(share, 0.0) + time.perf_counter() - before

    def write(self, step: int) -> None:
        """Writes one record of all metrics since the last, up to step ``step``."""
        if not self._unlogged:
            return
        metrics_of_steps, self._unlogged = jax.device_get(self._unlogged), []
        now = time.perf_counter()
        seconds, self._since = now - self._since, now
        waited, self._waited = self._waited, {}
        rate, self._steps_taken = self._steps_taken / seconds, 0
        if not self._is_writer:
            return
        record = {name: summary(name, _alike(name, metrics_of_steps)) for name in metrics_of_steps[-1]}
        record |= {
            "examples_per_second": rate * self._examples,
            **{share: time_spent / seconds for share, time_spent in waited.items()},
            **self._efficiency(rate),
            "seconds": self._earlier_seconds + now - self._start,
            "seconds_left": (self._steps - step) / rate,
        }
        for sink in (self._metrics, self._line, *self._sinks):
            sink.write(step, record)

    def validated(self, step: int, values: Mapping[str, float]) -> None:
        """Writes one record of the figures that a hook returned after ``step``."""
        if self._is_writer:
            self._validation.write(step, values)
            for sink in self._sinks:
                sink.write(step, {f"validation/{name}": value for name, value in values.items()})

    def close(self) -> None:
        """Closes the sinks."""
        if self._is_writer:
            for sink in (self._line, *self._sinks):
                sink.close()

    def _efficiency(self, rate: float) -> dict[str, float]:
        """For each device: model operations a second, their share of its peak, and memory, where known."""
        per_device = rate * self._flops / self._devices
        memory = memory_peak()
        return {
            "tflops_per_device": per_device / 1e12,
            **({} if self._peak is None else {"mfu": per_device / self._peak}),
            **({} if memory is None else {"memory_gib": memory / 2**30}),
        }


def _alike(name: str, metrics_of_steps: Sequence[Mapping[str, Any]]) -> list[Any]:
    """A metric's value at each step that has it in the newest step's shape; those of a checkpoint may be damaged."""
    shape = np.shape(metrics_of_steps[-1][name])
    return [metrics[name] for metrics in metrics_of_steps if name in metrics and np.shape(metrics[name]) == shape]


def summary(name: str, values: Sequence[np.ndarray]) -> Any:
    """One figure for many steps.

    Args:
        name: of the metric.
        values: one a step; () or, from ``objectives.joint.by_clock``, (2, bins) of sums and counts.

    Returns:
        The last value of those in ``LATEST``; else the mean over the steps where it is finite, None where it never is;
        for bins a list of their mean losses.
    """
    if name in LATEST:
        return LATEST[name](values[-1])
    finite = [np.asarray(value, np.float64) for value in values if np.isfinite(value).all()]
    if not finite:
        return None
    mean = sum(finite[1:], start=finite[0]) / len(finite)
    if mean.ndim == 0:
        return float(mean)
    sums, counts = mean
    return [float(s / c * counts.sum()) if c else None for s, c in zip(sums, counts, strict=True)]


def memory_peak() -> float | None:
    """Peak bytes in use on the fullest device of this host; None where devices do not report it."""
    peaks = [(device.memory_stats() or {}).get("peak_bytes_in_use") for device in jax.local_devices()]
    known = [peak for peak in peaks if peak is not None]
    return max(known) if known else None
