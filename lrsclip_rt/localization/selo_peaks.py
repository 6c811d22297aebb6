"""Where a map of the published protocol peaks: five box filters, then the highest pixel within reach.

Each step gives what the libraries of the protocol give, to the last bit: ``cv2.boxFilter`` with its
8-bit result and mirrored border, ``scipy.ndimage.maximum_filter`` of even size, connected areas of 8
neighbours.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from lrsclip_rt.components import label_components

__all__ = ["LEAST_LEVEL", "box_filtered", "peaks_from_levels", "windowed_maximum"]

BOX_SIDE = 50
"""Edge of the box filter [px]."""

BOX_PASSES = 5

MAXIMUM_SIDE = 1000
"""Edge of the square in which a peak must be the highest [px]."""

LEAST_LEVEL = 128
"""Peaks on pixels below P = 0.5 do not count; P = level / 255."""

STRIP = 512
"""Rows or columns that are worked on at once [px], which bounds the memory."""


def peaks_from_levels(levels: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Peaks of one map.

    Args:
        levels: (H, W) uint8, the map P times 255.

    Returns:
        (K, 2) int64 (col, row) [px], in the order of their first pixels.
    """
    smooth = levels
    for _ in range(BOX_PASSES):
        smooth = box_filtered(smooth, BOX_SIDE)
    highest = (smooth == windowed_maximum(smooth, MAXIMUM_SIDE)) & (smooth > 0)
    centroids = _centroids(highest)
    strong = levels[centroids[:, 1], centroids[:, 0]] >= LEAST_LEVEL
    return centroids[strong]


def box_filtered(levels: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    """Mean over ``side`` squared pixels, rounded, halves to even; the border mirrored without its pixel.

    For an even side the square reaches one pixel farther up and left. OpenCV rounds this way where the
    square holds more than 256 pixels, as the protocol's does.

    Args:
        levels: (H, W) uint8.
        side: Edge of the square [px].

    Example:
        >>> box_filtered(np.array([[0, 10, 20]], np.uint8), 2).tolist()       # 10 0 | 0 10 | 10 20
        [[5, 5, 15]]
    """
    height, width = levels.shape
    before, after = side // 2, side - 1 - side // 2
    cols = _mirrored(-before, width + after, width)
    result = np.empty_like(levels)
    for top in range(0, height, STRIP):
        bottom = min(top + STRIP, height)
        block = levels[_mirrored(top - before, bottom + after, height)]
        tall = _running_sums(block, side)
        sums = _running_sums(np.ascontiguousarray(tall[:, cols].T), side).T
        # float32 holds the sums exactly, and its quotient never crosses a half.
        result[top:bottom] = np.rint(sums.astype(np.float32) / np.float32(side * side)).astype(np.uint8)
    return result


def windowed_maximum(levels: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    """Highest value in the square around each pixel; for an even side it reaches farther up and left.

    At the border the square is cut. Mirroring the border, as SciPy does, shows only pixels that the cut
    square holds already.

    Args:
        levels: (H, W) uint8.
        side: Edge of the square [px].

    Example:
        >>> windowed_maximum(np.array([[0, 7, 1, 2, 3]], np.uint8), 2).tolist()
        [[0, 7, 7, 2, 3]]
    """
    height, width = levels.shape
    down, result = np.empty_like(levels), np.empty_like(levels)
    for left in range(0, width, STRIP):
        down[:, left : left + STRIP] = _running_maximum(levels[:, left : left + STRIP], side)
    for top in range(0, height, STRIP):
        result[top : top + STRIP] = _running_maximum(down[top : top + STRIP].T, side).T
    return result


def _running_sums(values: NDArray[np.integer], side: int) -> NDArray[np.uint32]:
    """Sums of ``side`` consecutive rows: (rows - side + 1, cols) uint32."""
    total = np.zeros((len(values) + 1, values.shape[1]), dtype=np.uint32)
    np.cumsum(values, axis=0, dtype=np.uint32, out=total[1:])
    return np.asarray(total[side:] - total[:-side])  # exact modulo 2^32, and so are the differences


def _running_maximum(values: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    """Highest of the ``side`` rows around each row, from windows that double in length."""
    before = side // 2
    highest = np.pad(values, ((before, side - 1 - before), (0, 0)))
    span = 1
    while span < side:
        step = min(span, side - span)
        highest = np.maximum(highest[:-step], highest[step:])
        span += step
    return highest


def _mirrored(start: int, stop: int, length: int) -> NDArray[np.intp]:
    """Pixels that stand for ``start .. stop`` where the border is mirrored: 2 1 | 0 1 2 3 | 2 1."""
    period = max(1, 2 * (length - 1))
    position = np.abs(np.arange(start, stop)) % period
    return np.minimum(position, period - position) if length > 1 else np.zeros_like(position)


def _centroids(mask: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Centroids, cut to whole pixels, of the areas of 8 neighbours: (K, 2) int64 (col, row)."""
    # Few rows and columns hold a peak. Those kept, with one empty line behind each group, keep areas apart.
    rows, cols = (_kept_lines(np.logical_or.reduce(mask, axis=axis)) for axis in (1, 0))
    labels, count = label_components(mask[np.ix_(rows, cols)], diagonal=True)
    row, col = np.nonzero(labels)
    area = labels[row, col] - 1
    pixels = np.bincount(area, minlength=count)
    means = [np.bincount(area, weights=line, minlength=count) / pixels for line in (cols[col], rows[row])]
    return np.stack(means, axis=1).astype(np.int64)


def _kept_lines(used: NDArray[np.bool_]) -> NDArray[np.intp]:
    keep = used.copy()
    keep[1:] |= used[:-1]
    return np.flatnonzero(keep)
