"""Connected areas of a boolean map, in plain NumPy.

Runs of set cells along the rows are the nodes of a small graph; runs of neighbouring rows that touch
are its edges. Labels are settled by pointer jumping on the runs, so the work follows the number of
runs and no loop visits a cell.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["label_components"]


def label_components(mask: NDArray[np.bool_], *, diagonal: bool = False) -> tuple[NDArray[np.int32], int]:
    """Number the connected areas of ``mask``.

    Args:
        mask: (H, W) bool.
        diagonal: Whether cells that share only a corner are connected (8-connectivity).

    Returns:
        (H, W) int32 labels, 0 outside and 1 .. K in the order of the first cell in row-major order,
        and K.

    Example:
        >>> labels, count = label_components(np.array([[1, 0, 1], [1, 0, 1], [0, 1, 0]], dtype=bool))
        >>> count, labels.tolist()
        (3, [[1, 0, 2], [1, 0, 2], [0, 3, 0]])
    """
    rows, starts, ends = _runs(mask)
    if rows.size == 0:
        return np.zeros(mask.shape, dtype=np.int32), 0
    above, below = _touching(rows, starts, ends, mask.shape, reach=1 if diagonal else 0)
    roots = _settle(rows.size, above, below)
    _, number = np.unique(roots, return_inverse=True)  # a root is its area's first run
    labels = np.zeros(mask.size, dtype=np.int32)
    labels[mask.ravel()] = np.repeat(number + 1, ends - starts)
    return labels.reshape(mask.shape), int(number.max()) + 1


def _runs(mask: NDArray[np.bool_]) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """Row, first column and end column of every run of set cells, in row-major order."""
    height, width = mask.shape
    padded = np.zeros((height, width + 2), dtype=np.int8)
    padded[:, 1:-1] = mask
    step = np.diff(padded, axis=1)
    rows, starts = np.nonzero(step == 1)
    _, ends = np.nonzero(step == -1)
    return rows, starts, ends


def _touching(
    rows: NDArray[Any], starts: NDArray[Any], ends: NDArray[Any], shape: tuple[int, ...], *, reach: int
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Pairs (run, run of the next row) whose columns overlap, widened by ``reach``."""
    # One number line for all rows: the gap keeps the runs of different rows apart.
    span = shape[1] + 4
    start_keys = rows * span + starts
    end_keys = rows * span + ends
    first = np.searchsorted(end_keys, start_keys + span - reach, side="right")
    last = np.searchsorted(start_keys, end_keys + span + reach, side="left")
    counts = np.maximum(last - first, 0)
    above = np.repeat(np.arange(rows.size), counts)
    within = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
    return above, np.repeat(first, counts) + within


def _settle(count: int, left: NDArray[Any], right: NDArray[Any]) -> NDArray[Any]:
    """Smallest run of the area that each run belongs to."""
    parent = np.arange(count)
    while left.size:
        a, b = parent[left], parent[right]
        apart = a != b
        if not apart.any():
            break
        left, right = left[apart], right[apart]
        low, high = np.minimum(a[apart], b[apart]), np.maximum(a[apart], b[apart])
        np.minimum.at(parent, high, low)
        while True:
            jumped = parent[parent]
            if np.array_equal(jumped, parent):
                break
            parent = jumped
    return parent
