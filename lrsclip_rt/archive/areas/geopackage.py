"""Polygons of a GeoPackage (OGC 12-128): SQLite with geometries as WKB behind a short header."""

from __future__ import annotations

import sqlite3
import struct
from collections.abc import Iterator
from pathlib import Path

from lrsclip_rt.archive.areas.area import Polygon
from lrsclip_rt.archive.areas.projection import lonlat_polygons
from lrsclip_rt.archive.footprints import Ring
from lrsclip_rt.errors import InputError

__all__ = ["polygons_from_geopackage"]

_ENVELOPE_BYTES = {0: 0, 1: 32, 2: 48, 3: 48, 4: 64}
_LONLAT = frozenset({"EPSG:4326", "OGC:CRS84"})
_POLYGON, _MULTIPOLYGON, _COLLECTION = 3, 6, 7
_DEEPEST = 4
_MOST_BLOB_BYTES = 64 << 20
_MOST_STEPS, _STEPS_AT_ONCE = 50_000_000, 10_000
"""Instructions of SQLite's machine: seconds; a layer of a million polygons takes less than a tenth."""


class _Steps:
    """Interrupts a statement that takes more steps."""

    def __init__(self, most: int) -> None:
        self._left = most

    def __call__(self) -> bool:
        self._left -= _STEPS_AT_ONCE
        return self._left < 0


def polygons_from_geopackage(path: Path) -> tuple[Polygon, ...]:
    """All polygons of the one layer of a GeoPackage, in longitude and latitude.

    Raises:
        InputError: If it is no GeoPackage, has not exactly one layer of features, or other geometries.
        DependencyError: If another CRS than WGS84 needs rasterio and it is not installed.
    """
    try:
        database = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro&immutable=1", uri=True)
        try:
            # A layer may be a view, and a forged one never ends.
            database.set_progress_handler(_Steps(_MOST_STEPS), _STEPS_AT_ONCE)
            table, column, crs = _layer(database, path)
            blobs = list(_blobs(database, table, column, path))
        finally:
            database.close()
    except (sqlite3.Error, UnicodeError, ValueError, TypeError, AttributeError, MemoryError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path} is no readable GeoPackage ({error})") from error
    try:
        polygons = tuple(polygon for blob in blobs for polygon in _polygons_of_blob(blob, path))
    except (struct.error, TypeError, KeyError) as error:
        raise InputError(f"{path} has a geometry that is cut off or no GeoPackage geometry") from error
    return polygons if crs in _LONLAT else lonlat_polygons(polygons, crs, str(path))


def _blobs(database: sqlite3.Connection, table: str, column: str, path: Path) -> Iterator[bytes]:
    """The geometries of a layer, as long as they are of a size that a file of them can have."""
    held = 0
    for (blob,) in database.execute(f"SELECT {_quoted(column)} FROM {_quoted(table)}"):
        if blob is None:
            continue
        if not isinstance(blob, bytes):
            raise InputError(f"{path} has a geometry that is a {type(blob).__name__}, expected a BLOB")
        held += len(blob) + 64
        if held > _MOST_BLOB_BYTES:
            raise InputError(
                f"{path} has geometries of more than {_MOST_BLOB_BYTES} bytes; simplify the polygons"
            )
        yield blob


def _layer(database: sqlite3.Connection, path: Path) -> tuple[str, str, str]:
    """Table, geometry column and CRS of the only layer of features."""
    layers = database.execute(
        "SELECT g.table_name, g.column_name, s.organization, s.organization_coordsys_id, s.definition"
        " FROM gpkg_geometry_columns g LEFT JOIN gpkg_spatial_ref_sys s USING (srs_id)"
        " ORDER BY g.table_name"
    ).fetchall()
    if len(layers) != 1:
        names = ", ".join(str(layer[0]) for layer in layers) or "none"
        raise InputError(
            f"{path} has {len(layers)} layers of features ({names}), expected one. "
            f"Extract it: ogr2ogr area.gpkg {path.name} LAYER"
        )
    table, column, organization, code, definition = layers[0]
    if not isinstance(organization, str) or organization.upper() in ("NONE", "UNDEFINED"):
        raise InputError(f"{path} does not say its CRS; assign one, or write it in WGS84")
    if organization.upper() in ("EPSG", "OGC"):
        return table, column, f"{organization.upper()}:{'CRS84' if organization.upper() == 'OGC' else code}"
    return table, column, str(definition)


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _polygons_of_blob(blob: bytes, path: Path) -> list[Polygon]:
    magic, flags = blob[:2], blob[3] if len(blob) > 3 else 0
    if magic != b"GP" or flags & 0x20:
        raise InputError(
            f"{path} has a geometry that begins with {blob[:4].hex()}, expected GP and a version"
        )
    if flags & 0x10:
        return []  # an empty geometry
    return list(_Wkb(blob, 8 + _ENVELOPE_BYTES[(flags >> 1) & 7], path).polygons(0))


class _Wkb:
    """Well-known binary, read from front to back; heights and measures are skipped."""

    def __init__(self, content: bytes, offset: int, path: Path) -> None:
        self._content = content
        self._offset = offset
        self._path = path

    def polygons(self, depth: int) -> Iterator[Polygon]:
        order = "<" if self._take("<B") else ">"
        code = self._take(f"{order}I")
        kind, dimensions = (
            code % 1000,
            2 + (code // 1000 == 1) + (code // 1000 == 2) + 2 * (code // 1000 == 3),
        )
        if kind not in (_POLYGON, _MULTIPOLYGON, _COLLECTION) or code >= 4000 or depth > _DEEPEST:
            raise InputError(
                f"{self._path} has a geometry of WKB type {code}, expected polygons with straight edges"
            )
        count = self._take(f"{order}I")
        if kind == _POLYGON:
            rings = tuple(self._ring(order, dimensions) for _ in range(count))
            if rings:
                yield rings
        else:
            for _ in range(count):
                yield from self.polygons(depth + 1)

    def _ring(self, order: str, dimensions: int) -> Ring:
        points = self._take(f"{order}I")
        # A length that nobody wrote is refused here, before anything of that size is made.
        if points * dimensions * 8 > len(self._content) - self._offset:
            raise struct.error("cut off")
        flat = struct.unpack_from(f"{order}{points * dimensions}d", self._content, self._offset)
        self._offset += 8 * len(flat)
        return tuple(zip(flat[::dimensions], flat[1::dimensions], strict=True))

    def _take(self, form: str) -> int:
        (value,) = struct.unpack_from(form, self._content, self._offset)
        self._offset += struct.calcsize(form)
        return int(value)
