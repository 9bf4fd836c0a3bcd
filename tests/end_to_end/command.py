"""``main.py`` in a process of its own, as users run it."""

import os
import subprocess
import sys
from pathlib import Path

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


def refused(*flags: str) -> str:
    """The stderr of a command that ends with 1, one error message and no traceback."""
    finished = run(*flags)
    assert finished.returncode == 1, finished.stdout + finished.stderr
    assert "Traceback" not in finished.stderr
    errors = [line for line in finished.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1, finished.stderr
    return finished.stderr
