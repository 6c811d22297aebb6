"""Areas of interest from files: GeoJSON in WGS84, GeoPackage in any CRS."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from lrsclip_rt.archive.areas.area import Area, Polygon
from lrsclip_rt.archive.areas.projection import lonlat_polygons
from lrsclip_rt.archive.footprints import Ring
from lrsclip_rt.errors import InputError

__all__ = ["MOST_BYTES", "area_from_file", "area_from_geojson"]

MOST_BYTES = 64 << 20
"""A larger file is refused before it is read."""

_LONLAT = frozenset({"OGC:CRS84", "EPSG:4326"})
_DEEPEST = 4
"""Geometry collections inside each other."""


def area_from_file(path: str | Path) -> Area:
    """Read polygons from ``.geojson``, ``.json`` or ``.gpkg``.

    Raises:
        InputError: If the file cannot be read, or holds anything but valid polygons.
        DependencyError: If another CRS than WGS84 needs rasterio and it is not installed.
    """
    file = Path(path)
    try:
        size = file.stat().st_size
        if size > MOST_BYTES:
            raise InputError(
                f"{file} has {size} bytes, expected {MOST_BYTES} or fewer; simplify the polygons"
            )
        with file.open("rb") as stream:
            head = stream.read(16)
        if head == b"SQLite format 3\x00":
            from lrsclip_rt.archive.areas.geopackage import polygons_from_geopackage

            return Area(polygons_from_geopackage(file), name=str(file))
        text = file.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise InputError(f"{file} cannot be read: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise InputError(
            f"{file} is neither GeoJSON in UTF-8 nor a GeoPackage. Convert it: ogr2ogr area.gpkg {file.name}"
        ) from error
    try:
        record = json.loads(text, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{file} is no valid JSON ({error}); expected GeoJSON with polygons") from error
    return area_from_geojson(record, name=str(file))


def area_from_geojson(record: Mapping[str, Any], *, name: str = "the area") -> Area:
    """Polygons of a GeoJSON geometry, feature or feature collection (RFC 7946).

    A ``crs`` member, which RFC 7946 has abolished, is honoured where it names an EPSG code.

    Args:
        record: The parsed object.
        name: What messages call it.

    Raises:
        InputError: If it is no GeoJSON, or holds anything but valid polygons.
        DependencyError: If another CRS than WGS84 needs rasterio and it is not installed.
    """
    if not isinstance(record, Mapping):
        raise InputError(f"{name} is a {type(record).__name__}, expected a GeoJSON object")
    crs = _named_crs(record["crs"], name) if record.get("crs") is not None else None
    polygons = tuple(polygon for part in _geometries(record, name, 0) for polygon in _polygons(part, name))
    if crs is not None:
        polygons = lonlat_polygons(polygons, crs, name)
    return Area(polygons, name=name)


def _geometries(record: Any, name: str, depth: int) -> Iterator[Mapping[str, Any]]:
    """The polygons and multipolygons of any GeoJSON object."""
    kind = record.get("type") if isinstance(record, Mapping) else None
    if kind in ("Polygon", "MultiPolygon"):
        yield record
    elif kind == "Feature":
        if record.get("geometry") is not None:
            yield from _geometries(record["geometry"], name, depth + 1)
    elif kind in ("FeatureCollection", "GeometryCollection") and depth <= _DEEPEST:
        member = "features" if kind == "FeatureCollection" else "geometries"
        parts = record.get(member)
        if not isinstance(parts, list):
            raise InputError(f"{name}: {kind} has no list {member!r}, found {parts!r:.60}")
        for part in parts:
            yield from _geometries(part, name, depth + 1)
    else:
        raise InputError(f"{name} holds {kind!r:.60}, expected Polygon or MultiPolygon")


def _polygons(geometry: Mapping[str, Any], name: str) -> Iterator[Polygon]:
    coordinates = geometry.get("coordinates")
    polygons = [coordinates] if geometry["type"] == "Polygon" else coordinates
    if not isinstance(polygons, list):
        raise InputError(f"{name}: coordinates of a {geometry['type']} must be a list, got {polygons!r:.60}")
    for rings in polygons:
        if not isinstance(rings, list) or not rings or not all(isinstance(ring, list) for ring in rings):
            raise InputError(f"{name}: a polygon must be a list of rings, got {rings!r:.60}")
        yield tuple(_ring(ring, name) for ring in rings)


def _ring(ring: list[Any], name: str) -> Ring:
    points = []
    for point in ring:
        if not isinstance(point, list) or len(point) < 2 or not all(map(_is_finite, point[:2])):
            raise InputError(f"{name}: a point must be [longitude, latitude], got {point!r:.60}")
        points.append((float(point[0]), float(point[1])))
    return tuple(points)


def _is_finite(value: Any) -> bool:
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return is_number and abs(value) < 1e300 and math.isfinite(value)


def _named_crs(crs: Any, name: str) -> str | None:
    """What a GeoJSON 2008 ``crs`` member names, EPSG:n; None for longitude and latitude on WGS84."""
    properties = crs.get("properties") if isinstance(crs, Mapping) else None
    text = properties.get("name") if isinstance(properties, Mapping) else None
    if not isinstance(text, str) or crs.get("type") != "name":
        raise InputError(
            f"{name} has the crs {crs!r:.80}, expected one by name such as urn:ogc:def:crs:EPSG::32631. "
            "Write it in WGS84, or as a GeoPackage"
        )
    parts = [part for part in text.upper().removeprefix("URN:OGC:DEF:CRS:").split(":") if part]
    short = f"{parts[0]}:{parts[-1]}" if len(parts) > 1 else text
    if short in _LONLAT:
        return None
    if parts[0] != "EPSG" or not parts[-1].isdecimal():
        raise InputError(f"{name} has the crs {text!r:.80}, expected OGC:CRS84 or EPSG:n. Write it in WGS84")
    return short


def _no_constant(constant: str) -> float:
    raise ValueError(f"{constant} is not a JSON number")
