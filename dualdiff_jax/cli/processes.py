"""Commands that several processes run as one."""

from collections.abc import Callable
from contextlib import AbstractContextManager

from dualdiff_jax.cli import arguments
from dualdiff_jax.distributed.process_group import distributed_run


def processes() -> AbstractContextManager[None]:
    """Joins the processes that the flags or a launcher name, as ``distributed_run`` does."""
    return distributed_run(
        arguments.COORDINATOR.value,
        arguments.NUM_PROCESSES.value,
        arguments.PROCESS_ID.value,
        arguments.INITIALIZATION_TIMEOUT.value,
    )


def together(command: Callable[[], None]) -> Callable[[], None]:
    """``command`` by all processes that were started with it."""

    def run() -> None:
        with processes():
            command()

    return run
