"""An area of interest: polygons with holes in lon, lat, and which footprints they share a point with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from lrsclip_rt.archive.areas.cells import AreaCells, cells_from_edges
from lrsclip_rt.archive.footprints import Bbox, Ring, Rings
from lrsclip_rt.errors import InputError

__all__ = ["MOST_POINTS", "Area", "Polygon"]

MOST_POINTS = 100_000
"""Points of all rings together; more is refused."""

_EDGES_AT_ONCE = 64
_LEAST_EXTENT_DEG = 1e-12
"""A ring must be wider and higher [deg]: below, 1 over it is no number that can be counted with."""

Polygon = tuple[Ring, ...]
"""Closed rings in lon, lat [deg]: a point is inside where it is inside an odd number of them."""


@dataclass(frozen=True, eq=False)
class Area:
    """Polygons, none crossing the antimeridian (RFC 7946); a footprint is in it where they share a point.

    Attributes:
        polygons: Their union counts.
        name: What messages call it.

    Raises:
        InputError: If there is no polygon, a ring is malformed or crosses itself or another of its polygon,
            or a point is not on the Earth.

    Example:
        >>> square = ((0.0, 0.0), (4.0, 0.0), (4.0, 4.0), (0.0, 4.0), (0.0, 0.0))
        >>> hole = ((1.0, 1.0), (1.0, 3.0), (3.0, 3.0), (3.0, 1.0), (1.0, 1.0))
        >>> area = Area(((square, hole),))
        >>> small = ((1.5, 1.5), (2.0, 1.5), (2.0, 2.0), (1.5, 2.0), (1.5, 1.5))
        >>> area.meets((small,)), area.meets((tuple((x + 1.5, y) for x, y in small),))
        (False, True)
    """

    polygons: tuple[Polygon, ...]
    name: str = field(default="the area")

    def __post_init__(self) -> None:
        rings = [ring for polygon in self.polygons for ring in polygon]
        if not rings:
            raise InputError(f"{self.name} holds no polygon; expected at least one")
        points = sum(map(len, rings))
        if points > MOST_POINTS:
            raise InputError(f"{self.name} has {points} points, expected {MOST_POINTS} or fewer; simplify it")
        for ring in rings:
            _check_ring(ring, self.name)
        for edges in self._edges:
            _refuse_crossing(edges, self.name)

    def __repr__(self) -> str:
        return f"Area({len(self.polygons)} polygons, {', '.join(f'{degree:.6g}' for degree in self.bounds)})"

    @property
    def bounds(self) -> Bbox:
        """West, south, east, north [deg] of all polygons; west <= east."""
        points = np.array([point for polygon in self.polygons for ring in polygon for point in ring])
        (west, south), (east, north) = points.min(axis=0).tolist(), points.max(axis=0).tolist()
        return west, south, east, north

    def meets(self, footprint: Rings) -> bool:
        """Whether a footprint and the area share at least a point.

        Either boundaries meet, or one lies inside the other; then any point of it tells. The coarse picture
        answers at once where all cells around a footprint are covered.
        """
        for ring in footprint:
            own = _edges_of([ring])
            if self._cells.cover(_box_of(own)):
                return True
            for edges in self._edges:
                if not _boxes_meet(own, edges):
                    continue
                near = _near(edges, own)
                if _touching(own, near).any() or _inside(own[0, :2], edges) or _inside(edges[0, :2], own):
                    return True
        return False

    def may_meet(self, boxes: NDArray[np.float64]) -> NDArray[np.bool_]:
        """Which of ``(N, 4)`` boxes could meet the area: False is certain, True is for ``meets`` to decide.

        Boxes with west > east cross the antimeridian; NaN boxes never meet.
        """
        west, south, east, north = boxes.T
        crossing = west > east
        right, left = np.where(crossing, 180.0, east), np.where(crossing, -180.0, west)
        found = self._cells.touch(west, south, right, north)
        if crossing.any():
            found |= crossing & self._cells.touch(left, south, east, north)
        return found

    @cached_property
    def _edges(self) -> tuple[NDArray[np.float64], ...]:
        """Of each polygon the edges of all rings: (E, 4) lon, lat, lon, lat."""
        return tuple(_edges_of(polygon) for polygon in self.polygons)

    @cached_property
    def _cells(self) -> AreaCells:
        return cells_from_edges(self._edges, self.bounds)


def _edges_of(rings: Sequence[Ring]) -> NDArray[np.float64]:
    parts = []
    for ring in rings:
        points = np.asarray(ring, np.float64)
        parts.append(np.hstack([points[:-1], points[1:]]))
    return np.concatenate(parts)


def _check_ring(ring: Ring, name: str) -> None:
    points = np.asarray(ring, np.float64)
    if points.ndim != 2 or points.shape[1] != 2 or not np.isfinite(points).all():
        raise InputError(f"{name} has a ring with a point that is not two finite numbers lon, lat [deg]")
    if len(points) < 4:
        raise InputError(f"{name} has a ring of {len(points)} points, expected 4 or more")
    if (points[0] != points[-1]).any():
        first, last = points[0].tolist(), points[-1].tolist()
        raise InputError(f"{name} has an unclosed ring: it begins at {first} and ends at {last}")
    if (np.abs(points) > (180.0, 90.0)).any():
        lon, lat = points[(np.abs(points) > (180.0, 90.0)).any(axis=1)][0].tolist()
        raise InputError(
            f"{name} has the point ({lon:g}, {lat:g}), which is no longitude and latitude [deg]; GeoJSON is "
            "WGS84, split at the antimeridian (RFC 7946). Another CRS fits into a GeoPackage"
        )
    if (np.ptp(points, axis=0) < _LEAST_EXTENT_DEG).any():
        raise InputError(f"{name} has a ring without an area, around {points[0].tolist()}")


def _refuse_crossing(edges: NDArray[np.float64], name: str) -> None:
    """Refuse edges of one polygon that cross; those that only touch are harmless."""
    edges = edges[np.argsort(np.minimum(edges[:, 0], edges[:, 2]), kind="stable")]
    starts = np.minimum(edges[:, 0], edges[:, 2])
    ends = np.searchsorted(starts, np.maximum(edges[:, 0], edges[:, 2]), "right")
    for first in range(0, len(edges), _EDGES_AT_ONCE):
        own = edges[first : first + _EDGES_AT_ONCE]
        others = edges[first : int(ends[first : first + _EDGES_AT_ONCE].max())]
        crossing = np.flatnonzero(_crossing(own, others).any(axis=1))
        if len(crossing):
            lon, lat = own[crossing[0], :2].tolist()
            raise InputError(
                f"{name} has rings that cross themselves or each other, near ({lon:.6g}, {lat:.6g}). "
                "Mend it, for example with ST_MakeValid or QGIS's Fix geometries"
            )


def _sides(edges: NDArray[np.float64], points: NDArray[np.float64]) -> NDArray[np.float64]:
    """On which side of each of E edges each of P points lies: (E, P), 0 on the line."""
    x, y, to_x, to_y = (edges[:, [column]] for column in range(4))
    result: NDArray[np.float64] = (to_x - x) * (points[:, 1] - y) - (to_y - y) * (points[:, 0] - x)
    return result


def _crossing(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Which edges of ``a`` (A, 4) and ``b`` (B, 4) cross at an inner point of both: (A, B)."""
    across_a = np.sign(_sides(a, b[:, :2])) * np.sign(_sides(a, b[:, 2:])) < 0
    across_b = np.sign(_sides(b, a[:, :2])) * np.sign(_sides(b, a[:, 2:])) < 0
    return np.asarray(across_a & across_b.T)


