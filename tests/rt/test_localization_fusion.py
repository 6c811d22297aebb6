"""Score maps: cells against a loop over pixels, the uint8 map against OpenCV's median."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from numpy.typing import NDArray

from lrsclip_rt.errors import InputError
from lrsclip_rt.localization.fusion import cell_means, centre_pixels, fusion_grid_shape
from lrsclip_rt.localization.selo_map import selo_map, selo_map_strips
from lrsclip_rt.localization.windows import selo_windows
from lrsclip_rt.tiles import Window

SHAPES = [(1000, 1301), (256, 256), (300, 257), (600, 700), (257, 1001), (100, 2000), (1153, 769), (40, 30)]


def mean_by_pixels(
    windows: Sequence[Window], scores: NDArray[np.float64], height: int, width: int
) -> NDArray:
    """The slow twin, straight from the text: sum and count at every pixel."""
    total, count = np.zeros((height, width)), np.zeros((height, width))
    for window, score in zip(windows, scores, strict=True):
        rows = slice(window.row_off, window.row_off + window.height)
        cols = slice(window.col_off, window.col_off + window.width)
        total[rows, cols] += score
        count[rows, cols] += 1
    return total / count


def map_by_pixels(mean: NDArray[np.float64], median_side: int) -> NDArray[np.uint8]:
    """Minimum subtracted, divided by the maximum, quantised by truncation, OpenCV's median."""
    cv2 = pytest.importorskip("cv2")
    shifted = mean - mean.min()
    p = shifted / shifted.max() if shifted.max() > 0 else shifted
    return np.asarray(cv2.medianBlur((255 * p).astype(np.uint8), median_side))


def scored(height: int, width: int, *, seed: int = 0) -> tuple[list[Window], NDArray[np.float32]]:
    windows = selo_windows(height, width)
    scores = np.random.default_rng(seed).normal(0.2, 0.03, (len(windows), 2)).astype(np.float32)
    return windows, scores


@pytest.mark.parametrize(("height", "width"), SHAPES)
def test_cells_hold_the_mean_of_every_pixel_to_the_last_bit(height: int, width: int) -> None:
    windows, scores = scored(height, width)
    cells = cell_means(windows, scores, height=height, width=width)
    for text in range(2):
        slow = mean_by_pixels(windows, scores[:, text].astype(np.float64), height, width)
        np.testing.assert_array_equal(cells.at_pixels(text, np.arange(height), np.arange(width)), slow)


@pytest.mark.parametrize(("height", "width"), SHAPES)
def test_the_uint8_map_equals_the_protocol_done_pixel_by_pixel(height: int, width: int) -> None:
    windows, scores = scored(height, width, seed=1)
    cells = cell_means(windows, scores, height=height, width=width)
    slow = mean_by_pixels(windows, scores[:, 1].astype(np.float64), height, width)
    fast = selo_map(cells, 1)
    assert fast.dtype == np.uint8
    assert np.count_nonzero(fast != map_by_pixels(slow, 251)) == 0


@pytest.mark.parametrize("side", [3, 31, 101])
def test_any_odd_median_equals_opencvs(side: int) -> None:
    windows, scores = scored(600, 523, seed=2)
    cells = cell_means(windows, scores, height=600, width=523)
    slow = mean_by_pixels(windows, scores[:, 0].astype(np.float64), 600, 523)
    assert np.count_nonzero(selo_map(cells, 0, median_side=side) != map_by_pixels(slow, side)) == 0


def test_a_median_wider_than_the_scene_replicates_the_border() -> None:
    covered = cell_means(
        [Window(0, 0, 9, 9), Window(3, 2, 6, 7)], np.array([[0.1], [0.5]]), height=9, width=9
    )
    slow = covered.at_pixels(0, np.arange(9), np.arange(9))
    assert np.count_nonzero(selo_map(covered, 0, median_side=31) != map_by_pixels(slow, 31)) == 0


def test_a_constant_map_is_all_zeros() -> None:
    windows = selo_windows(400, 400)
    cells = cell_means(windows, np.full((len(windows), 1), 0.25), height=400, width=400)
    assert selo_map(cells, 0).max() == 0
    assert selo_map(cells, 0).shape == (400, 400)


def test_strips_are_narrow_and_make_up_the_map() -> None:
    windows, scores = scored(700, 400)
    cells = cell_means(windows, scores, height=700, width=400)
    strips = list(selo_map_strips(cells, 0))
    assert max(len(strip) for strip in strips) <= 128
    np.testing.assert_array_equal(np.concatenate(strips), selo_map(cells, 0))


def test_the_grid_holds_the_value_under_each_cells_centre() -> None:
    windows, scores = scored(1000, 1301)
    cells = cell_means(windows, scores, height=1000, width=1301)
    slow = mean_by_pixels(windows, scores[:, 0].astype(np.float64), 1000, 1301)
    grid = cells.on_grid(0, 37, 50)
    for row in range(37):
        for col in range(50):
            centre = slow[int((row + 0.5) * 1000 / 37), int((col + 0.5) * 1301 / 50)]
            assert grid[row, col] == np.float32(centre)


def test_places_without_a_window_are_nan() -> None:
    cells = cell_means([Window(2, 2, 4, 4)], np.array([[0.5]]), height=10, width=10)
    values = cells.at_pixels(0, np.arange(10), np.arange(10))
    assert np.isfinite(values).sum() == 16
    assert cells.cover.sum() == 1


def test_wrong_lengths_and_windows_outside_are_refused() -> None:
    with pytest.raises(InputError, match="expected"):
        cell_means([], np.zeros((0, 1)), height=5, width=5)
    with pytest.raises(InputError, match="expected"):
        cell_means([Window(0, 0, 2, 2)], np.zeros((2, 1)), height=5, width=5)
    with pytest.raises(InputError, match="leaves"):
        cell_means([Window(4, 0, 2, 2)], np.zeros((1, 1)), height=5, width=5)


@pytest.mark.parametrize(
    ("height", "width"),
    [(1, 1), (30, 20), (255, 256), (1800, 1800), (10001, 10000), (18000, 36000), (9, 90000)],
)
def test_the_fusion_grid_is_bounded_and_near_square(height: int, width: int) -> None:
    rows, cols = fusion_grid_shape(height, width)
    assert 1 <= max(rows, cols) <= 4096
    assert rows <= height
    assert cols <= width
    if min(height, width) > 100:
        assert height / rows == pytest.approx(width / cols, rel=0.05)


def test_centres_lie_inside_and_spread_evenly() -> None:
    for length, cells in ((10, 3), (4096, 4096), (36000, 4096), (7, 7), (1, 1)):
        centres = centre_pixels(length, cells)
        np.testing.assert_array_equal(centres, np.floor((np.arange(cells) + 0.5) * length / cells))
        assert centres[-1] < length
