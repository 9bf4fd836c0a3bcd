"""Reads mutated files one after the other, each within bounds of time and memory."""

import contextlib
import logging
import shutil
import signal
import tempfile
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from dualdiff_jax.errors import UserError
from tests.fuzz.mutations import DAMAGE
from tests.fuzz.targets import TARGETS, Count

SECONDS = 5.0  # of the processor; a loaded machine does not count
MEMORY = 1 << 30  # bytes above what the process held before
LONGEST = 4000  # characters of a message
STATUS, RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")


class Finding(NamedTuple):
    number: int
    what: str
    error: BaseException | None = None


class Result(NamedTuple):
    findings: list[Finding]
    refused: int
    read: int


class TooSlow(BaseException):
    """No reader may catch it."""


class Warnings(logging.Handler):
    """Counts the package's warnings."""

    def __init__(self):
        super().__init__(logging.WARNING)
        self.count = 0

    def emit(self, record: logging.LogRecord) -> None:
        record.getMessage()
        self.count += 1


def fuzz(name: str, numbers: Iterable[int], seed: int = 0) -> Result:
    """Reads the mutations ``numbers`` of the target ``name``.

    Args:
        name: a key of ``TARGETS``.
        numbers: each, with ``seed``, decides one mutation.
        seed: of all mutations.
    """
    target = TARGETS[name]
    with tempfile.TemporaryDirectory() as scratch, counted_warnings() as warnings:
        clean, spoilt = Path(scratch) / "clean", Path(scratch) / "spoilt"
        clean.mkdir()
        place = target.make(clean).relative_to(clean)
        original = (clean / place).read_bytes()
        whole = target.read(clean / place)
        assert whole.bad == 0 and whole.good > 0
        shutil.copytree(clean, spoilt)
        findings, refused, read = [], 0, 0
        for number in numbers:
            rng = np.random.default_rng((seed, zlib.crc32(name.encode()), number))
            mutator = target.mutators[int(rng.integers(len(target.mutators)))]
            (spoilt / place).write_bytes(mutator(original, rng))
            before, warnings.count = memory(reset=True), 0
            outcome = outcome_of(target.read, spoilt / place)
            if isinstance(outcome, BaseException) and not isinstance(outcome, UserError):
                findings.append(Finding(number, f"{mutator.__name__}: {outcome!r}"[:300], outcome))
            elif isinstance(outcome, UserError):
                refused += 1
                if fault := fault_of(str(outcome)):
                    findings.append(Finding(number, f"{mutator.__name__}: {fault}", outcome))
            else:
                read += 1
                is_reported = outcome.bad or warnings.count
                if target.notices_loss and mutator in DAMAGE and outcome.good < whole.good and not is_reported:
                    lost = f"{whole.good - outcome.good} of {whole.good} records are gone without a word"
                    findings.append(Finding(number, f"{mutator.__name__}: {lost}"))
            if (taken := memory() - before) > MEMORY:
                findings.append(Finding(number, f"{mutator.__name__}: takes {taken >> 20} MiB"))
    return Result(findings, refused, read)


def outcome_of(read, file: Path) -> Count | BaseException:
    """What ``read`` returns or raises."""
    try:
        with processor_time():
            return read(file)
    except (Exception, TooSlow) as error:
        return error


def fault_of(message: str) -> str | None:
    """What is wrong with a message: too long, or not to be printed."""
    try:
        message.encode("utf-8")
    except UnicodeEncodeError as error:
        return f"its message cannot be printed ({error})"
    return f"its message has {len(message)} characters" if len(message) > LONGEST else None


@contextlib.contextmanager
def processor_time() -> Iterator[None]:
    """Raises ``TooSlow`` in the block after ``SECONDS``."""

    def stop(*_) -> None:
        raise TooSlow(f"takes more than {SECONDS} s")

    previous = signal.signal(signal.SIGPROF, stop)
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0.0)
        signal.signal(signal.SIGPROF, previous)


@contextlib.contextmanager
def counted_warnings() -> Iterator[Warnings]:
    handler, logger = Warnings(), logging.getLogger("dualdiff_jax")
    logger.addHandler(handler)
    propagate, logger.propagate = logger.propagate, False
    try:
        yield handler
    finally:
        logger.removeHandler(handler)
        logger.propagate = propagate


def memory(reset: bool = False) -> int:
    """The most bytes that this process has held since the last reset."""
    if reset:
        RESET.write_text("5")
    line = next(line for line in STATUS.read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) << 10
