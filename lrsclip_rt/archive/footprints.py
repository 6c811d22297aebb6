"""Footprints: rings in lon, lat (WGS84), stored as WKB, split at the antimeridian (RFC 7946)."""

from __future__ import annotations

import math
import struct
from collections.abc import Iterable, Sequence
from typing import Any, cast

from lrsclip_rt.errors import InputError

__all__ = [
    "Bbox",
    "Ring",
    "Rings",
    "boxes_of",
    "check_bbox",
    "geometry_from_rings",
    "rings_from_bbox",
    "rings_from_wkb",
    "rings_meet_bbox",
    "rings_of",
    "simplified",
    "wkb_from_rings",
]

Bbox = tuple[float, float, float, float]
"""``(west, south, east, north)`` [deg]; west > east where it crosses the antimeridian."""

Ring = tuple[tuple[float, float], ...]
"""A closed line of (lon, lat) [deg]: the last point equals the first."""

Rings = tuple[Ring, ...]
"""The outer rings of a footprint: one, or one on each side of the antimeridian."""

_POLYGON, _MULTIPOLYGON = 3, 6


def check_bbox(bbox: Sequence[float]) -> Bbox:
    """``bbox`` as four floats in order.

    Raises:
        InputError: If it is not four finite degrees with south <= north.

    Example:
        >>> check_bbox([170, -20, -170, -10])
        (170.0, -20.0, -170.0, -10.0)
    """
    values = tuple(float(value) for value in bbox)
    if len(values) != 4 or not all(map(math.isfinite, values)):
        raise InputError(f"a box is four numbers west,south,east,north [deg], got {tuple(bbox)}")
    west, south, east, north = values
    if not (-180.0 <= west <= 180.0 and -180.0 <= east <= 180.0):
        raise InputError(
            f"longitudes must lie in [-180, 180], got {west:g} and {east:g}; "
            "a box across the antimeridian has west > east"
        )
    if not -90.0 <= south <= north <= 90.0:
        raise InputError(f"latitudes must be -90 <= south <= north <= 90, got {south:g} and {north:g}")
    return west, south, east, north


def boxes_of(bbox: Bbox) -> tuple[Bbox, ...]:
    """One box, or the two on either side of the antimeridian.

    Example:
        >>> boxes_of((170.0, -20.0, -170.0, -10.0))
        ((170.0, -20.0, 180.0, -10.0), (-180.0, -20.0, -170.0, -10.0))
    """
    west, south, east, north = bbox
    if west <= east:
        return (bbox,)
    return (west, south, 180.0, north), (-180.0, south, east, north)


def rings_of(footprint: Sequence[Any] | None) -> Rings:
    """A footprint given as one ring or as several; nothing for None."""
    if not footprint:
        return ()
    if isinstance(footprint[0][0], (int, float)):
        return (cast(Ring, tuple(footprint)),)
    return tuple(cast(Ring, tuple(ring)) for ring in footprint)


def rings_from_bbox(bbox: Bbox) -> Rings:
    """The outline of a box, counter-clockwise; of two where it crosses the antimeridian.

    Example:
        >>> rings_from_bbox((0.0, 1.0, 2.0, 3.0))
        (((0.0, 1.0), (2.0, 1.0), (2.0, 3.0), (0.0, 3.0), (0.0, 1.0)),)
    """
    return tuple(((w, s), (e, s), (e, n), (w, n), (w, s)) for w, s, e, n in boxes_of(bbox))


def simplified(rings: Rings, tolerance_deg: float) -> Rings:
    """Drop vertices that lie within ``tolerance_deg`` of the line without them (Douglas-Peucker).

    Example:
        >>> simplified((((0, 0), (1, 0), (2, 0), (2, 1), (2, 2), (0, 0)),), 0.01)
        (((0, 0), (2, 0), (2, 2), (0, 0)),)
    """
    return tuple(_simplified_ring(ring, tolerance_deg) for ring in rings)


def wkb_from_rings(rings: Rings) -> bytes:
    """Little-endian WKB: a Polygon, or a MultiPolygon where there are several rings."""
    polygons = [
        struct.pack("<BIII", 1, _POLYGON, 1, len(ring))
        + b"".join(struct.pack("<dd", lon, lat) for lon, lat in ring)
        for ring in rings
    ]
    if len(polygons) == 1:
        return polygons[0]
    return struct.pack("<BII", 1, _MULTIPOLYGON, len(polygons)) + b"".join(polygons)


