"""Two hosts wait for each other during a save, until one of them cannot write; the hosts are threads here."""

import concurrent.futures
import threading
import time
import types

import jax
import pytest

from dualdiff_jax.training import save_agreement
from dualdiff_jax.training.save_agreement import SaveAgreement

PATIENCE = 60_000  # ms
here = threading.local()


class Store:
    """As much of JAX's key-value store as a save needs."""

    def __init__(self):
        self.entries: dict[str, str] = {}
        self._changed = threading.Condition()

    def key_value_set(self, key: str, value: str) -> None:
        with self._changed:
            assert key not in self.entries
            self.entries[key] = value
            self._changed.notify_all()

    def key_value_dir_get(self, folder: str) -> list[tuple[str, str]]:
        return sorted((key, value) for key, value in self.entries.items() if key.startswith(folder))

    def key_value_delete(self, folder: str) -> None:
        for key, _ in self.key_value_dir_get(folder):
            del self.entries[key]

    def blocking_key_value_get(self, key: str, milliseconds: int) -> str:
        with self._changed:
            if not self._changed.wait_for(lambda: key in self.entries, milliseconds / 1000):
                raise jax.errors.JaxRuntimeError("DEADLINE_EXCEEDED: nobody came")
            return self.entries[key]


@pytest.fixture
def store(monkeypatch) -> Store:
    store, both = Store(), threading.Barrier(2, timeout=60)
    monkeypatch.setattr(save_agreement, "store", lambda: store)
    monkeypatch.setattr(save_agreement, "barrier", lambda name: both.wait())
    jax_of_thread = types.SimpleNamespace(
        process_count=lambda: 2, process_index=lambda: here.process, errors=jax.errors
    )
    monkeypatch.setattr(save_agreement, "jax", jax_of_thread)
    monkeypatch.setattr(save_agreement, "SLICE", 20)
    return store


def on_both(agreements, act) -> list:
    """``act(agreement, number)`` of each host, at the same time."""

    def run(number: int):
        here.process = number
        return act(agreements[number], number)

    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        return list(pool.map(run, (0, 1)))


def test_they_pass_each_wait_together_and_leave_no_old_keys(store):
    agreements, passed = (SaveAgreement(), SaveAgreement()), []

    def wait(agreement: SaveAgreement, number: int) -> None:
        for count in range(5):
            if number == count % 2:
                time.sleep(0.05)
            passed.append((count, "comes"))
            agreement.wait(key="written", timeout_ms=PATIENCE)
            passed.append((count, "passes"))

    on_both(agreements, wait)
    for count in range(5):
        assert max(i for i, seen in enumerate(passed) if seen == (count, "comes")) < passed.index((count, "passes"))
    assert {key.split("/")[4] for key in store.entries} == {"5"}


@pytest.mark.parametrize("victim", [0, 1])
def test_where_one_cannot_write_the_other_leaves_with_its_reason_and_both_can_save_again(store, victim):
    agreements = (SaveAgreement(), SaveAgreement())

    def save(agreement: SaveAgreement, number: int) -> None:
        agreement.wait(key="begin", timeout_ms=PATIENCE)
        try:
            if number == victim:
                raise OSError("the disk is full")
        finally:
            agreement.wait(key="written", timeout_ms=PATIENCE)

    def fail(agreement: SaveAgreement, number: int) -> str:
        with pytest.raises(OSError, match="^the disk is full$" if number == victim else f"^process {victim}: the disk"):
            save(agreement, number)
        return agreement._seen()

    assert on_both(agreements, fail) == [f"process {victim}: the disk is full"] * 2
    on_both(agreements, lambda agreement, number: agreement.give_up())
    assert on_both(agreements, lambda agreement, number: agreement._seen()) == ["", ""]
    on_both(agreements, lambda agreement, number: agreement.wait(key="written", timeout_ms=PATIENCE))


def test_a_host_that_never_comes_is_missed_in_the_end(store):
    here.process = 0
    with pytest.raises(TimeoutError, match="nobody came within 0 s"):
        SaveAgreement().wait(key="written", timeout_ms=60)


def test_a_single_process_hears_its_first_reason_until_it_gives_up():
    agreement = SaveAgreement()
    assert agreement.failure() == ""
    agreement.report("full")
    agreement.report("closed")
    assert agreement.failure() == agreement.failure_of_all() == "full"
    agreement.give_up()
    assert agreement.failure() == ""
