"""Polygons of any CRS in longitude and latitude, split at the antimeridian."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from lrsclip_rt.archive.areas.area import MOST_POINTS, Polygon
from lrsclip_rt.archive.footprints import Ring
from lrsclip_rt.errors import InputError

__all__ = ["PIECES", "lonlat_polygons"]

PIECES = 64
"""Edges are cut into pieces of the extent over this: a straight line of one CRS is a curve in another."""


def lonlat_polygons(polygons: Sequence[Polygon], crs: str, name: str) -> tuple[Polygon, ...]:
    """Reproject rings, their edges densified, and split what crosses the antimeridian.

    Args:
        polygons: Rings in x, y of ``crs``.
        crs: "EPSG:n" or WKT.
        name: What messages call them.

    Raises:
        InputError: If the CRS is unknown, or a point has no longitude and latitude.
        DependencyError: If rasterio is not installed.
    """
    _refuse_too_many(sum(len(ring) for polygon in polygons for ring in polygon), name)
    extents = [np.ptp(np.asarray(ring), axis=0).max() for polygon in polygons for ring in polygon if ring]
    piece = float(max(extents, default=0.0)) / PIECES
    dense = [[_densified(ring, piece, name) for ring in polygon] for polygon in polygons]
    _refuse_too_many(sum(len(ring) for polygon in dense for ring in polygon), name)
    return tuple(
        part
        for polygon in dense
        for part in _split([_unwrapped(_lonlat(ring, crs, name), name) for ring in polygon])
    )


def _refuse_too_many(points: int, name: str) -> None:
    if points > MOST_POINTS:
        raise InputError(f"{name} has {points} points, expected {MOST_POINTS} or fewer; simplify it")


def _densified(ring: Ring, piece: float, name: str) -> NDArray[np.float64]:
    points = np.asarray(ring, np.float64)
    if len(points) < 4 or not np.isfinite(points).all():
        raise InputError(f"{name} has a ring of {len(points)} points, expected 4 or more finite ones")
    ways = np.diff(points, axis=0)
    steps = np.maximum(1, np.ceil(np.hypot(*ways.T) / piece if piece > 0 else 1)).astype(np.int64)
    edge = np.repeat(np.arange(len(ways)), steps)
    share = (np.arange(len(edge)) - np.repeat(np.cumsum(steps) - steps, steps)) / steps[edge]
    return np.vstack([points[edge] + share[:, None] * ways[edge], points[-1:]])


def _lonlat(points: NDArray[np.float64], crs: str, name: str) -> NDArray[np.float64]:
    """(n, 2) longitude and latitude [deg]."""
    from lrsclip_rt.raster_gdal import gdal_environment, gdal_errors, import_rasterio

    import_rasterio()
    from rasterio.warp import transform

    said = f"{name} is in {crs.splitlines()[0][:60]}"
    failures: tuple[type[Exception], ...] = (*gdal_errors(), ValueError)
    try:
        with gdal_environment():
            lon, lat = transform(crs, "EPSG:4326", points[:, 0].tolist(), points[:, 1].tolist())
    except failures as error:
        raise InputError(f"{said}, which cannot be turned into longitude and latitude: {error}") from error
    found = np.column_stack([lon, lat])
    if not np.isfinite(found).all():
        raise InputError(f"{said} and has points outside of where that is defined; write it in WGS84")
    return found


def _unwrapped(ring: NDArray[np.float64], name: str) -> NDArray[np.float64]:
    """A ring without jumps of 360 degrees."""
    lon = np.unwrap(ring[:, 0], period=360.0)
    if abs(lon[-1] - lon[0]) > 180.0:
        raise InputError(f"{name} encloses a pole; write it in WGS84, led along the pole (RFC 7946)")
    return np.column_stack([lon, np.clip(ring[:, 1], -90.0, 90.0)])


def _split(rings: list[NDArray[np.float64]]) -> list[Polygon]:
    """Cut a polygon at odd multiples of 180 degrees, each part moved into [-180, 180]."""
    for ring in rings[1:]:  # each ring was unwrapped from its own first point; the outer one leads
        ring[:, 0] += 360.0 * round((rings[0][:, 0].mean() - ring[:, 0].mean()) / 360.0)
    lon = np.concatenate(rings)[:, 0]
    first = math.floor((lon.min() + 180.0) / 360.0)
    last = math.ceil((lon.max() + 180.0) / 360.0) - 1
    parts = []
    for turn in range(first, max(first, last) + 1):
        west, east = 360.0 * turn - 180.0, 360.0 * turn + 180.0
        kept = [_kept(_kept(ring, west, keep_east=True), east, keep_east=False) for ring in rings]
        part = tuple(_closed(ring, 360.0 * turn) for ring in kept if len(ring) >= 3)
        if part:
            parts.append(part)
    return parts


def _kept(ring: NDArray[np.float64], limit: float, *, keep_east: bool) -> NDArray[np.float64]:
    """The part of a ring on one side of a meridian (Sutherland-Hodgman), open."""
    points = ring[:-1] if len(ring) > 1 and (ring[0] == ring[-1]).all() else ring
    inside = points[:, 0] >= limit if keep_east else points[:, 0] <= limit
    if inside.all():
        return points
    found: list[tuple[float, float]] = []
    for index in range(len(points)):
        before, here = points[index - 1], points[index]
        if inside[index] != inside[index - 1]:
            share = (limit - before[0]) / (here[0] - before[0])
            found.append((limit, float(before[1] + share * (here[1] - before[1]))))
        if inside[index]:
            found.append((float(here[0]), float(here[1])))
    return np.array(found).reshape(-1, 2)


def _closed(ring: NDArray[np.float64], turn_deg: float) -> Ring:
    points = [(min(180.0, max(-180.0, lon - turn_deg)), lat) for lon, lat in ring.tolist()]
    return (*points, points[0])
