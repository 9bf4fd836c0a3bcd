"""Messages of libraries about a failed save or read are silenced, all others are not."""

import logging
import sys
import warnings
from types import SimpleNamespace

import pytest

from dualdiff_jax.runtime.failed_transfers import silence_failed_transfers


def unraisable(error: Exception, owner: object = None) -> SimpleNamespace:
    return SimpleNamespace(exc_type=type(error), exc_value=error, exc_traceback=None, err_msg=None, object=owner)


async def _read_array_index_and_device_put():
    pass


async def async_serialize_from_host():
    pass


async def other():
    pass


class Store:
    async def _get_array_metadatas(self):
        pass


def test_only_callbacks_to_a_closed_loop_and_reads_left_behind_are_silenced(monkeypatch):
    reported = []
    monkeypatch.setattr(sys, "unraisablehook", reported.append)
    silence_failed_transfers()
    silence_failed_transfers()
    assert sys.unraisablehook is not reported.append
    closed = RuntimeError("Event loop is closed")
    left_behind, unknown = _read_array_index_and_device_put(), other()
    others = [unraisable(closed, other), unraisable(RuntimeError("other")), unraisable(RuntimeError("other"), unknown)]
    others.append(unraisable(ValueError("Event loop is closed")))
    for each in (unraisable(closed), unraisable(Exception("a read"), left_behind), *others):
        sys.unraisablehook(each)
    left_behind.close()
    unknown.close()
    assert reported == others


@pytest.mark.parametrize(
    ("coroutine", "is_silenced"),
    [
        (async_serialize_from_host, True),
        (_read_array_index_and_device_put, True),
        (Store()._get_array_metadatas, True),
        (other, False),
    ],
)
def test_only_dropped_transfers_are_silenced(coroutine, is_silenced):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        silence_failed_transfers()
        coroutine()
    assert [str(each.message) for each in caught] == [f"coroutine '{coroutine.__qualname__}' was never awaited"] * (
        not is_silenced
    )


def test_orbax_logs_no_error_below_critical():
    silence_failed_transfers()
    assert not any(logging.getLogger(name).isEnabledFor(logging.ERROR) for name in ("absl", "asyncio"))
