"""main.py, but its stall watchdog waits without a limit for the first step, which compiles for as long as it takes.

python -m tests.end_to_end.patient_run FLAGS...
"""

from dualdiff_jax.cli.main import run
from dualdiff_jax.training import loop
from dualdiff_jax.training.stall_watchdog import StallWatchdog


class PatientWatchdog(StallWatchdog):
    def _watch(self) -> None:
        self._alive.wait()
        super()._watch()


if __name__ == "__main__":
    loop.StallWatchdog = PatientWatchdog
    run()
