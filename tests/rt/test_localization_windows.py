"""The protocol's grids, window resizing and reading, each against its slow or foreign twin."""

from __future__ import annotations

import numpy as np
import pytest

from lrsclip_rt.errors import InputError
from lrsclip_rt.localization.cubic import resize_cubic
from lrsclip_rt.localization.strips import READ_ROWS, windows_from_strips
from lrsclip_rt.localization.windows import selo_windows, usable_steps
from lrsclip_rt.raster import Scene, scene_from_array
from lrsclip_rt.tiles import Window


def windows_by_the_text(height: int, width: int) -> set[tuple[int, int, int, int]]:
    """Written from the protocol's words, one window at a time."""
    found = set()
    steps = [step for step in (256, 512, 768) if step <= min(height, width)]
    if not steps:
        return {(0, 0, width, height)}
    for step in steps:
        for offset in (0, step // 2):
            top = offset
            while top < height:
                left = offset
                while left < width:
                    col = width - step if left + step > width else left
                    row = height - step if top + step > height else top
                    found.add((col, row, step, step))
                    left += step
                top += step
    return found


SHAPES = [
    (10001, 10000),
    (256, 256),
    (257, 300),
    (512, 511),
    (768, 768),
    (1000, 3000),
    (1777, 2825),
    (640, 255),
]


@pytest.mark.parametrize(("height", "width"), SHAPES)
def test_the_windows_are_those_of_the_protocol(height: int, width: int) -> None:
    windows = selo_windows(height, width)
    assert {tuple(window.as_list()) for window in windows} == windows_by_the_text(height, width)
    assert len(set(windows)) == len(windows)


def test_the_published_count_for_ten_thousand_pixels_is_met() -> None:
    assert len(selo_windows(10001, 10000)) == 4283


def test_windows_that_coincide_count_once() -> None:
    # 300 px: offset 0 gives 0 and 44, offset 128 is shifted back to 44 too.
    assert [w.col_off for w in selo_windows(256, 300)] == [0, 44]


@pytest.mark.parametrize(("height", "width"), [(255, 5000), (5000, 255), (1, 1), (100, 200)])
def test_a_scene_below_the_smallest_step_is_one_window(height: int, width: int) -> None:
    assert selo_windows(height, width) == [Window(0, 0, width, height)]


def test_a_step_above_the_shorter_side_is_dropped() -> None:
    assert usable_steps(600, 4000) == (256, 512)
    assert {window.width for window in selo_windows(600, 4000)} == {256, 512}


def test_every_pixel_is_covered() -> None:
    for height, width in ((256, 700), (511, 513), (769, 1025)):
        cover = np.zeros((height, width), dtype=int)
        for window in selo_windows(height, width):
            cover[window.row_off :, window.col_off :][: window.height, : window.width] += 1
        assert cover.min() >= 1


@pytest.mark.parametrize("steps", [(), (1,), (0, 256)])
def test_steps_that_are_none_are_refused(steps: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match="steps"):
        selo_windows(1000, 1000, steps)


# Resizing


def pictures(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Noise with hard black and white edges, where rounding and clipping show."""
    picture = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
    picture[rng.random((height, width)) < 0.2] = 255
    picture[rng.random((height, width)) < 0.2] = 0
    return picture


def test_the_protocols_ratios_equal_opencv_to_the_last_bit() -> None:
    cv2 = pytest.importorskip("cv2")
    rng = np.random.default_rng(0)
    for side in (256, 512, 768):
        for _ in range(4):
            picture = pictures(rng, side, side)
            expected = cv2.resize(picture, (256, 256), interpolation=cv2.INTER_CUBIC)
            assert np.count_nonzero(resize_cubic(picture, 256, 256) != expected) == 0


def test_other_ratios_equal_opencvs_own_code_to_the_last_bit() -> None:
    cv2 = pytest.importorskip("cv2")
    rng = np.random.default_rng(1)
    had_ipp = cv2.ipp.useIPP()
    cv2.ipp.setUseIPP(False)
    try:
        for shape in ((100, 180), (255, 200), (3, 7), (1, 1), (2, 900), (200, 2000), (1000, 3000)):
            picture = pictures(rng, *shape)
            expected = cv2.resize(picture, (256, 256), interpolation=cv2.INTER_CUBIC)
            assert np.count_nonzero(resize_cubic(picture, 256, 256) != expected) == 0
    finally:
        cv2.ipp.setUseIPP(had_ipp)


def test_intel_ipp_differs_by_one_step_at_most() -> None:
    cv2 = pytest.importorskip("cv2")
    picture = pictures(np.random.default_rng(2), 200, 140)
    expected = cv2.resize(picture, (256, 256), interpolation=cv2.INTER_CUBIC)
    assert np.abs(resize_cubic(picture, 256, 256).astype(int) - expected).max() <= 1


def test_fast_ratios_equal_the_general_path() -> None:
    from lrsclip_rt.localization.cubic import _filtered_columns, _filtered_rows

    picture = pictures(np.random.default_rng(3), 96, 96)
    for side in (48, 32):
        general = _filtered_columns(_filtered_rows(picture, side), side)
        np.testing.assert_array_equal(resize_cubic(picture, side, side), general)


# Reading


class CountedScene(Scene):
    """A scene that notes which rows it reads."""

    rows_read: list[int]

    def read(self, window: Window, **options: object) -> np.ndarray:  # type: ignore[override]
        self.rows_read += range(window.row_off, window.row_off + window.height)
        return super().read(window, **options)  # type: ignore[arg-type]


def test_strips_give_every_window_and_read_each_row_once() -> None:
    array = np.random.default_rng(4).integers(0, 256, (1500, 900, 3), dtype=np.uint8)
    scene = CountedScene(scene_from_array(array)._pixels)
    scene.rows_read = []
    windows = selo_windows(1500, 900)
    seen = set()
    for index, pixels in windows_from_strips(scene, windows, fill=False):
        window = windows[index]
        rows = slice(window.row_off, window.row_off + window.height)
        np.testing.assert_array_equal(pixels, array[rows, window.col_off : window.col_off + window.width])
        seen.add(index)
    assert seen == set(range(len(windows)))
    assert sorted(scene.rows_read) == list(range(1500))


def test_pixels_of_a_window_survive_later_reads() -> None:
    array = np.random.default_rng(5).integers(0, 256, (1200, 300, 3), dtype=np.uint8)
    windows = selo_windows(1200, 300)
    with scene_from_array(array) as scene:
        kept = dict(windows_from_strips(scene, windows, fill=False))
    for index, pixels in kept.items():
        window = windows[index]
        rows = slice(window.row_off, window.row_off + window.height)
        np.testing.assert_array_equal(pixels, array[rows, window.col_off : window.col_off + window.width])


def test_gaps_between_windows_are_not_read() -> None:
    array = np.zeros((2000, 50, 3), dtype=np.uint8)
    scene = CountedScene(scene_from_array(array)._pixels)
    scene.rows_read = []
    windows = [Window(0, 0, 50, 20), Window(0, 1500, 50, 20)]
    list(windows_from_strips(scene, windows, fill=False))
    assert len(scene.rows_read) <= 2 * READ_ROWS