def rings_from_wkb(wkb: bytes) -> Rings:
    """The inverse of ``wkb_from_rings``.

    Raises:
        InputError: If it is neither a little-endian Polygon nor a MultiPolygon of single rings.
    """
    try:
        order, kind, count = struct.unpack_from("<BII", wkb, 0)
        if order != 1 or kind not in (_POLYGON, _MULTIPOLYGON):
            raise InputError(f"expected a little-endian Polygon or MultiPolygon, got {wkb[:5].hex()}")
        offset = 9 if kind == _MULTIPOLYGON else 0
        rings = []
        for _ in range(count if kind == _MULTIPOLYGON else 1):
            (points,) = struct.unpack_from("<I", wkb, offset + 9)
            flat = struct.unpack_from(f"<{2 * points}d", wkb, offset + 13)
            rings.append(tuple(zip(flat[0::2], flat[1::2], strict=True)))
            offset += 13 + 16 * points
    except struct.error as error:
        raise InputError(f"a footprint of {len(wkb)} bytes is cut off") from error
    return tuple(rings)


def geometry_from_rings(rings: Rings) -> dict[str, Any] | None:
    """The GeoJSON geometry of a footprint; None without one."""
    if not rings:
        return None
    coordinates = [[[list(point) for point in ring]] for ring in rings]
    if len(rings) == 1:
        return {"type": "Polygon", "coordinates": coordinates[0]}
    return {"type": "MultiPolygon", "coordinates": coordinates}


def rings_meet_bbox(rings: Rings, bbox: Bbox) -> bool:
    """Whether a footprint and a box share at least a point."""
    return any(_ring_meets_box(ring, box) for ring in rings for box in boxes_of(bbox))


def _ring_meets_box(ring: Ring, box: Bbox) -> bool:
    """Clip the ring by each side of the box in turn; it meets the box when something is left."""
    west, south, east, north = box
    points: list[tuple[float, float]] = list(ring[:-1])
    for axis, limit, sign in ((0, west, 1.0), (0, east, -1.0), (1, south, 1.0), (1, north, -1.0)):
        points = list(_clipped(points, axis, limit, sign))
        if not points:
            return False
    return True


def _clipped(
    points: Sequence[tuple[float, float]], axis: int, limit: float, sign: float
) -> Iterable[tuple[float, float]]:
    for index, here in enumerate(points):
        before = points[index - 1]
        inside = sign * (here[axis] - limit) >= 0
        if inside != (sign * (before[axis] - limit) >= 0):
            share = (limit - before[axis]) / (here[axis] - before[axis])
            other = before[1 - axis] + share * (here[1 - axis] - before[1 - axis])
            yield (limit, other) if axis == 0 else (other, limit)
        if inside:
            yield here


def _simplified_ring(ring: Ring, tolerance_deg: float) -> Ring:
    if len(ring) <= 5:
        return ring
    # A closed line has no ends, so it is cut at its first point and at the point farthest from that.
    far = max(range(len(ring)), key=lambda index: math.dist(ring[0], ring[index]))
    kept = _kept(ring[: far + 1], tolerance_deg)[:-1] + _kept(ring[far:], tolerance_deg)
    return tuple(kept) if len(kept) >= 4 else ring


def _kept(line: Ring, tolerance_deg: float) -> list[tuple[float, float]]:
    if len(line) < 3:
        return list(line)
    distances = _distances(line)
    worst = max(range(len(distances)), key=distances.__getitem__)
    if distances[worst] <= tolerance_deg:
        return [line[0], line[-1]]
    split = worst + 1
    return _kept(line[: split + 1], tolerance_deg)[:-1] + _kept(line[split:], tolerance_deg)


def _distances(line: Ring) -> list[float]:
    """Of the inner points from the straight line between the ends."""
    (x0, y0), (x1, y1) = line[0], line[-1]
    dx, dy = x1 - x0, y1 - y0
    length = math.hypot(dx, dy)
    if length == 0.0:
        return [math.dist(point, line[0]) for point in line[1:-1]]
    return [abs(dx * (y - y0) - dy * (x - x0)) / length for x, y in line[1:-1]]
