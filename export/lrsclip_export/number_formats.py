"""The two 8-bit number formats, symmetric int8 and float8 E4M3: rounding, scales, bytes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["FORMATS", "NumberFormat", "e4m3_bytes", "half_scale", "rounded_to_e4m3"]

_E4M3_LARGEST = 448.0
# Exponent of the smallest normal number, and of the spacing of the subnormal ones below it.
_E4M3_NORMAL, _E4M3_STEP = -6, -9

# Smaller scales would keep fewer than five bits in float16.
_LEAST_SCALE = 2.0**-20


@dataclass(frozen=True, slots=True)
class NumberFormat:
    """An 8-bit format whose zero is zero.

    Attributes:
        name: The precision that uses it.
        largest: What the end of the range becomes.
        by_column: Whether each column of a weight has a scale of its own; else the weight has one.
    """

    name: str
    largest: float
    by_column: bool

    def rounded(self, x: NDArray[np.float32], scale: NDArray[np.float32] | float) -> NDArray[np.float32]:
        """``x`` quantised and dequantised; what is out of range is cut.

        Example:
            >>> FORMATS["int8"].rounded(np.float32([0.26, 99.0]), 0.5).tolist()
            [0.5, 63.5]
        """
        scale = np.asarray(scale, dtype=np.float32)
        steps = x / scale
        if self.name == "fp8":
            return rounded_to_e4m3(steps) * scale
        # One more step on the negative side: activations use it, as QuantizeLinear does.
        kept: NDArray[np.float32] = np.clip(np.rint(steps), -128, 127).astype(np.float32)
        return kept * scale

    def weight_scale(self, weight: NDArray[np.float32]) -> NDArray[np.float32]:
        """(C, C') -> (C',), or () where the format has one scale for a whole weight; float16 numbers."""
        largest = np.abs(weight).max(axis=0 if self.by_column else None)
        return half_scale(largest / self.largest)

    def stored(self, weight: NDArray[np.float32], scale: NDArray[np.float32]) -> NDArray[Any]:
        """The bytes of a weight: int8, or uint8 that hold E4M3."""
        if self.name == "fp8":
            return e4m3_bytes(weight / scale)
        steps: NDArray[np.int8] = np.clip(np.rint(weight / scale), -127, 127).astype(np.int8)
        return steps


FORMATS: Mapping[str, NumberFormat] = MappingProxyType(
    {
        "int8": NumberFormat("int8", 127.0, by_column=True),
        "int8-cpu": NumberFormat("int8-cpu", 127.0, by_column=True),
        # TensorRT 10.3 takes E4M3 with one scale a tensor.
        "fp8": NumberFormat("fp8", _E4M3_LARGEST, by_column=False),
    }
)
"""By precision."""


def half_scale(scale: NDArray[np.floating[Any]] | float) -> NDArray[np.float32]:
    """The nearest float16 that is not smaller, so that the largest number stays in range.

    Example:
        >>> float(half_scale(0.1)), float(half_scale(0.0)) == 2.0**-20
        (0.10003662109375, True)
    """
    wide = np.maximum(np.asarray(scale, dtype=np.float64), _LEAST_SCALE)
    half = wide.astype(np.float16)
    up = np.where(half < wide, np.nextafter(half, np.float16(np.inf)), half)
    return up.astype(np.float32)


def rounded_to_e4m3(x: NDArray[np.float32]) -> NDArray[np.float32]:
    """The nearest E4M3 number, ties to even, cut at 448.

    Example:
        >>> rounded_to_e4m3(np.float32([1.06, -500.0, 0.001])).tolist()
        [1.0, -448.0, 0.001953125]
    """
    cut = np.clip(x, -_E4M3_LARGEST, _E4M3_LARGEST)
    step = _e4m3_step(cut)
    rounded: NDArray[np.float32] = np.rint(cut / step) * step
    return rounded


def e4m3_bytes(x: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Sign, four bits of exponent (bias 7), three of mantissa; no infinities."""
    value = rounded_to_e4m3(x)
    step = _e4m3_step(value)
    # 0 to 7 steps for subnormal numbers, 8 to 15 for normal ones: the leading bit is not stored.
    steps = np.rint(np.abs(value) / step).astype(np.int32)
    exponent = np.rint(np.log2(step)).astype(np.int32) - _E4M3_STEP
    code = steps + 8 * exponent
    return (code | np.where(np.signbit(value), 0x80, 0)).astype(np.uint8)


def _e4m3_step(x: NDArray[np.float32]) -> NDArray[np.float32]:
    """Distance of the E4M3 numbers around each number."""
    exponent = np.where(x == 0, _E4M3_NORMAL, np.frexp(x)[1] - 1)
    power = np.maximum(exponent, _E4M3_NORMAL) - 3
    step: NDArray[np.float32] = np.ldexp(np.float32(1), power).astype(np.float32)
    return step
