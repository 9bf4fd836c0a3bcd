"""Laws of the pieces that guidance cuts a grid into."""

import numpy as np
import pytest

from dualdiff_jax.sampling.flow_sampler import sigma_grid
from dualdiff_jax.sampling.guidance_schedule import Piece, guidance_pieces

GRID = np.float32([1.0, 0.8, 0.6, 0.4, 0.2, 0.0])


@pytest.mark.parametrize("options", [{}, {"every": 2}, {"interval": (0.3, 0.7)}, {"still_steps": 2, "every": 3}])
@pytest.mark.parametrize("steps", [1, 2, 7])
def test_pieces_are_the_grid_in_order(options, steps):
    pieces = guidance_pieces(sigma_grid(steps, 3.0), is_guided=True, **options)
    assert [piece.first for piece in pieces] == [0, *(piece.last for piece in pieces[:-1])]
    assert pieces[-1].last == steps and all(piece.first < piece.last for piece in pieces)


def test_all_levels_are_one_guided_piece_and_no_guidance_one_plain_piece():
    assert guidance_pieces(GRID, is_guided=True) == [Piece(0, 5, "guided")]
    assert guidance_pieces(GRID, is_guided=False, interval=(0.5, 0.7), still_steps=2) == [Piece(0, 5, "plain")]


def test_an_interval_holds_both_of_its_ends():
    """A step is guided where the level that it begins at lies in the interval."""
    ends = float(GRID[3]), float(GRID[1])
    assert guidance_pieces(GRID, is_guided=True, interval=ends) == [
        Piece(0, 1, "plain"),
        Piece(1, 4, "guided"),
        Piece(4, 5, "plain"),
    ]
    inside = np.nextafter(np.float32(ends[0]), np.float32(1)), np.nextafter(np.float32(ends[1]), np.float32(0))
    assert guidance_pieces(GRID, is_guided=True, interval=tuple(map(float, inside)))[1] == Piece(2, 3, "guided")
    assert guidance_pieces(GRID, is_guided=True, interval=(0.41, 0.5)) == [Piece(0, 5, "plain")]


@pytest.mark.parametrize(("interval", "kinds"), [((0.0, 0.3), ["plain", "guided"]), ((0.7, 1.0), ["guided", "plain"])])
def test_a_bound_and_a_level_of_the_same_decimals_are_equal(interval, kinds):
    """0.3 is larger in fp32 than in fp64, and 0.7 smaller."""
    pieces = guidance_pieces(np.float32([1.0, 0.7, 0.3, 0.0]), is_guided=True, interval=interval)
    assert [piece.kind for piece in pieces] == kinds
    assert pieces[1].first == 2


def test_the_first_steps_are_still_wherever_the_interval_lies():
    assert guidance_pieces(GRID, is_guided=True, still_steps=2, interval=(0.3, 0.9)) == [
        Piece(0, 2, "still"),
        Piece(2, 4, "guided"),
        Piece(4, 5, "plain"),
    ]
    assert guidance_pieces(GRID, is_guided=True, still_steps=9) == [Piece(0, 5, "still")]


def test_every_so_many_steps_there_is_a_cut():
    assert [piece[:2] for piece in guidance_pieces(GRID, is_guided=True, every=2)] == [(0, 2), (2, 4), (4, 5)]
    cut = guidance_pieces(GRID, is_guided=True, interval=(0.3, 1.0), every=3)
    assert cut == [Piece(0, 3, "guided"), Piece(3, 4, "guided"), Piece(4, 5, "plain")]
    assert guidance_pieces(GRID, is_guided=True, every=99) == [Piece(0, 5, "guided")]