def _touching(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Which edges of ``a`` (A, 4) and ``b`` (B, 4) share a point: (A, B)."""
    across_a = np.sign(_sides(a, b[:, :2])) * np.sign(_sides(a, b[:, 2:])) <= 0
    across_b = np.sign(_sides(b, a[:, :2])) * np.sign(_sides(b, a[:, 2:])) <= 0
    meeting = across_a & across_b.T
    for axis in (0, 1):  # edges on one line pass the test above wherever they lie on it
        low_a, high_a = (f(a[:, axis], a[:, axis + 2])[:, None] for f in (np.minimum, np.maximum))
        low_b, high_b = (f(b[:, axis], b[:, axis + 2])[None] for f in (np.minimum, np.maximum))
        meeting &= (low_a <= high_b) & (low_b <= high_a)
    return np.asarray(meeting)


def _inside(point: NDArray[np.float64], edges: NDArray[np.float64]) -> bool:
    """Whether a line from the point to the east crosses an odd number of edges."""
    x, y, to_x, to_y = edges.T
    spanning = (y > point[1]) != (to_y > point[1])
    x, y, to_x, to_y = (values[spanning] for values in (x, y, to_x, to_y))
    return bool((x + (point[1] - y) / (to_y - y) * (to_x - x) > point[0]).sum() % 2)


def _box_of(edges: NDArray[np.float64]) -> Bbox:
    points = edges.reshape(-1, 2)
    (west, south), (east, north) = points.min(axis=0).tolist(), points.max(axis=0).tolist()
    return west, south, east, north


def _boxes_meet(a: NDArray[np.float64], b: NDArray[np.float64]) -> bool:
    (west, south, east, north), (left, bottom, right, top) = _box_of(a), _box_of(b)
    return east >= left and west <= right and north >= bottom and south <= top


def _near(edges: NDArray[np.float64], own: NDArray[np.float64]) -> NDArray[np.float64]:
    """The edges whose box meets that of ``own``."""
    west, south, east, north = _box_of(own)
    x, y, to_x, to_y = edges.T
    near = (np.maximum(x, to_x) >= west) & (np.minimum(x, to_x) <= east)
    near &= (np.maximum(y, to_y) >= south) & (np.minimum(y, to_y) <= north)
    found: NDArray[np.float64] = edges[near]
    return found
