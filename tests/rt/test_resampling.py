"""Bilinear resampling by the NumPy twin equals Pillow's; bicubic is held in test_pixels.py."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from lrsclip_rt.resampling import resample_table, resized_window, vertical_first

SIDES = st.integers(1, 90)


@settings(max_examples=250, deadline=None, derandomize=True)
@given(SIDES, SIDES, SIDES, SIDES, st.randoms(use_true_random=False))
def test_bilinear_equals_pillow(height: int, width: int, rows: int, cols: int, random: Any) -> None:
    rng = np.random.default_rng(random.getrandbits(32))
    samples = rng.choice(np.array([0, 1, 128, 254, 255], np.uint8), (height, width, 3))
    whole = np.asarray(Image.fromarray(samples).resize((cols, rows), Image.Resampling.BILINEAR))
    top, left = int(rng.integers(rows)), int(rng.integers(cols))
    bottom, right = int(rng.integers(top, rows)) + 1, int(rng.integers(left, cols)) + 1
    window = resized_window(
        samples,
        rows,
        cols,
        row_off=top,
        col_off=left,
        rows=bottom - top,
        cols=right - left,
        interpolation="bilinear",
    )
    assert (window == whole[top:bottom, left:right]).all()


@pytest.mark.parametrize("major", [12, 13])
def test_bilinear_follows_the_pass_order_of_each_pillow(major: int) -> None:
    samples = np.random.default_rng(5).integers(0, 256, (400, 90, 3), dtype=np.uint8)
    between = (90, 133) if major == 13 else (30, 400)  # one pass at a time leaves Pillow no choice
    expected = np.asarray(
        Image.fromarray(samples)
        .resize(between, Image.Resampling.BILINEAR)
        .resize((30, 133), Image.Resampling.BILINEAR)
    )
    whole = {"row_off": 0, "col_off": 0, "rows": 133, "cols": 30}
    window = resized_window(samples, 133, 30, **whole, interpolation="bilinear", pillow_major=major)
    assert (window == expected).all()
    assert vertical_first(400, 90, 133, 30, pillow_major=major) == (major == 13)


def test_bilinear_reaches_half_as_far_as_bicubic() -> None:
    assert resample_table(400, 100, interpolation="bilinear").weights.shape == (100, 8)
    assert resample_table(400, 100).weights.shape == (100, 16)
