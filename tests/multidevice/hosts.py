"""Starts processes that work together on this machine, each with devices of its own: of a test's module, or main.py."""

import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from tests import compiler
from tests.end_to_end import command
from tests.end_to_end.command import HANG, ROOT

# XLA ends a process in which one device waits this long for another, which on a busy machine happens (default: 40 s).
PATIENCE = f"--xla_cpu_collective_call_terminate_timeout_seconds={HANG:.0f}"


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def environment(devices: int = 4) -> dict[str, str]:
    """This process's environment, but with so many devices on the CPU."""
    flags = f"--xla_force_host_platform_device_count={devices} {compiler.FLAGS} {PATIENCE}"
    return command.environment() | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}


def start(*arguments: str, devices: int = 4, cwd: Path = ROOT, umask: int = -1) -> subprocess.Popen:
    """Starts ``python ARGUMENTS``; ``finish`` returns what it prints, stderr included."""
    return subprocess.Popen(
        [sys.executable, *arguments],
        cwd=cwd,
        env=environment(devices),
        umask=umask,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def start_two(*arguments: str) -> list[subprocess.Popen]:
    """Starts both processes of a run. Files of the second one are readable to their owner alone, so tests know them."""
    port = free_port()
    return [
        start(
            *arguments,
            f"--coordinator=127.0.0.1:{port}",
            "--num_processes=2",
            f"--process_id={n}",
            f"--initialization_timeout={HANG:.0f}",
            umask=(0o22, 0o77)[n],
        )
        for n in (0, 1)
    ]


def finish(processes: Sequence[subprocess.Popen]) -> list[str]:
    """Waits for the end of all processes; returns what each has printed."""
    try:
        return [process.communicate(timeout=HANG)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
