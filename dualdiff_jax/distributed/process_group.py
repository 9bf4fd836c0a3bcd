"""Processes that work as one: whoever fails ends all, and says why.

Each process has a thread that every ``BEAT`` seconds leaves a sign of life in the key-value store of jax's coordinator
(process 0) and looks whether one has failed. Process 0 also watches the signs: of a process that was killed nothing
else is heard. The death of process 0 itself takes the coordinator with it, and jax ends the others at once.

    dualdiff_jax/alive/K     a count, and on which machine process K runs
    dualdiff_jax/failed/K    the sentence with which process K ends
    dualdiff_jax/heard/K     process K knows that one has failed
"""

import contextlib
import logging
import os
import socket
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from typing import Any, NoReturn

import jax
from jax._src import distributed as jax_distributed  # its key-value store has no public door; Orbax goes in here too

from dualdiff_jax.distributed.launchers import find_process
from dualdiff_jax.distributed.rendezvous import bind_address, rendezvous
from dualdiff_jax.errors import UserError, reason

BEAT = 2.0  # seconds
DEAD_AFTER = 30.0  # seconds without a sign of life; a process that computes gives them all the same
LINGER = 10.0  # seconds that process 0 stays, so that the others hear
FOR_EVER = 7 * 24 * 3600 * 1000  # ms; where one waits for another, the thread above ends the waiting
SPACE = "dualdiff_jax"


@contextlib.contextmanager
def distributed_run(
    coordinator: str | None, num_processes: int | None, process_id: int | None, timeout: int
) -> Iterator[None]:
    """Inside, jax knows the devices of all processes; alone (``launchers.find_process``) nothing happens.

    To be entered before any device is used. Raises ``UserError`` where they do not find each other within
    ``timeout`` seconds. Inside nothing is raised: what would be ends this process, and all others.
    """
    process = find_process(coordinator, num_processes, process_id, timeout=timeout)
    if process is None:
        yield
        return
    rendezvous(process, timeout)
    jax.config.update("jax_enable_preemption_service", False)  # it takes SIGTERM, which training.interruption hears
    jax.distributed.initialize(
        process.coordinator,
        process.num_processes,
        process.process_id,
        process.local_device_ids,
        cluster_detection_method="deactivate",
        initialization_timeout=timeout,
        coordinator_bind_address=bind_address(process),
    )
    watch = _Watch(process.process_id, process.num_processes)
    if process.process_id and not logging.getLogger().isEnabledFor(logging.DEBUG):
        logging.getLogger().setLevel(logging.ERROR)  # warnings are process 0's to tell
    try:
        yield
        barrier("end")
    except BaseException as error:
        watch.fail(error)
    watch.stop()
    jax.distributed.shutdown()


def barrier(what: str) -> None:
    """Waits until all processes have come here, or one has failed; ``what`` is used once at a time, in one order."""
    if jax.process_count() > 1:
        wait_for_all(f"{SPACE}/barrier/{what}/{_count('barrier', what)}", FOR_EVER)


def wait_for_all(key: str, milliseconds: int) -> None:
    """Until all of several processes wait for the same ``key``, which may be used once."""
    _store().wait_at_barrier(key, milliseconds)


def broadcast_from_first(what: str, text: str) -> str:
    """The ``text`` of process 0, on all of them."""
    if jax.process_count() == 1:
        return text
    key = f"{SPACE}/said/{what}/{_count('said', what)}"
    if jax.process_index() == 0:
        _store().key_value_set(key, text)
    return _store().blocking_key_value_get(key, FOR_EVER)


@contextlib.contextmanager
def first_host_first(what: str) -> Iterator[None]:
    """Process 0 is through with what is inside before the others begin it: they find the files that it has made."""
    if jax.process_index():
        barrier(what)
    yield
    if not jax.process_index():
        barrier(what)


_counts: dict[tuple[str, str], int] = {}


