"""Pillow's 8-bit bicubic and bilinear resampling in NumPy, bit for bit.

Pillow resizes in two passes with fixed-point weights of 22 fractional bits and rounds to 8 bits after each
pass. This twin does the same for any window of the output and touches nothing else, so its memory does not
grow with an extreme aspect ratio; and it is the reference for kernels.

Because of the rounding the order of the passes matters by one level here and there. Pillow resampled along
the rows first in every version until 12; Pillow 13 begins with the columns where that is cheaper, which
concerns images more than twice as high as wide: see :func:`vertical_first`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "PRECISION_BITS",
    "Interpolation",
    "ResampleTable",
    "resample_table",
    "resized_window",
    "vertical_first",
]

PRECISION_BITS = 22

Interpolation = Literal["bicubic", "bilinear"]
"""Pillow's filter of that name; both are stretched where the image shrinks, against aliasing."""


@dataclass(frozen=True, slots=True, eq=False)
class ResampleTable:
    """Which input samples make each output sample.

    Attributes:
        first: ``(K,) int64``, first input sample of each output sample.
        weights: ``(K, taps) int32``, fixed-point weights, 0 beyond the input's end.
    """

    first: NDArray[np.int64]
    weights: NDArray[np.int32]


def resample_table(
    in_size: int,
    out_size: int,
    start: int = 0,
    stop: int | None = None,
    *,
    interpolation: Interpolation = "bicubic",
) -> ResampleTable:
    """Weights of Pillow's antialiased filter for output samples ``start`` to ``stop``.

    Args:
        in_size: Input length [px].
        out_size: Length [px] of the whole output.
        start: First output sample wanted.
        stop: End of the output samples wanted; ``None`` is ``out_size``.
        interpolation: The filter.
    """
    reach, kernel = (2.0, _bicubic) if interpolation == "bicubic" else (1.0, _bilinear)
    # The order of operations is Pillow's (ImagingResample, precompute_coeffs): each double must round alike.
    scale = float(np.float32(in_size)) / out_size
    filter_scale = max(scale, 1.0)
    support = reach * filter_scale
    centre = (np.arange(start, out_size if stop is None else stop) + 0.5) * scale
    first = np.maximum((centre - support + 0.5).astype(np.int64), 0)
    end = np.minimum((centre + support + 0.5).astype(np.int64), in_size)
    taps = np.arange(int(np.max(end - first, initial=1)))
    x = ((taps + first[:, None]) - centre[:, None] + 0.5) * (1.0 / filter_scale)
    weights = np.where(taps < (end - first)[:, None], kernel(x), 0.0)
    # cumsum adds from left to right as Pillow does; sum would add pairwise.
    total = np.cumsum(weights, axis=1)[:, -1:]
    weights = np.divide(weights, total, out=weights, where=total != 0.0)
    fixed = np.trunc(np.copysign(0.5, weights) + weights * (1 << PRECISION_BITS))
    return ResampleTable(first, fixed.astype(np.int32))


def vertical_first(
    in_height: int, in_width: int, height: int, width: int, *, pillow_major: int | None = None
) -> bool:
    """Whether Pillow makes the vertical pass first.

    Args:
        in_height: Rows [px] of the input.
        in_width: Columns [px] of the input.
        height: Rows [px] of the output.
        width: Columns [px] of the output.
        pillow_major: Major version of Pillow to follow; ``None`` is the installed one.

    Example:
        >>> vertical_first(900, 300, 672, 224, pillow_major=13)
        True
        >>> vertical_first(900, 300, 672, 224, pillow_major=12)
        False
    """
    if pillow_major is None:
        import PIL

        pillow_major = int(PIL.__version__.partition(".")[0])
    fewer_rows, fewer_cols = in_height - height, in_width - width
    return pillow_major >= 13 and fewer_rows > 0 and fewer_rows > 2 * fewer_cols


