"""``main.py`` in a process of its own, as users run it, or in this process, which has imported everything already."""

import contextlib
import io
import logging
import os
import subprocess
import sys
from pathlib import Path
from unittest import mock

from absl.testing import flagsaver

ROOT = Path(__file__).parents[2]
HANG = 3600.0  # seconds; a bound on waits that only ends a hang: no machine is so slow, and no result depends on it

PROGRESS = r"step \d+/\d+  image loss [\d.]+  text loss [\d.]+  \d+ examples/s  [\d:]+ left$"  # a line on stderr


def command(*flags: str) -> list[str]:
    return [sys.executable, "main.py", *flags]


def environment() -> dict[str, str]:
    # 3 hides what XLA reports as an error when a compilation takes two minutes, which it does on a busy machine.
    path = os.pathsep.join([str(ROOT), str(ROOT / "tests" / "hanging")])  # the latter does nothing without HANG_ON
    return os.environ | {"PYTHONPATH": path, "TF_CPP_MIN_LOG_LEVEL": "3"}


def run(*flags: str) -> subprocess.CompletedProcess:
    """Waits for the end; stdout and stderr are text."""
    return _run(command(*flags))


def run_module(name: str, *arguments: str) -> subprocess.CompletedProcess:
    """The same for ``python -m NAME``."""
    return _run([sys.executable, "-m", name, *arguments])


def _run(words: list[str]) -> subprocess.CompletedProcess:
    return subprocess.run(words, cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=HANG)


def run_here(*flags: str) -> subprocess.CompletedProcess:
    """``run`` in this process."""
    from dualdiff_jax.cli import main  # here: a process that only looks up ``HANG`` does not wait for it

    words, root = ["main.py", *flags], logging.getLogger()
    handlers, level, code = root.handlers[:], root.level, 0
    with (
        contextlib.redirect_stdout(io.StringIO()) as stdout,
        contextlib.redirect_stderr(io.StringIO()) as stderr,
        mock.patch.object(sys, "argv", words),
        mock.patch.object(main.environment, "prepare"),
        flagsaver.flagsaver(),
    ):
        try:
            main.main(main._parse(words))
        except SystemExit as end:  # the interpreter prints a message and ends with 1
            code = 1 if isinstance(end.code, str) else end.code or 0
            print(end.code if isinstance(end.code, str) else "", file=sys.stderr)
        finally:
            root.handlers[:] = handlers
            root.setLevel(level)
    return subprocess.CompletedProcess(words, code, stdout.getvalue(), stderr.getvalue())


def refused(*flags: str) -> str:
    """The stderr of a command that ends with 1, one error message and no traceback."""
    return refusal(run_here(*flags))


def refusal(finished: subprocess.CompletedProcess) -> str:
    """The same of a command that has ended."""
    assert finished.returncode == 1, finished.stdout + finished.stderr
    assert "Traceback" not in finished.stderr
    errors = [line for line in finished.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1, finished.stderr
    return finished.stderr
