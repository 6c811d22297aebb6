"""Georeference and time of an open rasterio dataset."""

from __future__ import annotations

from typing import Any

from lrsclip_rt.raster_gdal import import_rasterio
from lrsclip_rt.raster_georeference import Affine6, Georeference
from lrsclip_rt.raster_time import datetime_from_name, datetime_from_tags, datetime_from_tiff_tag

__all__ = ["crs_name", "datetime_of_dataset", "georeference_of_dataset"]


def georeference_of_dataset(dataset: Any) -> Georeference | None:
    """Transform and CRS, or None where the file has no transform.

    Ground control points become their least-squares affine transform.
    """
    rasterio = import_rasterio()
    points, points_crs = dataset.gcps
    if dataset.transform.is_identity and len(points) >= 3:
        return Georeference(_six(rasterio.transform.from_gcps(points)), crs_name(points_crs))
    if dataset.transform.is_identity and dataset.crs is None:
        return None
    return Georeference(_six(dataset.transform), crs_name(dataset.crs))


def crs_name(crs: Any) -> str | None:
    """Name a CRS "EPSG:n" where it has such a number, else by its WKT; None without a CRS."""
    if not crs:
        return None
    number = crs.to_epsg()
    return f"EPSG:{number}" if number is not None else str(crs.to_wkt())


def datetime_of_dataset(dataset: Any, name: str) -> str | None:
    """Time of acquisition: acquisition tags, then the file name, then the TIFF tag DateTime."""
    tags = {**dataset.tags(), **dataset.tags(ns="IMAGERY")}
    return (
        datetime_from_tags(tags)
        or datetime_from_name(name)
        or datetime_from_tiff_tag(tags.get("TIFFTAG_DATETIME", ""))
    )


def _six(transform: Any) -> Affine6:
    a, b, c, d, e, f = (float(value) for value in tuple(transform)[:6])
    return a, b, c, d, e, f
