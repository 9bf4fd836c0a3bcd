"""main.py as a user starts it."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def command(*flags: str) -> list[str]:
    return [sys.executable, "main.py", *flags]


def environment() -> dict[str, str]:
    return os.environ | {"PYTHONPATH": str(ROOT)}


def run(*flags: str) -> subprocess.CompletedProcess:
    """Runs to the end; stdout and stderr as text."""
    return subprocess.run(command(*flags), cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=300)


def refused(*flags: str) -> str:
    """What it says when it refuses: exit code 1, one message, no traceback."""
    done = run(*flags)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1, done.stderr
    return done.stderr
