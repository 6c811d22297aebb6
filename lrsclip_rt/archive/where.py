"""Filters: which rows a search looks at. Each is an array test on a segment's columns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lrsclip_rt.archive.footprints import Bbox, boxes_of, check_bbox
from lrsclip_rt.archive.segments import Segment
from lrsclip_rt.archive.times import NO_TIME, TimeLike, interval_us
from lrsclip_rt.errors import InputError

__all__ = ["Where", "inside_box", "passing_rows", "touching_box"]


@dataclass(frozen=True, slots=True)
class Where:
    """Conditions that all have to hold; those left out do not matter.

    Rows without a place never pass ``bbox``; rows without a time never pass ``start`` or ``end``.

    Attributes:
        bbox: west, south, east, north [deg] that the footprint must touch; west > east crosses the
            antimeridian.
        start: First moment that passes; ISO 8601 text, date or datetime, UTC.
        end: First moment that no longer passes; a bare date is that whole day, which passes.
        sources: Paths of sources, whole or relative to their root, or shell patterns of these; any of them.
        metadata: Keys and values that the source must have.

    Raises:
        InputError: If a value is malformed, or the end does not lie behind the start.

    Example:
        >>> Where(bbox=(170, -20, -170, -10), start="2024-05-01", end="2024-05-31").interval
        (1714521600000000, 1717200000000000)
    """

    bbox: Sequence[float] | None = None
    start: TimeLike | None = None
    end: TimeLike | None = None
    sources: Sequence[str] | None = None
    metadata: Mapping[str, str] | None = None

    def __post_init__(self) -> None:
        if self.bbox is not None:
            object.__setattr__(self, "bbox", check_bbox(self.bbox))
        if isinstance(self.sources, str):
            raise InputError(f"sources is a list of paths or patterns, got the text {self.sources!r}")
        start, end = self.interval
        if start is not None and end is not None and start >= end:
            raise InputError(f"end {self.end} must lie behind start {self.start}: no moment is in between")

    @property
    def box(self) -> Bbox | None:
        """``bbox`` as four checked floats."""
        return None if self.bbox is None else check_bbox(self.bbox)

    @property
    def interval(self) -> tuple[int | None, int | None]:
        """First microsecond that passes and first that no longer does."""
        start = None if self.start is None else interval_us(self.start)[0]
        end = None if self.end is None else interval_us(self.end)[1]
        return start, end

    @property
    def is_empty(self) -> bool:
        """Whether every row passes."""
        return self == Where()

    @property
    def asks_for_time(self) -> bool:
        """Whether rows without a time cannot pass."""
        return self.start is not None or self.end is not None


def passing_rows(where: Where, segment: Segment, sources: NDArray[np.int64] | None) -> NDArray[np.bool_]:
    """Which rows of a segment pass, by their boxes: ``(N,)`` bool.

    Args:
        where: The filter.
        segment: Its columns.
        sources: Numbers of the sources that pass; None for all.
    """
    passing = np.ones(segment.record.rows, bool)
    if where.box is not None:
        passing &= touching_box(segment.box, where.box)
    start, end = where.interval
    if where.asks_for_time:
        passing &= segment.time != NO_TIME
    if start is not None:
        passing &= segment.time >= start
    if end is not None:
        passing &= segment.time < end
    if sources is not None:
        passing &= np.isin(segment.source, sources)
    return passing


def touching_box(boxes: NDArray[np.float64], bbox: Bbox) -> NDArray[np.bool_]:
    """Which of ``(N, 4)`` boxes share a point with ``bbox``; NaN boxes share none.

    Example:
        >>> across = np.array([[179.0, 0, -179.0, 1], [10, 0, 11, 1], [np.nan] * 4])
        >>> touching_box(across, (-179.5, 0, -170, 2)).tolist()
        [True, False, False]
    """
    west, south, east, north = boxes.T
    crossing = west > east
    touching = np.zeros(len(boxes), bool)
    for left, bottom, right, top in boxes_of(bbox):
        after, before = right >= west, left <= east
        touching |= np.where(crossing, after | before, after & before) & (top >= south) & (bottom <= north)
    return touching


def inside_box(box: Bbox, bbox: Bbox) -> bool:
    """Whether ``box`` lies wholly in ``bbox``; then its footprint certainly touches it.

    Example:
        >>> inside_box((179.5, 0, -179.5, 1), (179, 0, -179, 1)), inside_box((10, 0, 12, 1), (11, 0, 13, 1))
        (True, False)
    """
    return all(
        any(
            left <= part[0] and part[2] <= right and bottom <= part[1] and part[3] <= top
            for left, bottom, right, top in boxes_of(bbox)
        )
        for part in boxes_of(box)
    )
