"""Footprints from WKB that others wrote: both byte orders, ISO and EWKB, with heights and holes left out."""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass

from lrsclip_rt.archive.footprints import Bbox, Ring, Rings
from lrsclip_rt.errors import InputError

__all__ = ["bbox_from_rings", "place_from_wkb"]

_POINT, _POLYGON, _MULTIPOLYGON = 1, 3, 6
_Z, _M, _SRID = 0x80000000, 0x40000000, 0x20000000
_WGS84 = 4326
_MOST_BYTES = 1 << 20


@dataclass(slots=True)
class _Cursor:
    content: bytes
    offset: int = 0
    order: str = "<"

    def take(self, layout: str) -> tuple[float, ...]:
        values = struct.unpack_from(self.order + layout, self.content, self.offset)
        self.offset += struct.calcsize("<" + layout)
        return values

    def count(self, least_bytes: int) -> int:
        """A number of parts of ``least_bytes`` or more; what cannot fit is refused before it is read."""
        (count,) = self.take("I")
        if count * least_bytes > len(self.content) - self.offset:
            raise InputError(
                f"a geometry of {len(self.content)} bytes counts {count:g} parts, which do not fit"
            )
        return int(count)


def place_from_wkb(wkb: bytes) -> tuple[Bbox | None, Rings]:
    """The box and the outer rings of a Point, Polygon or MultiPolygon in lon, lat [deg].

    A Point has a box without area and no rings; an empty geometry has neither.

    Raises:
        InputError: If it is another geometry, cut off, or lies outside of the Earth.

    Example:
        >>> place_from_wkb(bytes.fromhex("00000000013ff00000000000004000000000000000"))
        ((1.0, 2.0, 1.0, 2.0), ())
    """
    if len(wkb) > _MOST_BYTES:
        raise InputError(f"a footprint of {len(wkb)} bytes; expected at most {_MOST_BYTES}")
    cursor = _Cursor(wkb)
    try:
        kind, dims = _header(cursor)
        if kind == _POINT:
            lon, lat, *_ = cursor.take(f"{dims}d")
            if math.isnan(lon) and math.isnan(lat):
                return None, ()
            lon, lat = _checked((lon, lat))
            return (lon, lat, lon, lat), ()
        if kind == _POLYGON:
            rings = _outer_ring(cursor, dims)
        elif kind == _MULTIPOLYGON:
            rings = _multipolygon(cursor)
        else:
            raise InputError(f"a geometry of WKB type {kind}; expected a Point, Polygon or MultiPolygon")
    except struct.error as error:
        raise InputError(f"a geometry of {len(wkb)} bytes is cut off") from error
    return (bbox_from_rings(rings) if rings else None), rings


def bbox_from_rings(rings: Rings) -> Bbox:
    """The box of outer rings; west > east where one ring ends at 180 and another begins at -180 degrees.

    Example:
        >>> halves = ((179, 0), (180, 0), (180, 1), (179, 0)), ((-180, 0), (-179, 0), (-180, 1), (-180, 0))
        >>> bbox_from_rings(halves)
        (179, 0, -179, 1)
    """
    spans = [(min(lon for lon, _ in ring), max(lon for lon, _ in ring)) for ring in rings]
    south = min(lat for ring in rings for _, lat in ring)
    north = max(lat for ring in rings for _, lat in ring)
    before = [west for west, east in spans if east == 180.0 and west > -180.0]
    behind = [east for west, east in spans if west == -180.0 and east < 180.0]
    if before and behind and len(before) + len(behind) == len(spans):
        west, east = min(before), max(behind)
        if west > east:
            return west, south, east, north
    return min(west for west, _ in spans), south, max(east for _, east in spans), north


def _header(cursor: _Cursor) -> tuple[int, int]:
    """Geometry type and numbers a point; sets the byte order."""
    if cursor.offset >= len(cursor.content) or cursor.content[cursor.offset] not in (0, 1):
        raise InputError(f"{cursor.content[:5].hex() or 'nothing'} is no WKB")
    cursor.order = "<" if cursor.content[cursor.offset] else ">"
    cursor.offset += 1
    code = int(cursor.take("I")[0])
    if code & _SRID and int(cursor.take("I")[0]) != _WGS84:
        raise InputError("a geometry in another CRS than EPSG:4326")
    dims = 2 + bool(code & _Z) + bool(code & _M)
    kind = code & ~(_Z | _M | _SRID)
    iso, kind = divmod(kind, 1000)
    return kind, dims + (0, 1, 1, 2)[iso] if iso < 4 else dims


def _outer_ring(cursor: _Cursor, dims: int) -> Rings:
    rings: list[Ring] = []
    for _ in range(cursor.count(4)):
        flat = cursor.take(f"{dims * cursor.count(8 * dims)}d")
        rings.append(tuple(zip(flat[0::dims], flat[1::dims], strict=True)))
    if not rings or not rings[0]:
        return ()
    outer = rings[0]
    if len(outer) < 4 or outer[0] != outer[-1]:
        raise InputError(f"a ring of {len(outer)} points; expected at least 4, the last equal to the first")
    return (tuple(_checked(point) for point in outer),)


def _multipolygon(cursor: _Cursor) -> Rings:
    order = cursor.order
    rings: list[Ring] = []
    for _ in range(cursor.count(9)):
        kind, dims = _header(cursor)
        if kind != _POLYGON:
            raise InputError(f"a MultiPolygon with a part of WKB type {kind}")
        rings += _outer_ring(cursor, dims)
        cursor.order = order
    return tuple(rings)


def _checked(point: tuple[float, float]) -> tuple[float, float]:
    lon, lat = point
    if not (-180.0 <= lon <= 180.0 and -90.0 <= lat <= 90.0):
        raise InputError(f"the point ({lon:g}, {lat:g}) is no longitude and latitude [deg]")
    return lon, lat
