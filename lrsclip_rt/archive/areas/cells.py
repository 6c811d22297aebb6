"""A coarse picture of an area: which cells of its box it may touch, and which it covers.

It rules most boxes out, and most others in, before any edge is looked at.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lrsclip_rt.archive.footprints import Bbox

__all__ = ["CELLS", "AreaCells", "cells_from_edges"]

CELLS = 256
"""Cells along each side of the area's box."""

_Around = tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]
"""First column and last + 1, first row and last + 1 of the cells that boxes touch."""


@dataclass(frozen=True, slots=True, eq=False)
class AreaCells:
    """Cells as sums over all cells before, so that a range of them is four look-ups.

    Attributes:
        box: West, south, east, north [deg], west < east.
        touched: ``(CELLS + 1, CELLS + 1)`` of the cells that the area may touch.
        covered: The same of the cells that lie in it wholly.
    """

    box: Bbox
    touched: NDArray[np.int64]
    covered: NDArray[np.int64]

    def touch(
        self,
        west: NDArray[np.float64],
        south: NDArray[np.float64],
        east: NDArray[np.float64],
        north: NDArray[np.float64],
    ) -> NDArray[np.bool_]:
        """Which boxes with west <= east touch a cell that the area may touch: ``(N,)`` bool."""
        left, bottom, right, top = self.box
        meeting = (east >= left) & (west <= right) & (north >= bottom) & (south <= top)
        found = np.zeros(len(west), bool)
        rows = np.flatnonzero(meeting)
        if len(rows):
            around = self._around(west[rows], south[rows], east[rows], north[rows])
            found[rows] = _cells_in(self.touched, around) > 0
        return found

    def cover(self, box: Bbox) -> bool:
        """Whether the area covers every cell that a box touches; False decides nothing."""
        left, bottom, right, top = self.box
        west, south, east, north = box
        if not (left <= west and east <= right and bottom <= south and north <= top):
            return False
        around = self._around(np.array([west]), np.array([south]), np.array([east]), np.array([north]))
        first_col, last_col, first_row, last_row = around
        cells = (last_col - first_col) * (last_row - first_row)
        return bool(_cells_in(self.covered, around)[0] == cells[0])

    def _around(
        self,
        west: NDArray[np.float64],
        south: NDArray[np.float64],
        east: NDArray[np.float64],
        north: NDArray[np.float64],
    ) -> _Around:
        left, bottom, right, top = self.box
        across, up = CELLS / (right - left), CELLS / (top - bottom)
        # A millionth of a cell more on each side makes up for rounding.
        return (
            _cell((west - left) * across - 1e-6),
            _cell((east - left) * across + 1e-6) + 1,
            _cell((south - bottom) * up - 1e-6),
            _cell((north - bottom) * up + 1e-6) + 1,
        )


def cells_from_edges(polygons: Sequence[NDArray[np.float64]], box: Bbox) -> AreaCells:
    """Draw polygons, each given by the edges of its rings.

    Args:
        polygons: Each ``(E, 4)`` lon, lat, lon, lat [deg].
        box: Around all of them, of an extent above 0 both ways.
    """
    left, bottom, right, top = box
    scale = np.array([CELLS / (right - left), CELLS / (top - bottom)] * 2)
    boundary = np.zeros((CELLS, CELLS), bool)
    inside = np.zeros((CELLS, CELLS), bool)
    for edges in polygons:
        scaled = (edges - (left, bottom, left, bottom)) * scale
        _mark_boundary(boundary, scaled)
        _mark_inside(inside, scaled)
    return AreaCells(box, _sums(boundary | inside), _sums(inside & ~boundary))


def _sums(cells: NDArray[np.bool_]) -> NDArray[np.int64]:
    sums = np.zeros((CELLS + 1, CELLS + 1), np.int64)
    sums[1:, 1:] = cells.cumsum(axis=0).cumsum(axis=1)
    return sums


def _cells_in(sums: NDArray[np.int64], around: _Around) -> NDArray[np.int64]:
    """How many marked cells lie in each range of columns and rows."""
    first_col, last_col, first_row, last_row = around
    found: NDArray[np.int64] = sums[last_row, last_col] - sums[first_row, last_col]
    found += sums[first_row, first_col] - sums[last_row, first_col]
    return found


def _cell(position: NDArray[np.float64]) -> NDArray[np.int64]:
    return np.clip(np.floor(position), 0, CELLS - 1).astype(np.int64)


def _mark_boundary(touched: NDArray[np.bool_], edges: NDArray[np.float64]) -> None:
    """Mark every cell that an edge touches: pieces of at most a cell lie in the cells of their corners."""
    lengths = np.abs(edges[:, 2:] - edges[:, :2]).max(axis=1)
    pieces = np.maximum(1, np.ceil(lengths)).astype(np.int64)
    edge = np.repeat(np.arange(len(edges)), pieces)
    step = (np.arange(len(edge)) - np.repeat(np.cumsum(pieces) - pieces, pieces))[:, None]
    start, way = edges[edge, :2], edges[edge, 2:] - edges[edge, :2]
    share = 1.0 / pieces[edge][:, None]
    ends = (start + step * share * way, start + (step + 1) * share * way)
    for x_of in ends:
        for y_of in ends:
            for nudge in (-1e-6, 1e-6):
                touched[_cell(y_of[:, 1] + nudge), _cell(x_of[:, 0] + nudge)] = True
                touched[_cell(y_of[:, 1] - nudge), _cell(x_of[:, 0] + nudge)] = True


def _mark_inside(inside: NDArray[np.bool_], edges: NDArray[np.float64]) -> None:
    """Mark the cells whose centre is inside: those without a boundary lie inside wholly."""
    x, y, to_x, to_y = edges.T
    centres = np.arange(CELLS) + 0.5
    for row, height in enumerate(centres.tolist()):
        spanning = (y > height) != (to_y > height)
        part = (height - y[spanning]) / (to_y[spanning] - y[spanning])
        crossings = np.sort(x[spanning] + part * (to_x[spanning] - x[spanning]))
        inside[row] |= np.searchsorted(crossings, centres) % 2 == 1
