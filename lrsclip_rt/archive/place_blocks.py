"""Boxes of runs of rows, so that a filter by place looks at few rows.

Tiles that lie together were indexed together: most runs lie wholly outside or inside what is asked for.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from lrsclip_rt.archive.footprints import Bbox, boxes_of

__all__ = ["RUN_ROWS", "PlaceBlocks"]

RUN_ROWS = 64


class PlaceBlocks:
    """The common box of every ``RUN_ROWS`` rows of a segment.

    Args:
        boxes: ``(N, 4)`` float64: west, south, east, north [deg]; west > east across the antimeridian;
            NaN for rows without a place.
    """

    def __init__(self, boxes: NDArray[np.float64]) -> None:
        self._boxes = boxes
        starts = np.arange(0, len(boxes), RUN_ROWS)
        if not len(starts):
            self._low = self._high = np.empty((0, 2))
            self._mixed = np.empty(0, bool)
            return
        self._low = np.fmin.reduceat(boxes[:, :2], starts, axis=0)
        self._high = np.fmax.reduceat(boxes[:, 2:], starts, axis=0)
        # A run with a row across the antimeridian, or without a place, is never inside as a whole.
        odd = ~(boxes[:, 0] <= boxes[:, 2])
        self._mixed = np.logical_or.reduceat(odd, starts)
        crossing = np.logical_or.reduceat(boxes[:, 0] > boxes[:, 2], starts)
        self._low[crossing, 0], self._high[crossing, 0] = -180.0, 180.0

    def touching(self, bbox: Bbox) -> NDArray[np.bool_]:
        """Which rows share a point with ``bbox``: ``(N,)`` bool, what ``where.touching_box`` says of all."""
        from lrsclip_rt.archive.where import touching_box

        maybe = np.zeros(len(self._mixed), bool)
        inside = np.zeros(len(self._mixed), bool)
        for left, bottom, right, top in boxes_of(bbox):
            maybe |= (
                (self._high[:, 0] >= left)
                & (self._low[:, 0] <= right)
                & (self._high[:, 1] >= bottom)
                & (self._low[:, 1] <= top)
            )
            inside |= (
                (self._low[:, 0] >= left)
                & (self._high[:, 0] <= right)
                & (self._low[:, 1] >= bottom)
                & (self._high[:, 1] <= top)
            )
        inside &= ~self._mixed
        result = np.repeat(inside, RUN_ROWS)[: len(self._boxes)]
        runs = np.flatnonzero(maybe & ~inside)
        rows = (runs[:, None] * RUN_ROWS + np.arange(RUN_ROWS)).reshape(-1)
        rows = rows[rows < len(result)]
        result[rows] = touching_box(self._boxes[rows], bbox)
        return result
