"""The order of boxes along a Hilbert curve: what lies close together on the Earth lies close in the file."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["ORDER_BITS", "hilbert_order"]

ORDER_BITS = 16
"""The curve visits ``2**16 x 2**16`` cells of lon/lat: 600 m at the equator."""


def hilbert_order(boxes: NDArray[np.float64]) -> NDArray[np.int64]:
    """Row numbers in the order of their boxes' centres along the curve; rows without a place come last.

    Rows of one cell keep their order.

    Args:
        boxes: ``(N, 4)`` west, south, east, north [deg]; west > east across the antimeridian; NaN without a
            place.

    Returns:
        ``(N,)`` int64.

    Example:
        >>> boxes = [[170.0, 80, 171, 81], [np.nan] * 4, [-171, -81, -170, -80], [-169, -81, -168, -80]]
        >>> hilbert_order(np.array(boxes)).tolist()
        [2, 3, 0, 1]
    """
    west, south, east, north = boxes.T
    nowhere = np.isnan(west)
    width = np.where(west > east, east + 360.0 - west, east - west)
    lon = np.where(nowhere, 0.0, (west + width / 2 + 180.0) % 360.0)
    lat = np.where(nowhere, 0.0, (south + north) / 2 + 90.0)
    side = 1 << ORDER_BITS
    col = np.clip(lon / 360.0 * side, 0, side - 1).astype(np.uint32)
    row = np.clip(lat / 180.0 * side, 0, side - 1).astype(np.uint32)
    distance = _distance(col, row).astype(np.uint64)
    distance[nowhere] = np.uint64(side) * np.uint64(side)
    order: NDArray[np.int64] = np.argsort(distance, kind="stable").astype(np.int64, copy=False)
    return order


def _distance(col: NDArray[np.uint32], row: NDArray[np.uint32]) -> NDArray[np.uint64]:
    """Cells of the curve before each ``(col, row)``: at every level the quadrant is turned and mirrored."""
    col, row = col.copy(), row.copy()
    distance = np.zeros(len(col), np.uint64)
    for bit in reversed(range(ORDER_BITS)):
        half = np.uint32(1 << bit)
        right, upper = (col & half) > 0, (row & half) > 0
        quadrant = (3 * right.astype(np.uint64)) ^ upper.astype(np.uint64)
        distance += np.uint64(1 << (2 * bit)) * quadrant
        mirrored = ~upper & right
        whole = np.uint32((1 << ORDER_BITS) - 1)
        col = np.where(mirrored, whole - col, col)
        row = np.where(mirrored, whole - row, row)
        col, row = np.where(upper, col, row), np.where(upper, row, col)
    return distance
