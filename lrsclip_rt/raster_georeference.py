"""Where a scene lies on the Earth: affine transform and CRS to lon/lat footprints.

Footprints are reprojected, pixels never. Rings follow RFC 7946: lon, lat in WGS84, closed,
counter-clockwise, split where they cross the antimeridian.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lrsclip_rt.raster_gdal import gdal_environment, gdal_errors, import_rasterio
from lrsclip_rt.tiles import Window

__all__ = ["EDGE_SEGMENTS", "Affine6", "Bounds", "Georeference", "Ring", "is_known_crs"]

Affine6 = tuple[float, float, float, float, float, float]
Bounds = tuple[float, float, float, float]
Ring = tuple[tuple[float, float], ...]

EDGE_SEGMENTS = 8
"""Segments of each window edge: a straight line in one projection is a curve in another."""

NOMINAL_TOLERANCE = 0.01
"""Scale error below which the projection's own unit is the ground distance (UTM has 0.04 %)."""

# WGS84 ellipsoid: semi-major axis [m] and first eccentricity squared.
_AXIS_M = 6378137.0
_ECCENTRICITY_2 = 6.69437999014e-3


@dataclass(frozen=True, slots=True)
class Georeference:
    """Transform and CRS of a scene.

    Attributes:
        transform: ``(a, b, c, d, e, f)``: x = a col + b row + c, y = d col + e row + f, where
            (col, row) = (0, 0) is the outer corner of the first pixel.
        crs: "EPSG:n" or WKT, or None where the file has a transform but no CRS.
    """

    transform: Affine6
    crs: str | None

    def xy_from_pixels(
        self, cols: NDArray[np.float64], rows: NDArray[np.float64]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """CRS coordinates of pixel corners."""
        a, b, c, d, e, f = self.transform
        return a * cols + b * rows + c, d * cols + e * rows + f

    def lonlat_from_pixels(
        self, cols: NDArray[np.float64], rows: NDArray[np.float64]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]] | None:
        """Longitude and latitude [deg] of pixel corners, or None where they cannot be known."""
        if self.crs is None:
            return None
        x, y = self.xy_from_pixels(np.asarray(cols, np.float64), np.asarray(rows, np.float64))
        lonlat = _lonlat_from_xy(self.crs, x, y)
        if lonlat is None:
            return None
        lon, lat = lonlat
        if not (np.isfinite(lon).all() and np.isfinite(lat).all()):
            return None
        return lon, np.clip(lat, -90.0, 90.0)

    def rings(self, pixels: NDArray[np.float64]) -> tuple[Ring, ...] | None:
        """Reproject a closed ring of (n, 2) col, row corners; two rings where it crosses +-180 degrees."""
        lonlat = self.lonlat_from_pixels(pixels[:, 0], pixels[:, 1])
        if lonlat is None:
            return None
        return _split(_unwrapped(*lonlat))

    def footprint(self, window: Window) -> tuple[Ring, ...] | None:
        """Rings of a window, its edges densified."""
        return self.rings(_outline(window))

    def bounds(self, window: Window) -> Bounds | None:
        """``(W, S, E, N)`` of a window; W > E where it crosses the antimeridian."""
        outline = _outline(window)
        lonlat = self.lonlat_from_pixels(outline[:, 0], outline[:, 1])
        if lonlat is None:
            return None
        return _bounds_of_ring(_unwrapped(*lonlat))

    def places(self, windows: Sequence[Window]) -> list[tuple[Bounds, tuple[Ring, ...]] | None]:
        """``bounds`` and ``footprint`` of each window by one call of PROJ; None where it has no place."""
        if self.crs is None or not windows:
            return [None] * len(windows)
        outlines = np.stack([_outline(window) for window in windows])
        lonlat = self.lonlat_from_pixels(outlines[..., 0].ravel(), outlines[..., 1].ravel())
        if lonlat is None:  # one of them has no place; which, only its own call tells
            return [self.places([window])[0] for window in windows] if len(windows) > 1 else [None]
        lons, lats = (values.reshape(outlines.shape[:2]) for values in lonlat)
        rings = (_unwrapped(lon, lat) for lon, lat in zip(lons, lats, strict=True))
        return [(_bounds_of_ring(ring), _split(ring)) for ring in rings]

    def gsd_m(self, height: int, width: int) -> float | None:
        """Ground distance of a pixel [m] at the scene's centre: the root of its area there."""
        areas = self.pixel_areas_m2(np.array([width / 2.0]), np.array([height / 2.0]))
        return None if areas is None else math.sqrt(areas[0])

    def pixel_areas_m2(
        self, cols: NDArray[np.float64], rows: NDArray[np.float64]
    ) -> NDArray[np.float64] | None:
        """Area on the ground [m^2] of a pixel at each place, or None where it cannot be known.

        Projections whose scale is true to 1 % keep their nominal pixel; others (degrees, Mercator away
        from the equator) are measured on the ellipsoid.
        """
        size = len(cols)
        all_cols = np.concatenate([cols, cols + 1, cols])
        all_rows = np.concatenate([rows, rows, rows + 1])
        lonlat = self.lonlat_from_pixels(all_cols, all_rows)
        if self.crs is None or lonlat is None:
            return None
        lon, lat = (values.reshape(3, size) for values in lonlat)
        east = ((lon[1:] - lon[0] + 180.0) % 360.0 - 180.0) * _metres_per_degree_lon(lat[0])
        north = (lat[1:] - lat[0]) * _metres_per_degree_lat(lat[0])
        measured = np.abs(east[0] * north[1] - east[1] * north[0])
        unit_m = _metres_per_unit(self.crs)
        if unit_m is None:
            return np.asarray(measured)
        a, b, _, d, e, _ = self.transform
        nominal = abs(a * e - b * d) * unit_m**2
        return np.where(np.abs(measured - nominal) <= 2 * NOMINAL_TOLERANCE * nominal, nominal, measured)