def resized_window(
    pixels: NDArray[np.uint8],
    height: int,
    width: int,
    *,
    row_off: int,
    col_off: int,
    rows: int,
    cols: int,
    interpolation: Interpolation = "bicubic",
    pillow_major: int | None = None,
) -> NDArray[np.uint8]:
    """Resize to ``height x width`` and return only a window of it.

    Args:
        pixels: ``(H, W, C) uint8``.
        height: Rows [px] of the whole output.
        width: Columns [px] of the whole output.
        row_off: First output row wanted.
        col_off: First output column wanted.
        rows: Output rows wanted.
        cols: Output columns wanted.
        interpolation: The filter.
        pillow_major: Major version of Pillow to follow; ``None`` is the installed one.

    Returns:
        ``(rows, cols, C) uint8``, equal to the same crop of Pillow's ``resize((width, height), BICUBIC)``
        or ``BILINEAR``.
    """
    down = _Axis(height, row_off, rows, interpolation)
    across = _Axis(width, col_off, cols, interpolation)
    in_height, in_width = pixels.shape[:2]
    if vertical_first(in_height, in_width, height, width, pillow_major=pillow_major):
        turned = _two_passes(pixels.swapaxes(0, 1), down, across)
        return np.ascontiguousarray(turned.swapaxes(0, 1))
    return np.ascontiguousarray(_two_passes(pixels, across, down))


@dataclass(frozen=True, slots=True)
class _Axis:
    """The wanted samples of one output axis."""

    out_size: int
    start: int
    count: int
    interpolation: Interpolation

    def table(self, in_size: int) -> ResampleTable:
        stop = self.start + self.count
        return resample_table(in_size, self.out_size, self.start, stop, interpolation=self.interpolation)


def _two_passes(pixels: NDArray[np.uint8], inner: _Axis, outer: _Axis) -> NDArray[np.uint8]:
    """Resample along the second axis, then along the first, of ``(outer, inner, C) uint8``.

    As in Pillow, an axis that keeps its length is left alone, and the first pass skips what the second
    does not read.
    """
    out_len, in_len = pixels.shape[:2]
    table = outer.table(out_len)
    start, stop = outer.start, outer.start + outer.count
    if outer.out_size != out_len:
        start = int(table.first.min())
        stop = min(out_len, int(table.first.max()) + table.weights.shape[1])
    band = pixels[start:stop]
    if inner.out_size != in_len:
        band = _pass(band.swapaxes(0, 1), inner.table(in_len)).swapaxes(0, 1)
    else:
        band = band[:, inner.start : inner.start + inner.count]
    if outer.out_size != out_len:
        band = _pass(band, ResampleTable(table.first - start, table.weights))
    return band


def _bicubic(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """Keys' kernel with a = -0.5."""
    a = -0.5
    x = np.abs(x)
    near = ((a + 2.0) * x - (a + 3.0)) * x * x + 1.0
    far = (((x - 5.0) * x + 8.0) * x - 4.0) * a
    weights: NDArray[np.float64] = np.where(x < 1.0, near, np.where(x < 2.0, far, 0.0))
    return weights


def _bilinear(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """The triangle."""
    return np.maximum(1.0 - np.abs(x), 0.0)


def _pass(pixels: NDArray[np.uint8], table: ResampleTable) -> NDArray[np.uint8]:
    """Weighted sums along the first axis, rounded and clipped to 8 bits."""
    total = np.full((len(table.first), *pixels.shape[1:]), 1 << (PRECISION_BITS - 1), dtype=np.int32)
    last = len(pixels) - 1
    for tap in range(table.weights.shape[1]):
        rows = pixels[np.minimum(table.first + tap, last)].astype(np.int32)
        total += rows * table.weights[:, tap, None, None]
    rounded: NDArray[np.int32] = total >> PRECISION_BITS
    return rounded.clip(0, 255).astype(np.uint8)
