"""Compilation ahead of time: the calls that it is for compile nothing any more."""

import jax
import numpy as np
import pytest

from dualdiff_jax.errors import UserError
from tests.unit.pipeline.test_pipeline import pipe  # noqa: F401


def compilations(call) -> int:
    found = []
    listener = lambda event, seconds, **_: found.append(event) if "backend_compile" in event else None  # noqa: E731
    jax.monitoring.register_event_duration_secs_listener(listener)
    try:
        call()
    finally:
        jax.monitoring.unregister_event_duration_listener(listener)
    return len(found)


def test_a_call_of_the_same_size_compiles_nothing_afterwards(pipe):  # noqa: F811
    seconds = pipe.compile(images=2, answers=1, image_options={"steps": 3}, text_options={"steps": 2, "length": 16})
    assert seconds.keys() == {"images", "answers"} and all(value > 0 for value in seconds.values())
    grey = np.zeros((4, 4, 3), np.uint8)
    assert compilations(lambda: pipe.text_to_image(["a b", "c"], steps=3, seed=5)) == 0
    assert compilations(lambda: pipe.answer(grey, "why", steps=2, length=16, seed=9)) == 0
    assert compilations(lambda: pipe.text_to_image(["a b", "c"], steps=2)) > 0


def test_a_count_that_is_none_is_named(pipe):  # noqa: F811
    with pytest.raises(UserError, match="captions is -1; give a whole number from 0"):
        pipe.compile(captions=-1)
