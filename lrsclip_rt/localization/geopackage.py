"""Regions as a GeoPackage in the scene's own CRS, written by GDAL through pyogrio."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from lrsclip_rt.errors import DependencyError, InputError
from lrsclip_rt.localization.geojson import region_properties
from lrsclip_rt.localization.heatmap import Heatmap, Polygon
from lrsclip_rt.raster_georeference import Affine6

__all__ = ["import_pyogrio", "write_geopackage"]

LAYER = "regions"

NUMBERS = {"rank": "int32", "score": "float64", "z": "float64", "area_m2": "float64", "area_px": "float64"}
"""Columns of numbers; a missing one is not a number."""

WORDS = ("query", "source", "datetime", "model_id", "mode", "present")

_LITTLE_ENDIAN, _POLYGON = 1, 3


def import_pyogrio() -> Any:
    """Import pyogrio.

    Raises:
        DependencyError: If it is not installed.
    """
    try:
        import_module("pyogrio.raw")
        return import_module("pyogrio")
    except ImportError as error:
        raise DependencyError.of("pyogrio", extra="geo") from error


def write_geopackage(path: Path, heatmap: Heatmap, pixel_transform: Affine6 | None) -> None:
    """Write the regions of one text as polygons of the layer ``regions``.

    Args:
        path: A file that does not exist yet.
        heatmap: The map.
        pixel_transform: From the scene's pixel corners to its CRS; None leaves columns and rows in pixels,
            without a CRS, the rows negated so that north is up.

    Raises:
        DependencyError: If pyogrio is not installed.
        InputError: If the file cannot be written.
    """
    pyogrio = import_pyogrio()
    transform = (1.0, 0.0, 0.0, 0.0, -1.0, 0.0) if pixel_transform is None else pixel_transform
    rows = [region_properties(region, heatmap) for region in heatmap.regions]
    columns: dict[str, Any] = {
        name: np.array([np.nan if row[name] is None else row[name] for row in rows], dtype)
        for name, dtype in NUMBERS.items()
    }
    columns |= {name: np.array([_word(row[name]) for row in rows], dtype=object) for name in WORDS}
    shapes = [polygon_wkb(_placed(region.polygon, transform)) for region in heatmap.regions]
    try:
        pyogrio.raw.write(
            path,
            geometry=np.array(shapes, dtype=object),
            field_data=list(columns.values()),
            fields=np.array(list(columns), dtype=object),
            geometry_type="Polygon",
            crs=heatmap.crs if pixel_transform is not None else None,
            driver="GPKG",
            layer=LAYER,
        )
    except (pyogrio.errors.DataSourceError, pyogrio.errors.DataLayerError) as error:
        raise InputError(
            f"{path} cannot be written ({error}); check the folder and the free space"
        ) from error


def polygon_wkb(polygon: Sequence[Sequence[tuple[float, float]]]) -> bytes:
    """A polygon as little-endian WKB.

    Example:
        >>> len(polygon_wkb([[(0, 0), (1, 0), (0, 1), (0, 0)]])), polygon_wkb([])[:5].hex()
        (77, '0103000000')
    """
    parts = [struct.pack("<BII", _LITTLE_ENDIAN, _POLYGON, len(polygon))]
    for ring in polygon:
        parts.append(struct.pack("<I", len(ring)))
        parts.append(np.array(ring, dtype="<f8").tobytes())
    return b"".join(parts)


def _placed(polygon: Polygon, transform: Affine6) -> list[list[tuple[float, float]]]:
    a, b, c, d, e, f = transform
    return [[(a * x + b * y + c, d * x + e * y + f) for x, y in ring] for ring in polygon]


def _word(value: Any) -> str | None:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return None if value is None else str(value)
