"""Hann-weighted fusion: sums over cells against a loop straight from the definition."""

from __future__ import annotations

import math

import numpy as np
import pytest

from lrsclip_rt.errors import InputError
from lrsclip_rt.localization.fusion import cell_means, centre_pixels, fusion_grid_shape
from lrsclip_rt.localization.hann import hann_means, spans_by_tile, spans_on_grid
from lrsclip_rt.localization.windows import selo_windows
from lrsclip_rt.tiles import Window


def weight(position: float) -> float:
    return math.sin(math.pi * position) ** 2


def test_cells_hold_the_weighted_mean_of_the_windows_over_their_centre_pixel() -> None:
    rng = np.random.default_rng(1)
    height, width, rows, cols = 90, 140, 13, 20
    windows = [Window(int(rng.integers(0, 60)), int(rng.integers(0, 40)), 80, 50) for _ in range(12)]
    scores = rng.normal(0.2, 0.05, (12, 3))
    found = hann_means(spans_on_grid(windows, height=height, width=width, rows=rows, cols=cols), scores)
    for row, centre_row in enumerate(centre_pixels(height, rows)):
        for col, centre_col in enumerate(centre_pixels(width, cols)):
            total, weights = np.zeros(3), 0.0
            for window, score in zip(windows, scores, strict=True):
                down, across = centre_row - window.row_off, centre_col - window.col_off
                if 0 <= down < window.height and 0 <= across < window.width:
                    w = weight((down + 0.5) / window.height) * weight((across + 0.5) / window.width)
                    total, weights = total + w * score, weights + w
            if weights:
                np.testing.assert_allclose(found[:, row, col], total / weights, atol=1e-7)
            else:
                assert np.isnan(found[:, row, col]).all()


@pytest.mark.parametrize(("height", "width"), [(600, 700), (257, 1001), (40, 30), (1153, 769)])
def test_a_covered_scene_has_a_value_in_every_cell_and_equal_scores_stay(height: int, width: int) -> None:
    rows, cols = fusion_grid_shape(height, width)
    windows = selo_windows(height, width)
    grid = spans_on_grid(windows, height=height, width=width, rows=rows, cols=cols)
    assert grid.factors.min() > 0
    assert grid.factors.max() <= 1
    found = hann_means(grid, np.full((len(windows), 1), 0.25))
    np.testing.assert_allclose(found, 0.25, rtol=1e-12)


def test_the_same_cells_are_covered_as_without_weights() -> None:
    windows = [Window(3, 5, 20, 11), Window(40, 2, 9, 9)]
    scores = np.array([[1.0], [2.0]])
    grid = spans_on_grid(windows, height=30, width=60, rows=15, cols=30)
    plain = cell_means(windows, scores, height=30, width=60).on_grid(0, 15, 30)
    assert (np.isnan(hann_means(grid, scores)[0]) == np.isnan(plain)).all()


def test_a_window_between_two_centres_covers_nothing() -> None:
    grid = spans_on_grid(
        [Window(0, 0, 100, 100), Window(6, 6, 3, 3)], height=100, width=100, rows=10, cols=10
    )
    assert grid.spans[1]["first_row"] == grid.spans[1]["end_row"]
    assert (hann_means(grid, np.array([[1.0], [5.0]])) == 1.0).all()


def test_every_tile_lists_the_windows_that_reach_it() -> None:
    windows = selo_windows(1000, 1300)
    grid = spans_on_grid(windows, height=1000, width=1300, rows=200, cols=260)
    starts, numbers = spans_by_tile(grid)
    across = -(-260 // 16)
    assert len(starts) == 13 * across + 1
    for tile in range(len(starts) - 1):
        top, left = 16 * (tile // across), 16 * (tile % across)
        reached = [
            number
            for number, span in enumerate(grid.spans)
            if max(top, span["first_row"]) < min(top + 16, span["end_row"])
            and max(left, span["first_col"]) < min(left + 16, span["end_col"])
        ]
        assert numbers[starts[tile] : starts[tile + 1]].tolist() == reached


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(InputError, match="got 0 windows"):
        spans_on_grid([], height=10, width=10, rows=2, cols=2)
    with pytest.raises(InputError, match="grid of 0 x 2 cells"):
        spans_on_grid([Window(0, 0, 5, 5)], height=10, width=10, rows=0, cols=2)
    with pytest.raises(InputError, match="leaves the scene of 10 x 10 px"):
        spans_on_grid([Window(6, 0, 5, 5)], height=10, width=10, rows=2, cols=2)
    grid = spans_on_grid([Window(0, 0, 5, 5)], height=10, width=10, rows=2, cols=2)
    with pytest.raises(InputError, match=r"1 windows and scores \(2, 1\)"):
        hann_means(grid, np.zeros((2, 1)))