def is_known_crs(crs: str) -> bool:
    """Whether PROJ knows a CRS."""
    rasterio = import_rasterio()
    unknown: tuple[type[Exception], ...] = (*gdal_errors(), ValueError)
    try:
        with gdal_environment():
            return bool(rasterio.crs.CRS.from_user_input(crs))
    except unknown:
        return False


def _lonlat_from_xy(
    crs: str, x: NDArray[np.float64], y: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]] | None:
    if crs == "EPSG:4326":  # PROJ would only copy it, at some cost a window
        return x, y
    import_rasterio()
    from rasterio.warp import transform

    unplaceable: tuple[type[Exception], ...] = (*gdal_errors(), ValueError)
    try:
        with gdal_environment():
            lon, lat = transform(crs, "EPSG:4326", x.ravel().tolist(), y.ravel().tolist())
    except unplaceable:
        return None  # a local CRS has no place on the Earth, nor have coordinates off the globe
    return np.array(lon).reshape(x.shape), np.array(lat).reshape(y.shape)


def _metres_per_unit(crs: str) -> float | None:
    """Metres in one unit of a projected CRS; None for degrees."""
    rasterio = import_rasterio()
    parsed: Any = rasterio.crs.CRS.from_user_input(crs)
    if not parsed.is_projected:
        return None
    return float(parsed.linear_units_factor[1])


def _metres_per_degree_lat(lat_deg: NDArray[np.float64]) -> NDArray[np.float64]:
    flattening = 1 - _ECCENTRICITY_2 * np.sin(np.radians(lat_deg)) ** 2
    return np.radians(_AXIS_M * (1 - _ECCENTRICITY_2) / flattening**1.5)


def _metres_per_degree_lon(lat_deg: NDArray[np.float64]) -> NDArray[np.float64]:
    flattening = 1 - _ECCENTRICITY_2 * np.sin(np.radians(lat_deg)) ** 2
    return np.radians(_AXIS_M * np.cos(np.radians(lat_deg)) / np.sqrt(flattening))


def _outline(window: Window) -> NDArray[np.float64]:
    """Closed, densified outline of a window: (n, 2) float64 col, row."""
    left, top = window.col_off, window.row_off
    right, bottom = left + window.width, top + window.height
    corners = np.array([[left, top], [left, bottom], [right, bottom], [right, top], [left, top]], np.float64)
    steps = np.linspace(0.0, 1.0, EDGE_SEGMENTS, endpoint=False)[:, None]
    edges = [start + steps * (end - start) for start, end in itertools.pairwise(corners)]
    return np.concatenate([*edges, corners[-1:]])


def _unwrapped(lon: NDArray[np.float64], lat: NDArray[np.float64]) -> NDArray[np.float64]:
    """(n, 2) closed ring without jumps of 360 degrees, its west end in [-180, 180).

    A ring around a pole does not close in longitude; it is led along the pole.
    """
    if np.ptp(lon) > 180.0:
        lon = np.unwrap(lon, period=360.0)
    ring = np.column_stack([lon, lat])
    turn = lon[-1] - lon[0]
    if abs(turn) > 180.0:
        pole = 90.0 if lat.mean() > 0 else -90.0
        ring = np.concatenate([ring, [[lon[-1], pole], [lon[0], pole], ring[0]]])
    else:
        ring[-1] = ring[0]
    ring[:, 0] -= 360.0 * math.floor((ring[:, 0].min() + 180.0) / 360.0)
    return ring


def _bounds_of_ring(ring: NDArray[np.float64]) -> Bounds:
    """``(W, S, E, N)`` of an unwrapped ring."""
    west, south = ring.min(axis=0)
    east, north = ring.max(axis=0)
    if east - west >= 360.0 - 1e-9:
        return -180.0, float(south), 180.0, float(north)
    return float(west), float(south), float(east if east <= 180.0 else east - 360.0), float(north)


def _split(ring: NDArray[np.float64]) -> tuple[Ring, ...]:
    """Cut an unwrapped ring at 180 degrees."""
    if ring[:, 0].max() <= 180.0:
        return (_closed_ring(ring),)
    east_of_cut = _clipped(ring, keep_west=False)
    east_of_cut[:, 0] -= 360.0
    return tuple(
        _closed_ring(part) for part in (_clipped(ring, keep_west=True), east_of_cut) if len(part) >= 4
    )


def _clipped(ring: NDArray[np.float64], *, keep_west: bool) -> NDArray[np.float64]:
    """The part of a closed ring on one side of 180 degrees (Sutherland-Hodgman)."""
    kept: list[tuple[float, float]] = []
    for (lon0, lat0), (lon1, lat1) in itertools.pairwise(ring):
        inside0 = (lon0 <= 180.0) == keep_west or lon0 == 180.0
        inside1 = (lon1 <= 180.0) == keep_west or lon1 == 180.0
        if inside0:
            kept.append((lon0, lat0))
        if inside0 != inside1 and 180.0 not in (lon0, lon1):
            kept.append((180.0, lat0 + (lat1 - lat0) * (180.0 - lon0) / (lon1 - lon0)))
    return np.array([*kept, kept[0]]) if kept else np.empty((0, 2))


def _closed_ring(ring: NDArray[np.float64]) -> Ring:
    """Counter-clockwise tuple form."""
    lon, lat = ring[:, 0], ring[:, 1]
    doubled_area = float(np.sum(lon[:-1] * lat[1:] - lon[1:] * lat[:-1]))
    ordered = ring if doubled_area >= 0 else ring[::-1]
    return tuple((x, y) for x, y in ordered.tolist())