def _count(kind: str, what: str) -> int:
    """How often this was asked: a name in the store may be used once, and all processes use them in one order."""
    _counts[kind, what] = _counts.get((kind, what), 0) + 1
    return _counts[kind, what]


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _store() -> Any:
    return jax_distributed.global_state.client


class _Watch:
    """Of one process over the others; see the head of the file."""

    def __init__(self, process_id: int, num_processes: int):
        self._id, self._others = process_id, set(range(num_processes)) - {process_id}
        self._host = socket.gethostname()
        self._is_over = threading.Event()
        self._ending = threading.Lock()  # taken once: by the thread that ends the process
        self._seen: dict[int, tuple[str, float]] = {}  # process -> its last sign and since when
        self._thread = threading.Thread(target=self._run, name="group watch", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._is_over.set()
        self._thread.join()

    def fail(self, error: BaseException) -> NoReturn:
        """Ends this process with what it has to say, and so all others."""
        if isinstance(error, SystemExit) and not error.code:
            os._exit(0)
        if any(isinstance(cause, jax.errors.JaxRuntimeError) for cause in _causes(error)):
            # It may be the other end of a collective that is gone: whose fault it is, the watch will know.
            time.sleep(DEAD_AFTER + 2 * BEAT)
        self._ending.acquire()
        is_clear = isinstance(error, UserError) and not logging.getLogger().isEnabledFor(logging.DEBUG)
        if not is_clear:
            traceback.print_exception(error)
        told = str(error).strip() if isinstance(error, UserError) else f"{type(error).__name__}: {error}".strip()
        print(f"error: {told}", file=sys.stderr, flush=True)
        self._end(f"process {self._id} on {self._host} failed: {told}")

    def _run(self) -> None:
        beats = 0
        while not self._is_over.wait(BEAT):
            beats += 1
            try:
                self._store_set("alive", self._id, f"{beats} {self._host}")
                failed = self._all("failed") or (self._silent() if self._id == 0 else {})
            except Exception as error:  # the coordinator is gone; jax says so too, and ends the process
                failed = {0: f"process 0 cannot be reached any more ({reason(error)})"}
            if failed and self._ending.acquire(blocking=False):
                print(f"\nerror: {' | '.join(failed.values())}; so this process ends too", file=sys.stderr, flush=True)
                self._end(None)

    def _silent(self) -> dict[int, str]:
        """Those of whom no new sign has come for too long, told to all."""
        now, alive = time.monotonic(), self._all("alive")
        for number in self._others:
            sign = alive.get(number, "? an unknown machine")
            if self._seen.get(number, ("", 0.0))[0] != sign:
                self._seen[number] = sign, now
        silent = {
            number: f"process {number} on {sign.split(' ', 1)[1]} has given no sign of life for {now - since:.0f} s: "
            "it was killed, ran out of memory, or its machine is gone"
            for number, (sign, since) in self._seen.items()
            if now - since > DEAD_AFTER
        }
        for number, told in silent.items():
            self._store_set("failed", number, told)
        return silent

    def _end(self, told: str | None) -> NoReturn:
        """``os._exit``: exit handlers would wait for the others, who may wait for this process in a collective."""
        with contextlib.suppress(Exception):
            self._store_set("heard", self._id, "")
            if told is not None:
                self._store_set("failed", self._id, told)
            until = time.monotonic() + LINGER
            while self._id == 0 and time.monotonic() < until:
                if self._others <= {*self._all("heard"), *self._all("failed")}:
                    break
                time.sleep(0.1)
        sys.stdout.flush()
        os._exit(1)

    def _store_set(self, what: str, number: int, value: str) -> None:
        _store().key_value_set(f"{SPACE}/{what}/{number}", value, allow_overwrite=True)

    def _all(self, what: str) -> dict[int, str]:
        found = _store().key_value_dir_get(f"{SPACE}/{what}/")
        return {int(key.rpartition("/")[2]): value for key, value in found}
