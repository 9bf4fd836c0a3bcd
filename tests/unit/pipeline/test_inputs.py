"""What the pipeline accepts of its callers, and how it splits their examples into batches."""

import io
import re
from pathlib import Path
from typing import get_args, get_type_hints

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from PIL import Image

from dualdiff_jax.config.model import SamplingConfig
from dualdiff_jax.errors import UserError
from dualdiff_jax.pipeline import arrays_in, inputs
from dualdiff_jax.sampling import text_samplers
from tests.unit.tiny import CONFIG

PIXELS = np.zeros((4, 4, 3), np.uint8)


def test_one_text_or_image_becomes_a_list_and_several_stay_as_they_are():
    assert inputs.as_texts("prompts", "a three") == ["a three"]
    assert inputs.as_texts("prompts", ("a", "b")) == ["a", "b"]
    data = io.BytesIO()
    Image.fromarray(PIXELS).save(data, "png")
    for image in ("a.png", Path("a.png"), data.getvalue(), Image.fromarray(PIXELS), PIXELS, PIXELS[..., 0]):
        assert len(arrays_in.as_images(image)) == 1 and arrays_in.as_images(image)[0] is image
    assert arrays_in.as_images(["a.png", PIXELS])[0] == "a.png"
    for batch in (np.stack([PIXELS] * 3), jnp.stack([PIXELS] * 3), torch.from_numpy(np.stack([PIXELS] * 3))):
        assert len(arrays_in.as_images(batch)) == 3
    grey = arrays_in.as_images(PIXELS[..., :1])
    assert len(grey) == 1 and np.shape(grey[0]) == (4, 4)


def test_numbers_that_fit_come_back_and_none_is_the_default():
    assert inputs.whole_number("steps", None, 7) == 7
    assert inputs.whole_number("steps", np.int64(3), 7) == 3
    assert inputs.setting("scale", None, "guidance_scale", 2.5) == 2.5
    assert inputs.setting("scale", np.float32(0.5), "guidance_scale", 2.5) == 0.5
    assert inputs.setting("steps", np.int64(3), "image_steps", 7) == 3
    assert inputs.check_seed("seed", 2**64 - 1) == 2**64 - 1
    assert inputs.image_size(CONFIG, None, None) == (4, 4)
    assert inputs.image_size(CONFIG, 12, 2) == (12, 2)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: inputs.as_texts("prompts", ["a", 3]), "prompts[1] is 3; give a text"),
        (lambda: inputs.whole_number("steps", 0, 7), "steps is 0; give a whole number from 1 to 2147483647"),
        (lambda: inputs.whole_number("steps", 2.5, 7), "steps is 2.5; give a whole number from 1 to 2147483647"),
        (lambda: inputs.setting("shift", 0.0, "sigma_shift"), "shift: 0.0 is below 0.001"),
        (lambda: inputs.setting("shift", float("inf"), "sigma_shift"), "shift: inf is above 1000.0"),
        (lambda: inputs.setting("shift", float("nan"), "sigma_shift"), "shift: is not a number"),
        (lambda: inputs.check_seed("seed", -1), "seed is -1; give a whole number from 0 to 18446744073709551615"),
        (lambda: inputs.check_seed("seed", 2**64), "seed is 18446744073709551616; give a whole number from 0 to"),
        (lambda: inputs.check_seed("seed", 0.5), "seed is 0.5; give a whole number from 0 to"),
        (lambda: inputs.choice("order", "left", ("a", "b")), "order is 'left'; give one of a, b"),
        (
            lambda: inputs.image_size(CONFIG, 14, None),
            "height x width is 14 x 4 pixels, which this model cannot make; give multiples of 2 up to 12",
        ),
        (lambda: inputs.image_size(CONFIG, 4, 3), "height x width is 4 x 3 pixels"),
        (lambda: inputs.image_size(CONFIG, 4, -2), "width is -2; give a whole number from 1 to"),
        (lambda: inputs.example_keys(np.array(3.0), 1), "seed is array(3.); give a whole number from 0 to"),
        (lambda: inputs.example_keys(jnp.array(True), 1), "give a whole number from 0 to"),
        (lambda: inputs.example_keys(np.array([True]), 1), "seed[0] is "),
        (lambda: inputs.example_keys(jnp.ones(1), 1), "seed[0] is Array(1., dtype=float32); give a whole number"),
        (lambda: inputs.example_keys([1.5], 1), "seed[0] is 1.5; give a whole number from 0 to"),
        (lambda: inputs.example_keys(b"3", 1), "seed is b'3'; give a whole number from 0 to"),
        (lambda: inputs.example_keys(np.zeros((1, 1), int), 1), "seed is array([[0]]); give a whole number from 0 to"),
        (lambda: inputs.finite_number("scale", np.complex64(2 + 3j)), "; give a finite number"),
        (lambda: inputs.setting("scale", np.complex128(2j), "guidance_scale"), "scale: expected float, found"),
    ],
)
def test_what_cannot_be_used_is_named(call, message):
    with pytest.raises(UserError, match=re.escape(message)):
        call()


