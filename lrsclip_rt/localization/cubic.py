"""Bicubic resizing of 8-bit pictures exactly as OpenCV does it, without OpenCV.

The published protocol resizes every window with ``cv2.resize(..., INTER_CUBIC)``: a = -0.75, four
taps a side at every scale (no antialiasing), weights rounded to 11 bits, whole numbers along the rows
and float32 down the columns. At the protocol's own ratios, 1:1, 2:1 and 3:1, every intermediate value
is exact in float32, so the result is the same on every machine. At other ratios this is OpenCV's own
code path; a build that hands the work to Intel IPP rounds about one value in twenty differently, by 1.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["resize_cubic"]

WEIGHT_BITS = 11
"""Binary digits behind the point of a weight (OpenCV's INTER_RESIZE_COEF_BITS)."""


def resize_cubic(image: NDArray[np.uint8], height: int, width: int) -> NDArray[np.uint8]:
    """Resize (H, W, 3) uint8 to (height, width, 3) uint8.

    Example:
        >>> resize_cubic(np.full((5, 7, 3), 200, np.uint8), 2, 2).ravel().tolist()
        [200, 200, 200, 200, 200, 200, 200, 200, 200, 200, 200, 200]
    """
    rows, cols = image.shape[:2]
    if (rows, cols) == (height, width):
        return image
    if (rows, cols) == (3 * height, 3 * width):
        # The sampling point falls on the middle pixel of each three: its weight is 1.
        return np.ascontiguousarray(image[1::3, 1::3])
    if (rows, cols) == (2 * height, 2 * width):
        return _halved(image)
    along = _filtered_rows(image, width)
    return _filtered_columns(along, height)


def _halved(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Ratio 2:1, weights (-3, 19, 19, -3) / 32 on both axes: small whole numbers, no gathers.

    Every sum is exact, so the columns may come first, where the memory is contiguous.
    """
    rows, cols = image.shape[:2]
    padded = np.empty((rows + 2, cols + 2, 3), dtype=np.int16)
    padded[1:-1, 1:-1] = image
    padded[0, 1:-1], padded[-1, 1:-1] = image[0], image[-1]
    padded[:, 0], padded[:, -1] = padded[:, 1], padded[:, -2]
    down = 19 * (padded[1 : rows + 1 : 2] + padded[2 : rows + 2 : 2])
    down -= 3 * (padded[0:rows:2] + padded[3 : rows + 3 : 2])
    # Even and odd columns apart, moved as whole pixels: steps of two pixels of three samples are slow.
    even, odd = (_every_other_column(down, first) for first in (0, 1))
    exact = (odd[:, :-1] + even[:, 1:]) * np.float32(19 / 1024)
    exact -= (even[:, :-1] + odd[:, 1:]) * np.float32(3 / 1024)
    np.rint(exact, out=exact)
    return np.asarray(np.clip(exact, 0, 255, out=exact), np.uint8)


def _every_other_column(image: NDArray[np.int16], first: int) -> NDArray[np.int16]:
    """``image[:, first::2]`` of (H, W, 3) int16, contiguous."""
    pixels = image.view(np.dtype((np.void, 6)))[:, first::2, 0]
    return np.ascontiguousarray(pixels).view(np.int16).reshape(*pixels.shape, 3)


def _filtered_rows(image: NDArray[np.uint8], width: int) -> NDArray[np.int32]:
    index, weight = _taps(image.shape[1], width)
    total = np.zeros((image.shape[0], width, 3), dtype=np.int32)
    for tap in range(4):
        total += image[:, index[:, tap]].astype(np.int32) * weight[:, tap][None, :, None]
    return total


def _filtered_columns(along: NDArray[np.int32], height: int) -> NDArray[np.uint8]:
    index, weight = _taps(along.shape[0], height)
    scaled = weight.astype(np.float32) * np.float32(1 / (1 << 2 * WEIGHT_BITS))
    total = np.zeros((height, *along.shape[1:]), dtype=np.float32)
    for tap in (3, 2, 1, 0):  # the order of OpenCV's sums decides the last bit
        total = along[index[:, tap]].astype(np.float32) * scaled[:, tap][:, None, None] + total
    return np.clip(np.rint(total), 0, 255).astype(np.uint8)


def _taps(length: int, samples: int) -> tuple[NDArray[np.intp], NDArray[np.int32]]:
    """Source index, clamped to the edge, and whole-number weight of four taps: (samples, 4) each."""
    scale = 1.0 / (samples / length)
    position = ((np.arange(samples) + 0.5) * scale - 0.5).astype(np.float32)
    first = np.floor(position).astype(np.intp)
    weight = _cubic_weights(position - first.astype(np.float32))
    index = np.clip(first[:, None] + np.arange(-1, 3), 0, length - 1)
    return index, np.rint(weight * np.float32(1 << WEIGHT_BITS)).astype(np.int32)


def _cubic_weights(fraction: NDArray[np.float32]) -> NDArray[np.float32]:
    """(n, 4) float32, in the order of operations of OpenCV's interpolateCubic."""
    a, one = np.float32(-0.75), np.float32(1)
    near, far = fraction + one, one - fraction
    first = ((a * near - 5 * a) * near + 8 * a) * near - 4 * a
    second = ((a + 2) * fraction - (a + 3)) * fraction * fraction + one
    third = ((a + 2) * far - (a + 3)) * far * far + one
    return np.stack([first, second, third, one - first - second - third], axis=1)
