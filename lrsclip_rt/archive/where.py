"""Filters: which rows a search looks at. Each is an array test on a segment's columns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lrsclip_rt.archive.areas.area import Area
from lrsclip_rt.archive.conditions import Condition
from lrsclip_rt.archive.footprints import Bbox, boxes_of, check_bbox, rings_from_bbox, rings_meet_bbox
from lrsclip_rt.archive.records import NewTile
from lrsclip_rt.archive.segments import Segment
from lrsclip_rt.archive.times import NO_TIME, TimeLike, interval_us
from lrsclip_rt.errors import InputError

__all__ = ["Where", "inside_box", "lies_in", "passing_rows", "touching_box"]


@dataclass(frozen=True, slots=True)
class Where:
    """Conditions that all have to hold; those left out do not matter.

    Rows without a place never pass ``bbox`` or ``aoi``; rows without a time never pass ``start`` or ``end``;
    rows of sources without a key never pass a condition on it.

    Attributes:
        bbox: west, south, east, north [deg] that the footprint must touch; west > east crosses the
            antimeridian.
        start: First moment that passes; ISO 8601 text, date or datetime, UTC.
        end: First moment that no longer passes; a bare date is that whole day, which passes.
        sources: Paths of sources, whole, relative to their root or to the working folder, or shell
            patterns of these; any of them.
        metadata: Keys and values that the source must have.
        aoi: Polygons that the footprint must share a point with.
        conditions: What the source's metadata must fulfil, such as ``"eo:cloud_cover<=20"``.

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
    aoi: Area | None = None
    conditions: Sequence[Condition | str] | None = None

    def __post_init__(self) -> None:
        if self.bbox is not None:
            object.__setattr__(self, "bbox", check_bbox(self.bbox))
        if isinstance(self.sources, str):
            raise InputError(f"sources is a list of paths or patterns, got the text {self.sources!r}")
        if isinstance(self.conditions, str):
            raise InputError(f"conditions is a list of them, got the text {self.conditions!r}")
        if self.conditions is not None:
            object.__setattr__(self, "conditions", self.parsed_conditions)
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
    def parsed_conditions(self) -> tuple[Condition, ...]:
        """``conditions``, those given as texts parsed."""
        given = self.conditions or ()
        return tuple(c if isinstance(c, Condition) else Condition.from_text(c) for c in given)

    @property
    def keys(self) -> tuple[str, ...]:
        """Keys of metadata without which a source cannot pass."""
        return (*(self.metadata or ()), *(condition.key for condition in self.parsed_conditions))

    @property
    def is_empty(self) -> bool:
        """Whether every row passes."""
        return self == Where()

    @property
    def asks_for_place(self) -> bool:
        """Whether rows without a place cannot pass."""
        return self.bbox is not None or self.aoi is not None

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
    if where.aoi is not None:
        rows = np.flatnonzero(passing)
        passing[rows] = where.aoi.may_meet(segment.box[rows])
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


def lies_in(tile: NewTile, where: Where) -> bool:
    """Whether a tile that passed by its box lies in the place asked for, by its footprint.

    A box alone decides where there is no footprint, or where it lies wholly in the box asked for.
    """
    if not where.asks_for_place:
        return True
    if tile.bbox is None:
        return False
    box, rings = where.box, tile.footprint
    if box is not None and rings and not inside_box(tile.bbox, box) and not rings_meet_bbox(rings, box):
        return False
    return where.aoi is None or where.aoi.meets(rings or rings_from_bbox(tile.bbox))
