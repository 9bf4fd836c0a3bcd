"""Processes with devices of their own on this machine: of a test's module, or of main.py, which work together."""

import os
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).parents[2]


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def environment(devices: int = 4) -> dict[str, str]:
    flags = f"--xla_force_host_platform_device_count={devices} --xla_backend_optimization_level=0"  # compiles faster
    return os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)}


def start(*command: str, devices: int = 4, cwd: Path = ROOT, umask: int = -1) -> subprocess.Popen:
    """``python COMMAND``; what it prints is kept, stderr too."""
    return subprocess.Popen(
        [sys.executable, *command],
        cwd=cwd,
        env=environment(devices),
        umask=umask,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def start_two(*command: str) -> list[subprocess.Popen]:
    """Both processes of a run, joined by flags on 127.0.0.1. What the second one writes its owner alone may read."""
    port = free_port()
    return [
        start(
            *command, f"--coordinator=127.0.0.1:{port}", "--num_processes=2", f"--process_id={n}", umask=(0o22, 0o77)[n]
        )
        for n in (0, 1)
    ]


def finish(processes: Sequence[subprocess.Popen], timeout: float = 300.0) -> list[str]:
    """What each has said by its end."""
    try:
        return [process.communicate(timeout=timeout)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
