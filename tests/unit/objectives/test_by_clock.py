"""Laws of the losses by clock: each example counts once, in the part of [0, 1] that its clock lies in."""

import jax.numpy as jnp
import numpy as np
import pytest

from dualdiff_jax.objectives.joint import CLOCK_BINS, by_clock


@pytest.mark.parametrize(
    "clock, part",
    [(0.0, 0), (0.2499, 0), (0.25, 1), (0.4999, 1), (0.5, 2), (0.75, 3), (0.9999, 3), (1.0, 3)],
)
def test_an_example_counts_in_its_own_part_and_a_clock_of_one_in_the_last(clock, part):
    assert CLOCK_BINS == 4
    found = np.asarray(by_clock(jnp.array([3.0]), jnp.array([clock])))
    expected = np.zeros((2, CLOCK_BINS))
    expected[:, part] = 3.0, 1.0
    np.testing.assert_array_equal(found, expected)


def test_losses_of_a_part_are_summed_beside_their_number():
    losses, clock = jnp.array([1.0, 2.0, 4.0, 8.0, 16.0]), jnp.array([0.1, 1.0, 0.6, 0.2, 0.8])
    found = by_clock(losses, clock)
    assert found.dtype == losses.dtype
    np.testing.assert_array_equal(found, [[9.0, 0.0, 4.0, 18.0], [2.0, 0.0, 1.0, 2.0]])
