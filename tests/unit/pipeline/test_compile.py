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


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"images": 1, "image_options": [1]}, r"image_options is \[1\]; give a dict of options by name"),
        ({"captions": 1, "text_options": "steps"}, "text_options is 'steps'; give a dict"),
        ({"images": 1, "image_options": {1: 1}}, r"image_options is \{1: 1\}; give a dict"),
        ({"images": 1, "image_options": {"prompts": "a"}}, "image_options has prompts, which compile makes itself"),
        ({"answers": 1, "text_options": {"questions": "a"}}, "text_options has questions, which compile makes itself"),
        ({"captions": 1, "image_options": {"steps": 1}}, "image_options is for images, of which none are compiled"),
        ({"text_options": {"steps": 1}}, "text_options is for captions or answers, of which none are compiled"),
        ({"images": 1, "image_options": {"stepz": 1}}, "steps"),
    ],
)
def test_options_of_no_call_are_named(pipe, given, message):  # noqa: F811
    with pytest.raises(UserError, match=message):
        pipe.compile(**given)


@pytest.mark.parametrize(
    ("steps", "wrong"), enumerate([{"top_p": 2.0}, {"steps": 0}, {"height": 3}, {"stepz": 1}, {"length": 1}], start=7)
)
def test_the_options_of_all_calls_are_checked_before_the_first_is_compiled(pipe, steps, wrong):  # noqa: F811
    def call():
        with pytest.raises(UserError, match=next(iter(wrong)).removesuffix("z")):
            pipe.compile(images=2, answers=1, image_options={"steps": steps}, text_options=wrong)

    assert compilations(call) == 0
