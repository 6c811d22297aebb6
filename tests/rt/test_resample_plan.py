"""Plans for the resample kernels: what is refused, and what the records hold."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from lrsclip_rt.errors import InputError
from lrsclip_rt.pixels import CLIP_MEAN, CLIP_STD, PixelSpec
from lrsclip_rt.resample_plan import (
    MAX_WINDOWS,
    WINDOW_DTYPE,
    BufferWindow,
    PixelBuffer,
    Resize,
    plan_windows,
    square_resize,
    values_from_spec,
)
from lrsclip_rt.resampling import PRECISION_BITS
from lrsclip_rt.tiles import Window

BUFFER = PixelBuffer(1_000_000, 100, 200, 640, 3, (0, 1, 2))


def item(window: Window, resize: Resize, buffer: PixelBuffer = BUFFER) -> BufferWindow:
    return BufferWindow(buffer, window, resize)


def test_a_record_is_as_long_as_the_kernels() -> None:
    assert WINDOW_DTYPE.itemsize == 176


def test_the_band_that_the_crop_needs_is_all_that_is_read() -> None:
    plan = plan_windows([item(Window(10, 20, 150, 64), Resize(32, 75, 8, 20, 16, 40))])
    (record,) = plan.windows
    first_row = 20 + 16 - 3  # the first row wanted is 8, its centre lies at 17 px, the filter reaches 4 px
    assert record["pixels"] == 1_000_000 + first_row * 640 + 10 * 3
    assert record["first"].tolist()[:3] == (38, 150, 40)
    assert record["second"].tolist()[:3] == (40, 38, 16)
    assert (plan.first_grid, plan.second_grid) == ((1, 2, 1), (1, 1, 1))
    assert plan.scratch_pixels == 38 * 40
    assert plan.output_shape == (1, 3, 16, 40)


def test_windows_that_resize_alike_share_their_tables() -> None:
    resize = square_resize(64, 64, 32)
    one = plan_windows([item(Window(0, 0, 64, 64), resize)])
    many = plan_windows([item(Window(col, 3, 64, 64), resize) for col in range(50)])
    assert (many.tables == one.tables).all()
    assert many.windows["scratch"].tolist() == [number * one.scratch_pixels for number in range(50)]
    assert many.windows["output"].tolist() == [number * 3 * 32 * 32 for number in range(50)]


def test_an_axis_that_keeps_its_length_has_one_weight_of_one() -> None:
    plan = plan_windows([item(Window(0, 0, 30, 30), Resize(30, 30, 4, 5, 7, 8))])
    (record,) = plan.windows
    assert (record["first"]["taps"], record["second"]["taps"]) == (1, 1)
    offset = int(record["first"]["table"])
    assert plan.tables[offset : offset + 8].tolist() == list(range(5, 13))
    assert (plan.tables[offset + 8 : offset + 16] == 1 << PRECISION_BITS).all()


def test_values_are_normalised_as_in_the_reference() -> None:
    values = values_from_spec(PixelSpec(224))
    assert values.shape == (3, 256)
    for channel in range(3):
        shifted = np.float32(200) / np.float32(255) - np.float32(CLIP_MEAN[channel])
        assert values[channel, 200] == shifted / np.float32(CLIP_STD[channel])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: PixelBuffer(1, 0, 5, 15, 3, (0, 1, 2)), "5 x 0 px, expected at least 1 x 1"),
        (lambda: PixelBuffer(1, 5, 5, 15, 3, (0, 1, 2), 4), "samples have 4 bytes, expected 1"),
        (lambda: PixelBuffer(1, 5, 5, 30, 6, (0, 2, 4), 2), "need a stretch table"),
        (lambda: Resize(10, 10, 5, 0, 6, 10), "rows 5 \\+ 6 and columns 0 \\+ 10 leave the resized image"),
        (lambda: Resize(10, 10, 0, -1, 6, 10), "expected a part inside it"),
        (lambda: Resize(10, 10, 0, 0, 0, 10), "expected a part inside it"),
        (lambda: item(Window(150, 0, 51, 10), Resize(5, 5, 0, 0, 5, 5)), "leaves the buffer of 200 x 100 px"),
        (lambda: plan_windows([]), "got 0 windows"),
        (
            lambda: plan_windows([item(Window(0, 0, 9, 9), Resize(5, 5, 0, 0, 5, 5))] * (MAX_WINDOWS + 1)),
            "make smaller batches",
        ),
        (
            lambda: plan_windows([item(Window(0, 0, 9, 9), Resize(s, s, 0, 0, s, s)) for s in (5, 6)]),
            "mixes results or samples of different sizes",
        ),
    ],
)
def test_what_no_launch_can_take_is_refused(make: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        make()
