"""What a run says about itself: ``metrics.jsonl`` and one progress line."""

import json
import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import jax


class Telemetry:
    """Writes each logged step to ``metrics.jsonl`` and to stderr.

    On a terminal the line is redrawn in place; piped, it is printed. ``loss``, ``image_loss``, ``text_loss``
    are means over the steps since the last line. A resumed run drops what was logged after its checkpoint,
    so that no step stands twice.
    """

    def __init__(self, workdir: Path, *, steps: int, examples_per_step: int, first_step: int):
        self._steps, self._examples = steps, examples_per_step
        self._file = workdir / "metrics.jsonl"
        self._forget_after(first_step)
        self._pending: list[Mapping[str, jax.Array]] = []
        self._since = time.perf_counter()
        self._start, self._first_step = self._since, first_step
        self._earlier_seconds = self._last_seconds()

    def add(self, metrics: Mapping[str, jax.Array]) -> None:
        """Notes one step's metrics; nothing is read from the device yet."""
        self._pending.append(metrics)

    def write(self, step: int) -> None:
        """Reads what was noted, up to the update ``step``, and tells it."""
        if not self._pending:
            return
        pending, self._pending = jax.device_get(self._pending), []
        now = time.perf_counter()
        record = {name: float(sum(m[name] for m in pending) / len(pending)) for name in pending[0]}
        rate = len(pending) / (now - self._since)
        record = {
            "step": step,
            **record,
            "examples_per_second": rate * self._examples,
            "seconds": self._earlier_seconds + now - self._start,
        }
        self._since = now
        with self._file.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")
        left = (self._steps - step) / rate
        self._show(
            f"step {step}/{self._steps}  image loss {record['image_loss']:.4f}  text loss {record['text_loss']:.4f}  "
            f"{record['examples_per_second']:.0f} examples/s  {_clock(left)} left"
        )

    def close(self) -> None:
        if sys.stderr.isatty():
            print(file=sys.stderr)

    def _show(self, line: str) -> None:
        if sys.stderr.isatty():
            print(f"\r\033[K{line}", end="", file=sys.stderr, flush=True)
        else:
            print(line, file=sys.stderr, flush=True)

    def _forget_after(self, step: int) -> None:
        """Keeps the complete records up to ``step``; a line cut by a kill goes too."""
        if not self._file.exists():
            return
        kept = []
        for line in self._file.read_text(encoding="utf-8").splitlines():
            try:
                if json.loads(line)["step"] <= step:
                    kept.append(line + "\n")
            except ValueError:
                continue
        partial = self._file.with_suffix(".partial")
        partial.write_text("".join(kept), encoding="utf-8")
        os.replace(partial, self._file)

    def _last_seconds(self) -> float:
        if not self._file.exists():
            return 0.0
        lines = self._file.read_text(encoding="utf-8").splitlines()
        return json.loads(lines[-1])["seconds"] if lines else 0.0


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"
