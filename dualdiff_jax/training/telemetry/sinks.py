"""Where a run's metrics go: JSON lines and the terminal always, TensorBoard and Weights & Biases by config.

A sink takes ``write(step, record)``; the values of a record are numbers, lists of numbers (by bin), or None.
"""

import importlib
import json
import logging
import re
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

from dualdiff_jax.config import RunConfig
from dualdiff_jax.config.resolve import to_dict
from dualdiff_jax.errors import UserError
from dualdiff_jax.files import is_bucket, read_regular, write_text
from dualdiff_jax.files.appended import LineLog
from dualdiff_jax.files.mirror import Mirror
from dualdiff_jax.json_files import parse_json
from dualdiff_jax.progress import is_silent

log = logging.getLogger(__name__)

COPY_EVERY = 60.0  # seconds between two copies of TensorBoard's files to a bucket
MOST_NAME = 4096  # bytes of the file with the name of a run
FIGURES = 20_000  # about 1 MB of them in a file that is copied

Record = Mapping[str, Any]


class Sink(Protocol):
    def write(self, step: int, record: Record) -> None: ...

    def close(self) -> None: ...


class JsonLines:
    """One record a line. A resumed run drops the records after its checkpoint, so that no step appears twice.

    Lines that are no records, as a damaged disk or an editor may leave them, go to ``FILE.damaged``.

    Attributes:
        last: the newest record that is kept, empty where there is none.
    """

    def __init__(self, file: Path, first_step: int):
        self._file, self._log = file, LineLog(file)
        self.last: dict[str, Any] = {}
        if not self._log.exists():
            return
        records, damaged = _parsed(self._log.read(), file)
        if damaged:
            aside = file.with_name(f"{file.name}.damaged")
            log.warning("%s: %d lines are no records; they are moved to %s", file, len(damaged), aside)
            LineLog(aside).append(b"".join(line + b"\n" for line in damaged))
        kept = [record for record in records if record["step"] <= first_step]
        self.last = kept[-1] if kept else {}
        self._log.replace("".join(json.dumps(record) + "\n" for record in kept).encode())

    def write(self, step: int, record: Record) -> None:
        """Appends a record; one that finds no room on the disk is kept and written with the next."""
        try:
            self._log.append(json.dumps({"step": step, **record}).encode() + b"\n")
        except OSError as error:
            log.warning("%s: cannot be written (%s); training continues", self._file, error.strerror)

    def close(self) -> None:
        pass


def _parsed(data: bytes, file: Path) -> tuple[list[dict[str, Any]], list[bytes]]:
    """The records, and the lines that are none; a last line that a kill cut off is left out."""
    *lines, torn = data.split(b"\n")
    records, damaged = [], []
    for line in (*lines, torn):
        try:
            record = parse_json(line, str(file), allow_nan=True)
        except UserError:
            record = None
        if isinstance(record, dict) and type(record.get("step")) is int:
            records.append(record)
        elif line is not torn and line.strip():
            damaged.append(line)
    return records, damaged


class ProgressLine:
    """One line, redrawn in place on a terminal, printed as a new line elsewhere."""

    def __init__(self, steps: int):
        self._steps = steps

    def write(self, step: int, record: Record) -> None:
        if is_silent():
            return
        parts = [f"step {step}/{self._steps}"]
        for name, text in (("image_loss", "image loss {:.4f}"), ("text_loss", "text loss {:.4f}")):
            if name in record:
                parts.append(text.format(record[name]) if record[name] is not None else f"{name.replace('_', ' ')} -")
        parts.append(f"{record['examples_per_second']:.0f} examples/s")
        if "mfu" in record:
            parts.append(f"MFU {100 * record['mfu']:.1f}%")
        if record.get("skipped"):
            parts.append(f"{record['skipped']:.0f} skipped")
        parts.append(f"{clock(record['seconds_left'])} left")
        is_terminal = sys.stderr.isatty()
        start, end = ("\r\033[K", "") if is_terminal else ("", "\n")
        print(start + "  ".join(parts), end=end, file=sys.stderr, flush=True)

    def close(self) -> None:
        if sys.stderr.isatty() and not is_silent():
            print(file=sys.stderr)


