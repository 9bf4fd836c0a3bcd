"""What several hosts agree on about saves in the background: all of them go on, or all of them give up the save.

A host that cannot write reports why in the key-value store of JAX's coordinator. Hosts that wait for it inside a save
see the report and give up too. At steps that all hosts know, the first host reads the reports and all others follow it:

    dualdiff_jax/failed_save/G/K     why process K could not write; G counts the saves that all gave up
    dualdiff_jax/save/G/NAME/N/...   who has come to the N-th wait called NAME
"""

import collections
import sys
import threading

import jax

from dualdiff_jax.distributed.process_group import barrier, broadcast_from_first
from dualdiff_jax.distributed.watch import SPACE, store
from dualdiff_jax.errors import reason

SLICE = 1000  # ms between two looks at the reports while a host waits


class SaveAgreement:
    """Reports of failed saves, in a process of its own or among several hosts."""

    def __init__(self):
        self._given_up = 0
        self._reported = ""
        self._waits: collections.Counter[str] = collections.Counter()
        self._lock = threading.Lock()

    def report(self, why: str) -> None:
        """Reports that a save failed here, unless the hosts know a reason already: it may be the cause of this one."""
        with self._lock:
            if self._seen():
                return
            self._reported = why
        if jax.process_count() > 1:
            store().key_value_set(f"{self._reports()}{jax.process_index()}", why)

    def failure(self) -> str:
        """Why a save failed, the same text on all hosts; empty if none has failed. All hosts call this together."""
        return broadcast_from_first("failed save", self._seen() if jax.process_index() == 0 else "")

    def failure_of_all(self) -> str:
        """``failure``, once all hosts have come here, so that no report is missed."""
        barrier("saves have ended")
        return self.failure()

    def give_up(self) -> None:
        """Forgets the reports, when all hosts have left the save. All hosts call this together."""
        barrier("a save is given up")
        self._given_up += 1
        self._reported = ""
        self._waits.clear()

    def wait(self, *, key: str, timeout_ms: int) -> None:
        """The barrier at which Orbax's threads of all hosts wait for each other.

        A host whose save failed comes here on its way out (``finally``); it reports why, and leaves.

        Args:
            key: the name of the place in Orbax; used again by later saves.
            timeout_ms: milliseconds to wait.

        Raises:
            TimeoutError: a host is missing.
            OSError: a host could not write.
        """
        if (failure := sys.exception()) is not None:
            self.report(reason(failure))
            raise failure
        with self._lock:
            self._waits[key] += 1
            number = self._waits[key]
        before, place = (f"{SPACE}/save/{self._given_up}/{key}/{n}" for n in (number - 1, number))
        if jax.process_index():
            store().key_value_set(f"{place}/{jax.process_index()}", "here")
            self._get(f"{place}/all", timeout_ms)
        else:
            for process in range(1, jax.process_count()):
                self._get(f"{place}/{process}", timeout_ms)
            store().key_value_delete(f"{before}/")  # all have left it
            store().key_value_set(f"{place}/all", "here")

    def _get(self, key: str, timeout_ms: int) -> None:
        for _ in range(max(1, timeout_ms // SLICE)):
            try:
                store().blocking_key_value_get(key, SLICE)
                return
            except jax.errors.JaxRuntimeError as error:
                if "DEADLINE_EXCEEDED" not in str(error):
                    raise
            if why := self._seen():
                raise OSError(why)
        raise TimeoutError(f"{key}: nobody came within {timeout_ms // 1000} s")

    def _seen(self) -> str:
        if jax.process_count() == 1:
            return self._reported
        found = store().key_value_dir_get(self._reports())
        return "; ".join(f"process {key.rsplit('/', 1)[1]}: {why}" for key, why in found)

    def _reports(self) -> str:
        return f"{SPACE}/failed_save/{self._given_up}/"