@pytest.mark.parametrize("array", [np.ones(2, jnp.bfloat16), jnp.ones(2, jnp.bfloat16), torch.ones(2).bfloat16()])
def test_bfloat16_is_a_float_of_every_library(array):
    np.testing.assert_array_equal(np.asarray(arrays_in.float_array("latents", array, (2,)), np.float32), np.ones(2))
    with pytest.raises(UserError, match=r"images is of (bfloat16|float32); give uint8: round\(255"):
        arrays_in.as_images(array)


@pytest.mark.parametrize(
    ("count", "parts", "sizes"), [(1, 1, [1]), (3, 1, [4]), (8, 1, [8]), (9, 1, [8, 8]), (3, 8, [8]), (5, 3, [9])]
)
def test_batches_have_one_size_that_divides_over_the_mesh(count, parts, sizes):
    found = list(inputs.batches(inputs.example_keys(3, count), largest=8, parts=parts))
    assert [len(rows) for rows, _, _ in found] == sizes
    assert [row for rows, counted, _ in found for row in rows[:counted]] == list(range(count))
    assert all(row == count - 1 for rows, counted, _ in found for row in rows[counted:])


def test_an_examples_key_depends_on_the_seed_and_its_index_alone():
    def keys(count: int, seed: int, largest: int) -> list:
        found = inputs.batches(inputs.example_keys(seed, count), largest, parts=1)
        return [tuple(key) for rows, counted, rngs in found for key in jax.random.key_data(rngs)[:counted].tolist()]

    assert keys(7, 3, 2) == keys(7, 3, 8) == keys(9, 3, 4)[:7]
    assert len(set(keys(7, 3, 2) + keys(7, 4, 2))) == 14


@pytest.mark.parametrize("kind", [int, np.uint64, np.array, jnp.int32, jnp.asarray, torch.tensor])
def test_a_seed_is_an_integer_of_any_library_and_seeds_are_a_sequence_of_them(kind):
    def bits(seed, count: int) -> list:
        return jax.random.key_data(inputs.example_keys(seed, count)).tolist()

    assert bits(kind(3), 2) == bits(3, 2)
    assert bits([kind(0), kind(1)], 2) == bits([0, 1], 2)
    for several in (range(2), (0, 1), np.arange(2), jnp.arange(2), torch.arange(2)):
        assert bits(several, 2) == bits([0, 1], 2)


@pytest.mark.parametrize("values", ([[1.0], [0.5, 0.3]], ["1"], [1 + 0j], np.array([1j]), [None], None, object()))
def test_what_are_no_real_numbers_are_none(values):
    assert inputs.numbers(values) is None


def test_every_order_that_a_config_may_name_has_a_sampler():
    assert set(get_args(get_type_hints(SamplingConfig)["text_order"])) == set(text_samplers.TEXT_SAMPLERS)
