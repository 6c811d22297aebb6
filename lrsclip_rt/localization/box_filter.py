"""Sums over squares of a map by running sums: the cost does not depend on the square."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

__all__ = ["box_sums", "odd_cells", "smoothed", "smoothing_px", "without_slivers"]


def box_sums(values: NDArray[np.float64], rows: int, cols: int) -> NDArray[np.float64]:
    """Sum of the ``rows x cols`` cells (odd) around each cell, the border replicated: float64.

    Example:
        >>> box_sums(np.array([[0.0, 0.0, 3.0]]), 1, 3).tolist()
        [[0.0, 3.0, 6.0]]
    """
    for axis, side in ((0, rows), (1, cols)):
        values = np.moveaxis(values, axis, 0)
        padded = np.pad(values, ((side // 2 + 1, side // 2), (0, 0)), mode="edge")
        padded[0] = 0.0
        running = np.cumsum(padded, axis=0)
        values = np.moveaxis(running[side:] - running[:-side], 0, axis)
    return values


def odd_cells(length_px: float, cells: int, scene_px: int) -> int:
    """Odd number of cells nearest below ``length_px`` where ``cells`` cover ``scene_px``, at least 1."""
    return 2 * int(length_px * cells / scene_px / 2) + 1


def smoothing_px(scales: Sequence[int]) -> float:
    """Side of the square that evens out the steps of a map of windows: half the smallest [px].

    Example:
        >>> smoothing_px((256, 512)), smoothing_px(())
        (128.0, 0.0)
    """
    return min(scales, default=0) / 2


def smoothed(values: NDArray[np.float32], rows: int, cols: int) -> NDArray[np.float32]:
    """Mean over ``rows x cols`` cells (odd) of those that hold a value; NaN where none does."""
    known = np.isfinite(values)
    total = box_sums(np.where(known, values, 0.0).astype(np.float64), rows, cols)
    count = np.rint(box_sums(known.astype(np.float64), rows, cols))
    mean = np.divide(total, count, out=np.full_like(total, np.nan), where=count > 0)
    return mean.astype(np.float32)


def without_slivers(mask: NDArray[np.bool_], rows: int, cols: int) -> NDArray[np.bool_]:
    """Close gaps, then drop spurs, that are narrower than ``rows x cols`` cells (odd).

    A mask of which nothing would remain is returned as it is.
    """
    if not mask.any():
        return mask
    closed = _eroded(_dilated(mask, rows, cols), rows, cols) | mask
    opened = _dilated(_eroded(closed, rows, cols), rows, cols) & closed
    return opened if opened.any() else mask


def _dilated(mask: NDArray[np.bool_], rows: int, cols: int) -> NDArray[np.bool_]:
    return np.asarray(box_sums(mask.astype(np.float64), rows, cols) > 0.5)


def _eroded(mask: NDArray[np.bool_], rows: int, cols: int) -> NDArray[np.bool_]:
    return np.asarray(box_sums(mask.astype(np.float64), rows, cols) > rows * cols - 0.5)
