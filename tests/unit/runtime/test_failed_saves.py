"""Messages of libraries about a failed save are silenced, all others are not."""

import logging
import sys
import warnings
from types import SimpleNamespace

import pytest

from dualdiff_jax.runtime.failed_saves import silence_failed_saves


def unraisable(error: Exception, owner: object = None) -> SimpleNamespace:
    return SimpleNamespace(exc_type=type(error), exc_value=error, exc_traceback=None, err_msg=None, object=owner)


def test_only_callbacks_to_a_closed_loop_are_silenced(monkeypatch):
    reported = []
    monkeypatch.setattr(sys, "unraisablehook", reported.append)
    silence_failed_saves()
    silence_failed_saves()
    assert sys.unraisablehook is not reported.append
    closed = RuntimeError("Event loop is closed")
    others = [unraisable(closed, test_only_callbacks_to_a_closed_loop_are_silenced), unraisable(RuntimeError("other"))]
    others.append(unraisable(ValueError("Event loop is closed")))
    for each in (unraisable(closed), *others):
        sys.unraisablehook(each)
    assert reported == others


async def async_serialize_from_host():
    pass


async def other():
    pass


@pytest.mark.parametrize(("coroutine", "is_silenced"), [(async_serialize_from_host, True), (other, False)])
def test_only_dropped_writes_are_silenced(coroutine, is_silenced):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        silence_failed_saves()
        coroutine()
    assert [str(each.message) for each in caught] == [f"coroutine '{coroutine.__name__}' was never awaited"] * (
        not is_silenced
    )


def test_orbax_logs_no_error_below_critical():
    silence_failed_saves()
    assert not any(logging.getLogger(name).isEnabledFor(logging.ERROR) for name in ("absl", "asyncio"))
