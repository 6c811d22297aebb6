"""Outlines of a cell mask as polygons along the cell edges."""

from __future__ import annotations

import itertools

import numpy as np
from numpy.typing import NDArray

__all__ = ["Corner", "outlines_from_mask"]

Corner = tuple[int, int]
"""(col, row) of a cell corner."""


def outlines_from_mask(mask: NDArray[np.bool_]) -> list[list[Corner]]:
    """Trace the borders of a 4-connected area.

    Args:
        mask: (h, w) bool, one connected area.

    Returns:
        Closed rings of (col, row) corners, only where the direction changes: the outer ring first,
        counter-clockwise as drawn with rows downwards, then holes, clockwise.

    Example:
        >>> outlines_from_mask(np.ones((1, 2), dtype=bool))
        [[(0, 0), (0, 1), (2, 1), (2, 0), (0, 0)]]
    """
    onward = _border_steps(mask)
    rings = []
    while onward:
        rings.append(_straightened(_walk(onward)))
    return sorted(rings, key=doubled_area)  # rows point down: counter-clockwise is negative


def doubled_area(ring: list[Corner]) -> int:
    """Twice the signed area of a closed ring; negative counter-clockwise with rows downwards."""
    return sum(x0 * y1 - x1 * y0 for (x0, y0), (x1, y1) in itertools.pairwise(ring))


def _border_steps(mask: NDArray[np.bool_]) -> dict[Corner, list[Corner]]:
    """Unit steps along the border, the area on the left as drawn: corner -> next corners."""
    padded = np.pad(mask, 1)
    inside = padded[1:-1, 1:-1]
    sides = (
        (inside & ~padded[:-2, 1:-1], (1, 0), (0, 0)),  # top, walked to the left
        (inside & ~padded[1:-1, :-2], (0, 0), (0, 1)),  # left, walked down
        (inside & ~padded[2:, 1:-1], (0, 1), (1, 1)),  # bottom, walked to the right
        (inside & ~padded[1:-1, 2:], (1, 1), (1, 0)),  # right, walked up
    )
    onward: dict[Corner, list[Corner]] = {}
    for cells, start, end in sides:
        for row, col in zip(*(index.tolist() for index in np.nonzero(cells)), strict=True):
            onward.setdefault((col + start[0], row + start[1]), []).append((col + end[0], row + end[1]))
    return onward


def _walk(onward: dict[Corner, list[Corner]]) -> list[Corner]:
    """Take one ring out of ``onward``."""
    start = min(onward)
    ring = [start]
    step = (0, 0)
    while True:
        here = ring[-1]
        choices = onward[here]
        # Where two cells share only this corner, turning right crosses to the other cell: the hole or bay
        # behind gets a ring of its own that touches here, and no ring meets itself.
        right = (here[0] - step[1], here[1] + step[0])
        following = right if right in choices else choices[0]
        choices.remove(following)
        if not choices:
            del onward[here]
        step = (following[0] - here[0], following[1] - here[1])
        ring.append(following)
        if following == start:
            return ring


def _straightened(ring: list[Corner]) -> list[Corner]:
    """Keep the corners where the direction changes."""
    corners = np.array(ring[:-1])
    before = corners - np.roll(corners, 1, axis=0)
    after = np.roll(corners, -1, axis=0) - corners
    kept = corners[(before != after).any(axis=1)]
    points: list[Corner] = [(int(col), int(row)) for col, row in kept]
    return [*points, points[0]]
