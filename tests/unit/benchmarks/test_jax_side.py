"""Our side of the benchmarks draws and reads with a stand-in for the tokenizer."""

import dataclasses

import pytest

from benchmarks import jax_side
from benchmarks.h100_sizes import tiny_size


@pytest.fixture(scope="module")
def size():
    tiny = tiny_size()
    sampling = dataclasses.replace(tiny.config.model.sampling, image_steps=2, answer_steps=3, answer_length=6)
    model = dataclasses.replace(tiny.config.model, sampling=sampling, compute_dtype="float32")
    return dataclasses.replace(tiny, config=dataclasses.replace(tiny.config, model=model))


@pytest.mark.parametrize("count", [1, 2])
def test_both_directions_run_to_their_end(size, count):
    pipeline = jax_side.open_pipeline(size, "float32")
    jax_side.text_to_image(size, pipeline, count)(0)
    assert 0 < jax_side.image_to_text(size, pipeline, count)(0) <= 4  # one more than the steps
