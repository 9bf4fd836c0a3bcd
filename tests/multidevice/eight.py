"""A process of its own with many devices, since a process cannot change how many it has."""

import subprocess
import sys
from pathlib import Path

from tests.multidevice.hosts import ROOT, environment


def run_module(module: str, folder: Path, devices: int) -> None:
    """``python -m module folder`` on so many fake devices; its output is told where it fails."""
    done = subprocess.run(
        [sys.executable, "-m", module, str(folder)],
        cwd=ROOT,
        env=environment(devices),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
