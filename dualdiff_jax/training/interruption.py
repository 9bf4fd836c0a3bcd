"""Requests to stop: SIGTERM, which preempted machines get, Ctrl-C, and SLURM's SIGUSR1."""

import signal
import threading
import time
from types import FrameType, TracebackType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
ECHO = 1.0  # seconds


class Interruption:
    """A context manager that notes the first of ``SIGNALS``; a second one ends the process at once, as by default.

    A signal within ``ECHO`` seconds counts as the first once more: launchers send a signal to the whole process group
    and also pass it on. Outside the context, and in other threads than the main one, signals keep their handlers.

    Args:
        mesh: all devices; with several hosts it carries the request of one to all.

    Attributes:
        signal: name of the signal that this host received.
    """

    def __init__(self, mesh: Mesh):
        self.signal: str | None = None
        self._since = 0.0
        self._previous: dict[int, Any] = {}
        self._agreement = _Agreement(mesh) if jax.process_count() > 1 else None

    def __enter__(self) -> "Interruption":
        if threading.current_thread() is threading.main_thread():
            self._previous = {number: signal.signal(number, self._note) for number in SIGNALS}
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.signal is None:
            self.signal, self._since = signal.Signals(number).name, time.monotonic()
        elif time.monotonic() - self._since > ECHO:
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)

    def is_requested(self) -> bool:
        """Whether to stop after this step. Every host must call it once a step; all get the same answer."""
        is_requested = self.signal is not None
        return self._agreement.any(is_requested) if self._agreement else is_requested


class _Agreement:
    """Gathers a flag from all hosts, one step late, so that no step waits for the network."""

    def __init__(self, mesh: Mesh):
        self._sharding = NamedSharding(mesh, PartitionSpec(mesh.axis_names))
        self._any = jax.jit(jnp.any, out_shardings=NamedSharding(mesh, PartitionSpec()))
        self._count = len(mesh.local_devices)
        self._earlier: jax.Array | None = None

    def any(self, flag: bool) -> bool:
        """Whether any host passed True at the call before this one."""
        flags = jax.make_array_from_process_local_data(self._sharding, np.full(self._count, flag))
        earlier, self._earlier = self._earlier, self._any(flags)
        return earlier is not None and bool(earlier)
