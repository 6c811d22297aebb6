"""int8 and E4M3: rounding, scales and bytes, against another implementation and against ONNX Runtime."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from lrsclip_export.number_formats import FORMATS, e4m3_bytes, half_scale, rounded_to_e4m3

ALL = np.arange(256, dtype=np.uint8).view(ml_dtypes.float8_e4m3fn).astype(np.float32)
FINITE = np.sort(ALL[np.isfinite(ALL)])
MIDDLES = (FINITE[1:] + FINITE[:-1]) / 2


def test_every_e4m3_number_keeps_its_value_and_its_byte() -> None:
    numbers = np.delete(np.arange(256, dtype=np.uint8), [0x7F, 0xFF])
    values = numbers.view(ml_dtypes.float8_e4m3fn).astype(np.float32)
    np.testing.assert_array_equal(rounded_to_e4m3(values), values)
    np.testing.assert_array_equal(e4m3_bytes(values), numbers)


def test_ties_and_their_neighbours_round_as_elsewhere() -> None:
    x = np.concatenate(
        [MIDDLES, np.nextafter(MIDDLES, np.float32(1e9)), np.nextafter(MIDDLES, np.float32(-1e9))]
    )
    expected = x.astype(ml_dtypes.float8_e4m3fn)
    np.testing.assert_array_equal(rounded_to_e4m3(x), expected.astype(np.float32))
    np.testing.assert_array_equal(e4m3_bytes(x), expected.view(np.uint8))


@given(hnp.arrays(np.float32, 20, elements=st.floats(-448, 448, width=32)))
def test_e4m3_is_the_nearest_number(x) -> None:
    nearest = np.abs(x[:, None].astype(np.float64) - FINITE).min(axis=1)
    np.testing.assert_allclose(np.abs(rounded_to_e4m3(x).astype(np.float64) - x), nearest, atol=1e-12)


def test_what_is_out_of_range_is_cut() -> None:
    wide = np.float32([1e9, -1e9])
    assert FORMATS["fp8"].rounded(wide, 0.5).tolist() == [224.0, -224.0]
    assert FORMATS["int8"].rounded(wide, 0.5).tolist() == [63.5, -64.0]


@given(st.floats(2.0**-19, 60000))
def test_scales_are_float16_and_never_too_small(scale) -> None:
    half = float(half_scale(scale))
    assert half == float(np.float16(half))
    assert scale <= half <= scale * (1 + 2.0**-4)


def test_a_scale_of_nothing_is_still_a_scale() -> None:
    assert float(half_scale(0.0)) == 2.0**-20
    weight = np.zeros((3, 2), dtype=np.float32)
    for number_format in FORMATS.values():
        scale = number_format.weight_scale(weight)
        assert not number_format.stored(weight, scale).any()


@pytest.mark.parametrize("precision", ["int8", "fp8"])
def test_stored_weights_are_the_rounded_ones(precision) -> None:
    number_format = FORMATS[precision]
    weight = np.random.default_rng(0).standard_normal((40, 7)).astype(np.float32)
    weight[:, 3] *= 100
    scale = number_format.weight_scale(weight)
    assert scale.shape == ((7,) if precision == "int8" else ())
    stored = number_format.stored(weight, scale)
    numbers = stored.view(ml_dtypes.float8_e4m3fn) if precision == "fp8" else stored
    np.testing.assert_allclose(numbers.astype(np.float32) * scale, number_format.rounded(weight, scale))
