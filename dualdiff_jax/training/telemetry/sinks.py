"""Where a run's metrics go: JSON lines and the terminal always, TensorBoard and Weights & Biases by config.

A sink takes ``write(step, record)``; the values of a record are numbers, lists of numbers (by bin), or None.
"""

import importlib
import json
import logging
import sys
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

from dualdiff_jax.config import RunConfig
from dualdiff_jax.config.resolve import to_dict
from dualdiff_jax.errors import UserError
from dualdiff_jax.files import write_text

log = logging.getLogger(__name__)

Record = Mapping[str, Any]


class Sink(Protocol):
    def write(self, step: int, record: Record) -> None: ...

    def close(self) -> None: ...


class JsonLines:
    """One record a line. A resumed run drops the records after its checkpoint, so that no step appears twice."""

    def __init__(self, file: Path, first_step: int):
        self._file = file
        self._unwritten: list[str] = []
        if not file.exists():
            return
        kept = [record for record in _records(file) if record["step"] <= first_step]
        write_text(file, "".join(json.dumps(record) + "\n" for record in kept))

    def last(self) -> dict[str, Any]:
        """The newest record, empty where there is none."""
        return ([{}] if not self._file.exists() else [{}, *_records(self._file)])[-1]

    def write(self, step: int, record: Record) -> None:
        """Appends a record; one that finds no room on the disk is kept and written with the next."""
        self._unwritten.append(json.dumps({"step": step, **record}) + "\n")
        try:
            with self._file.open("a", encoding="utf-8") as file:
                file.write("".join(self._unwritten))
        except OSError as error:
            log.warning("%s: cannot be written (%s); training continues", self._file, error.strerror)
        else:
            self._unwritten.clear()

    def close(self) -> None:
        pass


def _records(file: Path) -> Iterator[dict[str, Any]]:
    """The complete lines; a line that a kill cut off is left out."""
    for line in file.read_text(encoding="utf-8").splitlines():
        try:
            yield json.loads(line)
        except ValueError:
            continue


class ProgressLine:
    """One line, redrawn in place on a terminal, printed as a new line elsewhere."""

    def __init__(self, steps: int):
        self._steps = steps

    def write(self, step: int, record: Record) -> None:
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
        if sys.stderr.isatty():
            print(file=sys.stderr)


class TensorBoard:
    """Event files in ``WORKDIR/tensorboard``."""

    def __init__(self, workdir: Path, first_step: int):
        writer = needed("tensorboardX", "telemetry.tensorboard").SummaryWriter
        self._writer = writer(str(workdir / "tensorboard"), purge_step=first_step + 1)

    def write(self, step: int, record: Record) -> None:
        for name, value in flat(record):
            self._writer.add_scalar(name, value, step)
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()


class WeightsAndBiases:
    """A run of the project; its name is the workdir's, and a resumed run continues it."""

    def __init__(self, workdir: Path, config: RunConfig):
        wandb = needed("wandb", "telemetry.wandb_project")
        identity = workdir / "wandb_id"
        if not identity.exists():
            identity.write_text(uuid.uuid4().hex[:8], encoding="utf-8")
        try:
            self._run = wandb.init(
                project=config.telemetry.wandb_project,
                name=workdir.name,
                id=identity.read_text(encoding="utf-8"),
                resume="allow",
                dir=str(workdir),
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
