"""Peaks of a map: by hand, against a loop over pixels, and to the last bit against OpenCV and SciPy."""

from __future__ import annotations

import numpy as np
import pytest

from lrsclip_rt.localization import selo_peaks
from lrsclip_rt.localization.selo_peaks import box_filtered, peaks_from_levels, windowed_maximum


def blocks(generator, height, width, side=40):
    coarse = generator.integers(0, 256, (height // side + 1, width // side + 1)).astype(np.uint8)
    return np.kron(coarse, np.ones((side, side), np.uint8))[:height, :width]


def mirrored(index, length):
    """Walk from the border back, without repeating the border's own pixel."""
    while not 0 <= index < length:
        index = -index if index < 0 else 2 * (length - 1) - index
    return index


def slow_box(levels):
    height, width = levels.shape
    result = np.empty_like(levels)
    for row in range(height):
        rows = [mirrored(row + step, height) for step in range(-25, 25)]
        for col in range(width):
            cols = [mirrored(col + step, width) for step in range(-25, 25)]
            total = int(levels[np.ix_(rows, cols)].sum(dtype=np.int64))
            result[row, col] = round(total / 2500)  # Python rounds halves to even
    return result


def slow_peaks(levels):
    """The definition, pixel by pixel."""
    smooth = levels
    for _ in range(5):
        smooth = slow_box(smooth)
    height, width = levels.shape
    wanted = {
        (row, col)
        for row in range(height)
        for col in range(width)
        if smooth[row, col] > 0
        and smooth[row, col] == smooth[max(0, row - 500) : row + 500, max(0, col - 500) : col + 500].max()
    }
    peaks = []
    while wanted:
        area, todo = [], [wanted.pop()]
        while todo:
            row, col = todo.pop()
            area.append((row, col))
            near = {(row + down, col + right) for down in (-1, 0, 1) for right in (-1, 0, 1)} & wanted
            wanted -= near
            todo += near
        row, col = (int(value) for value in np.mean(area, axis=0))
        if levels[row, col] / 255 >= 0.5:
            peaks.append((col, row))
    return sorted(peaks)


def test_a_bright_square_peaks_in_its_middle_moved_by_the_even_boxes():
    levels = np.zeros((300, 340), np.uint8)
    levels[100:200, 60:160] = 255
    # The middle is 149.5 and 109.5; each box of 50 reaches one pixel farther up, which moves it by 0.5.
    assert peaks_from_levels(levels).tolist() == [[112, 152]]


def test_two_squares_farther_apart_than_500_px_are_two_peaks_and_nearer_ones_the_higher():
    levels = np.zeros((200, 1400), np.uint8)
    levels[50:150, 100:200] = 255
    levels[50:150, 1000:1100] = 200
    assert peaks_from_levels(levels).tolist() == [[152, 102], [1052, 102]]
    near = levels[:, :520].copy()
    near[50:150, 400:500] = 200
    assert peaks_from_levels(near).tolist() == [[152, 102]]


def test_a_peak_on_a_pixel_below_one_half_does_not_count():
    levels = np.zeros((300, 300), np.uint8)
    levels[100:200, 100:200] = 127
    assert peaks_from_levels(levels).tolist() == []
    levels[100:200, 100:200] = 128
    assert peaks_from_levels(levels).tolist() == [[152, 152]]


def test_a_map_of_zeros_has_no_peak_and_a_flat_one_has_its_middle():
    assert len(peaks_from_levels(np.zeros((60, 80), np.uint8))) == 0
    assert peaks_from_levels(np.full((61, 80), 255, np.uint8)).tolist() == [[39, 30]]


@pytest.mark.parametrize("shape", [(26, 31), (13, 40), (9, 3)])
def test_the_fast_code_equals_the_loop_over_pixels(shape):
    levels = blocks(np.random.default_rng(sum(shape)), *shape, side=10)
    np.testing.assert_array_equal(box_filtered(levels, 50), slow_box(levels))
    assert sorted(map(tuple, peaks_from_levels(levels).tolist())) == slow_peaks(levels)


@pytest.mark.parametrize("shape", [(1, 1), (2, 3), (20, 30), (49, 50), (333, 700), (620, 1)])
@pytest.mark.parametrize("steps", [True, False])
def test_each_step_equals_opencv_and_scipy(monkeypatch, shape, steps):
    cv2 = pytest.importorskip("cv2", reason="OpenCV is the reference")
    ndimage = pytest.importorskip("scipy.ndimage", reason="SciPy is the reference")
    monkeypatch.setattr(selo_peaks, "STRIP", 128)
    generator = np.random.default_rng(5)
    levels = blocks(generator, *shape) if steps else generator.integers(0, 256, shape).astype(np.uint8)
    np.testing.assert_array_equal(box_filtered(levels, 50), cv2.boxFilter(levels, -1, (50, 50)))
    for side in (1000, 50, 7, 2, 1):
        np.testing.assert_array_equal(
            windowed_maximum(levels, side), ndimage.maximum_filter(levels, size=side)
        )


def test_halves_are_rounded_to_even_everywhere():
    cv2 = pytest.importorskip("cv2", reason="OpenCV is the reference")
    # Half of each square is k, the other half k + 1: every mean ends in one half.
    for value in range(0, 255, 7):
        levels = np.full((64, 150), value, np.uint8)
        levels[::2] += 1
        found = box_filtered(levels, 50)
        np.testing.assert_array_equal(found, cv2.boxFilter(levels, -1, (50, 50)))
        assert set(found[30].tolist()) == {value + value % 2}


def test_peaks_of_stepped_maps_equal_those_of_the_libraries():
    cv2 = pytest.importorskip("cv2", reason="OpenCV is the reference")
    ndimage = pytest.importorskip("scipy.ndimage", reason="SciPy is the reference")
    generator = np.random.default_rng(8)
    for shape in ((700, 1500), (1300, 900)):
        levels = cv2.medianBlur(blocks(generator, *shape, side=128), 51)
        smooth = levels
        for _ in range(5):
            smooth = cv2.boxFilter(smooth, -1, (50, 50))
        top = (smooth == ndimage.maximum_filter(smooth, size=1000)) & (smooth > 0)
        _, _, _, centroids = cv2.connectedComponentsWithStats(top.astype(np.uint8), connectivity=8)
        cut = [(int(col), int(row)) for col, row in centroids[1:]]
        expected = [(col, row) for col, row in cut if levels[row, col] / 255 >= 0.5]
        assert sorted(map(tuple, peaks_from_levels(levels).tolist())) == sorted(expected)
        assert expected