class TensorBoard:
    """Event files in ``WORKDIR/tensorboard``; in a bucket they are copied there once in a while and at the end."""

    def __init__(self, workdir: Path, first_step: int):
        self._mirror = Mirror(workdir / "tensorboard")
        self._make = needed("tensorboardX", "telemetry.tensorboard").SummaryWriter
        self._writer = self._make(str(self._mirror.path), purge_step=first_step + 1)
        self._written, self._number = 0, 0  # figures in the newest file, and its number
        self._copied_at = time.monotonic()

    def write(self, step: int, record: Record) -> None:
        for name, value in flat(record):
            self._writer.add_scalar(name, value, step)
            self._written += 1
        self._writer.flush()
        if self._mirror.is_copied and time.monotonic() - self._copied_at > COPY_EVERY:
            self._copy()
            if self._written > FIGURES:  # an object cannot grow: each copy costs what the newest file holds
                self._writer.close()
                self._number, self._written = self._number + 1, 0
                self._writer = self._make(str(self._mirror.path), filename_suffix=f".{self._number}")

    def close(self) -> None:
        self._writer.close()
        self._copy()

    def _copy(self) -> None:
        self._copied_at = time.monotonic()
        try:
            self._mirror.copy()
        except OSError as error:
            log.warning("TensorBoard's files cannot be copied (%s); training continues", error)


class WeightsAndBiases:
    """A run of the project; its name is the workdir's, and a resumed run continues it."""

    def __init__(self, workdir: Path, config: RunConfig):
        wandb = needed("wandb", "telemetry.wandb_project")
        try:
            self._run = wandb.init(
                project=config.telemetry.wandb_project,
                name=workdir.name,
                id=_identity(workdir / "wandb_id"),
                resume="allow",
                dir=tempfile.mkdtemp(prefix="dualdiff-wandb-") if is_bucket(workdir) else str(workdir),
                config=to_dict(config),
            )
        except wandb.Error as error:  # nobody is logged in, or the server does not answer
            raise UserError(
                f"telemetry.wandb_project is set, but Weights & Biases does not start ({error}); log in with: wandb "
                "login, or keep the metrics here with WANDB_MODE=offline"
            ) from error

    def write(self, step: int, record: Record) -> None:
        self._run.log(dict(flat(record)), step=step)

    def close(self) -> None:
        self._run.finish()


def _identity(file: Path) -> str:
    """The name under which Weights & Biases knows the run, kept in ``file``; a damaged one is replaced."""
    text = read_regular(file, MOST_NAME).decode("utf-8", "replace").strip() if file.exists() else ""
    if not re.fullmatch(r"[\w-]{1,64}", text, re.ASCII):
        if text:
            log.warning("%s: holds no name of a run; the metrics go to a new run of Weights & Biases", file)
        text = uuid.uuid4().hex[:8]
        write_text(file, text)
    return text


def open_sinks(workdir: Path, config: RunConfig, first_step: int) -> list[Sink]:
    """The sinks that the config asks for."""
    sinks: list[Sink] = []
    if config.telemetry.tensorboard:
        sinks.append(TensorBoard(workdir, first_step))
    if config.telemetry.wandb_project:
        sinks.append(WeightsAndBiases(workdir, config))
    return sinks


def check_sinks(config: RunConfig) -> None:
    """Raises one ``UserError`` with every missing package that the config asks for."""
    faults = []
    for package, field, is_wanted in (
        ("tensorboardX", "telemetry.tensorboard", config.telemetry.tensorboard),
        ("wandb", "telemetry.wandb_project", config.telemetry.wandb_project),
    ):
        try:
            if is_wanted:
                needed(package, field)
        except UserError as error:
            faults.append(str(error))
    if faults:
        raise UserError("\n".join(faults))


def needed(package: str, field: str) -> Any:
    """Imports a package; ``UserError`` with the command that installs it where it is missing."""
    try:
        return importlib.import_module(package)
    except ImportError:
        raise UserError(f"{field} is set, but {package} is not installed; pip install {package}") from None


def flat(record: Record) -> Iterator[tuple[str, float]]:
    """(name, number) pairs: entries of a list are named ``name/0``, ``name/1``, ...; None is left out."""
    for name, value in record.items():
        if isinstance(value, list):
            yield from ((f"{name}/{index}", entry) for index, entry in enumerate(value) if entry is not None)
        elif value is not None:
            yield name, value


def clock(seconds: float) -> str:
    """3723 -> 1:02:03."""
    minutes, seconds = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"
