"""Laws of time, place and patches."""

import jax.numpy as jnp
import numpy as np
import pytest

from dualdiff_jax.models.embeddings import (
    FREQUENCIES,
    centre_crop,
    patchify,
    position_table,
    timestep_sinusoids,
    unpatchify,
)

GRID, BASE, WIDTH = 6, 3, 8
TABLE = position_table(GRID, BASE, WIDTH)


def latents(height: int, width: int, channels: int) -> np.ndarray:
    """Each entry encodes its index: 10000 b + 1000 y + 10 x + c."""
    b, y, x, c = np.meshgrid(*map(np.arange, (2, height, width, channels)), indexing="ij")
    return (10_000 * b + 1000 * y + 10 * x + c).astype(np.float32)


@pytest.mark.parametrize("patch, height, width, channels", [(2, 4, 6, 3), (1, 3, 2, 2), (3, 3, 6, 1)])
def test_unpatchify_inverts_patchify(patch, height, width, channels):
    original = latents(height, width, channels)
    tokens = patchify(original, patch)
    assert tokens.shape == (2, height * width // patch**2, patch**2 * channels)
    np.testing.assert_array_equal(unpatchify(tokens, height, width, patch), original)


def test_tokens_run_row_by_row_and_hold_row_column_channel():
    tokens = np.asarray(patchify(latents(4, 6, 3), 2))
    second_row_third_column = [[2000 + 40 + c, 2000 + 50 + c, 3000 + 40 + c, 3000 + 50 + c] for c in range(3)]
    np.testing.assert_array_equal(tokens[0, 1 * 3 + 2], np.array(second_row_third_column).T.ravel())
    np.testing.assert_array_equal(tokens[1] - tokens[0], np.full_like(tokens[0], 10_000))


@pytest.mark.parametrize("height, width, top, left", [(6, 6, 0, 0), (4, 2, 1, 2), (3, 5, 1, 0), (1, 1, 2, 2)])
def test_crop_is_the_window_in_the_centre(height, width, top, left):
    """With an odd margin the window is one step nearer to the first row or column."""
    window = centre_crop(jnp.asarray(TABLE), height, width)
    expected = TABLE[top : top + height, left : left + width].reshape(height * width, WIDTH)
    np.testing.assert_array_equal(window, expected)


def test_crop_of_an_odd_table():
    table = jnp.asarray(position_table(5, 5, WIDTH))
    np.testing.assert_array_equal(centre_crop(table, 3, 2), table[1:4, 1:3].reshape(6, WIDTH))


@pytest.mark.parametrize("height, width", [(7, 2), (2, 7)])
def test_crop_beyond_the_table_is_an_error(height, width):
    with pytest.raises(ValueError, match=rf"{height} x {width} tokens do not fit the 6 x 6"):
        centre_crop(jnp.asarray(TABLE), height, width)


def test_position_table_by_its_formula():
    """First half of the channels: the column, sines then cosines; second half: the row; base / grid per step."""
    step, quarter = BASE / GRID, WIDTH // 4
    for y, x in ((0, 0), (2, 5), (5, 1)):
        frequencies = [10_000 ** (-i / quarter) for i in range(quarter)]
        expected = [wave(place * step * w) for place in (x, y) for wave in (np.sin, np.cos) for w in frequencies]
        np.testing.assert_allclose(TABLE[y, x], expected, atol=1e-6)


def test_no_two_positions_have_the_same_vector():
    places = position_table(24, 8, 16).reshape(-1, 16)
    assert len(np.unique(places.round(5), axis=0)) == 24 * 24


def test_sinusoids_by_their_formula_cosines_first():
    timestep = np.array([0.0, 1.0, 437.0, 1000.0])
    found = np.asarray(timestep_sinusoids(jnp.asarray(timestep, jnp.float32)))
    angles = timestep[:, None] * 10_000 ** (-np.arange(FREQUENCIES // 2) / (FREQUENCIES // 2))
    assert found.dtype == np.float32 and found.shape == (4, FREQUENCIES)
    np.testing.assert_allclose(found, np.concatenate([np.cos(angles), np.sin(angles)], axis=1), atol=2e-4)
    np.testing.assert_array_equal(found[0], np.repeat([1.0, 0.0], FREQUENCIES // 2))
