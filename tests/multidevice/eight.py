"""A process with many devices: a process cannot change how many it has, so these tests start another."""

import subprocess
import sys
from pathlib import Path

from tests.multidevice.hosts import ROOT, environment


def run_module(module: str, folder: Path, devices: int, *arguments: str) -> None:
    """Runs ``python -m module folder ARGUMENTS`` on fake devices; a failure shows the output of the process."""
    process = subprocess.run(
        [sys.executable, "-m", module, str(folder), *arguments],
        cwd=ROOT,
        env=environment(devices),
        capture_output=True,
        text=True,
    )
    assert process.returncode == 0, process.stdout + process.stderr
