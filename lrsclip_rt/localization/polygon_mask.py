"""Polygons to a mask exactly as ``cv2.fillPoly`` (4.11 or later) fills them, without OpenCV.

All rings of one call share the even-odd rule, so a ring inside another is a hole. Vertices are whole
pixels. A border is drawn as well as what it encloses: each edge is a Bresenham line, and each row is filled
between pairs of edges in 16-bit fixed point. Where an edge leaves the canvas OpenCV first cuts it to the
canvas and continues on whole pixels, and so does this.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lrsclip_rt.errors import InputError

__all__ = ["MAX_COORDINATE", "polygon_mask"]

FRACTION_BITS = 16
"""Binary digits behind the point of an edge's column (OpenCV's XY_SHIFT)."""

MAX_COORDINATE = 1 << 24
"""Vertices farther out than this [px] are refused: no scene is near that size."""

Point = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Edge:
    """A side that crosses rows ``top`` to ``bottom - 1``: column (fixed point) at the top, step a row."""

    top: int
    bottom: int
    col: int
    step: int


def polygon_mask(rings: Sequence[NDArray[np.integer]], height: int, width: int) -> NDArray[np.bool_]:
    """Fill polygons by the even-odd rule.

    Args:
        rings: (n, 2) int vertices (col, row) [px] of each ring, in order, without the first repeated; they
            may lie outside.
        height: Rows of the mask [px].
        width: Columns of the mask [px].

    Returns:
        (height, width) bool.

    Raises:
        InputError: If a ring is no (n, 2) list of whole numbers, or a vertex is absurdly far out.

    Example:
        >>> square = np.array([[1, 0], [4, 0], [4, 2], [1, 2]])      # both borders belong to it
        >>> polygon_mask([square], 4, 8).sum(axis=1).tolist()
        [4, 4, 4, 0]
    """
    mask = np.zeros((height, width), dtype=np.bool_)
    edges: list[Edge] = []
    for ring in rings:
        vertices = np.asarray(ring)
        if vertices.ndim != 2 or vertices.shape[1:] != (2,) or vertices.dtype.kind not in "iu":
            raise InputError(f"a ring is {vertices.dtype} {vertices.shape}, expected (n, 2) whole numbers")
        if vertices.size and np.abs(vertices).max() > MAX_COORDINATE:
            raise InputError(f"a vertex lies {np.abs(vertices).max()} px out; expected pixels of the scene")
        points: list[Point] = [(int(col), int(row)) for col, row in vertices]
        for start, end in zip([points[-1], *points[:-1]] if points else [], points, strict=True):
            edge = _edge_drawn(mask, start, end)
            if edge is not None:
                edges.append(edge)
    _fill(mask, edges)
    return mask


def _edge_drawn(mask: NDArray[np.bool_], start: Point, end: Point) -> Edge | None:
    """Draw one side as a line; return what the filling needs, None for a level side."""
    height, width = mask.shape
    first, last, visible = _clipped(start, end, height, width)
    if visible:
        _draw_line(mask, first, last)
    if start[1] == end[1]:
        return None
    rows = (first[1], last[1]) if first[1] != last[1] else (start[1], end[1])
    step = _quotient((last[0] - first[0]) << FRACTION_BITS, rows[1] - rows[0])
    top, col, row = (start[1], first[0], rows[0]) if start[1] < end[1] else (end[1], last[0], rows[1])
    return Edge(top, max(start[1], end[1]), (col << FRACTION_BITS) + (top - row) * step, step)


def _clipped(start: Point, end: Point, height: int, width: int) -> tuple[Point, Point, bool]:
    """Cut a line to the canvas (Cohen-Sutherland on whole pixels), and whether any of it is inside."""
    (x1, y1), (x2, y2) = start, end
    right, bottom = width - 1, height - 1
    code1 = (x1 < 0) + 2 * (x1 > right) + 4 * (y1 < 0) + 8 * (y1 > bottom)
    code2 = (x2 < 0) + 2 * (x2 > right) + 4 * (y2 < 0) + 8 * (y2 > bottom)
    if code1 & code2 == 0 and code1 | code2:
        if code1 & 12:
            edge = 0 if code1 < 8 else bottom
            x1, y1 = x1 + int((edge - y1) * (x2 - x1) / (y2 - y1)), edge
            code1 = (x1 < 0) + 2 * (x1 > right)
        if code2 & 12:
            edge = 0 if code2 < 8 else bottom
            x2, y2 = x2 + int((edge - y2) * (x2 - x1) / (y2 - y1)), edge
            code2 = (x2 < 0) + 2 * (x2 > right)
        if code1 & code2 == 0 and code1 | code2:
            if code1:
                edge = 0 if code1 == 1 else right
                x1, y1, code1 = edge, y1 + int((edge - x1) * (y2 - y1) / (x2 - x1)), 0
            if code2:
                edge = 0 if code2 == 1 else right
                x2, y2, code2 = edge, y2 + int((edge - x2) * (y2 - y1) / (x2 - x1)), 0
    return (x1, y1), (x2, y2), (code1 | code2) == 0


def _draw_line(mask: NDArray[np.bool_], start: Point, end: Point) -> None:
    """Bresenham's line from the left end to the right one, 8-connected."""
    (x1, y1), (x2, y2) = (start, end) if start[0] <= end[0] else (end, start)
    across, down = x2 - x1, abs(y2 - y1)
    sign = 1 if y2 >= y1 else -1
    longer, shorter = max(across, down), min(across, down)
    along = np.arange(longer + 1)
    aside = (2 * shorter * along + longer - 1) // (2 * longer) if longer else along
    cols, rows = (x1 + along, y1 + sign * aside) if across >= down else (x1 + aside, y1 + sign * along)
    mask[rows, cols] = True


def _fill(mask: NDArray[np.bool_], edges: Sequence[Edge]) -> None:
    """Fill each row between its first and second edge, its third and fourth, and so on."""
    height, width = mask.shape
    rows, cols = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
    for edge in edges:
        crossed = np.arange(max(edge.top, 0), min(edge.bottom, height), dtype=np.int64)
        rows.append(crossed)
        cols.append(edge.col + (crossed - edge.top) * edge.step)
    row, col = np.concatenate(rows), np.concatenate(cols)
    order = np.lexsort((col, row))
    row, col = row[order].reshape(-1, 2), col[order].reshape(-1, 2)
    # The first pixel at or after the left edge, the last at or before the right one.
    col = (col + np.array([(1 << FRACTION_BITS) - 1, 0])) >> FRACTION_BITS
    seen = (col[:, 0] < width) & (col[:, 1] >= 0)
    spans = zip(row[seen, 0].tolist(), *np.clip(col[seen], 0, width - 1).T.tolist(), strict=True)
    for line, first, last in spans:
        mask[line, first : last + 1] = True


def _quotient(dividend: int, divisor: int) -> int:
    """Whole-number division that cuts towards zero, as C does."""
    quotient = abs(dividend) // abs(divisor)
    return quotient if (dividend < 0) == (divisor < 0) else -quotient
