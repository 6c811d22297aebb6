"""Regions as GeoJSON: WGS84 where the scene has a place on the Earth, else pixels, and it says so."""

from __future__ import annotations

from typing import Any

from lrsclip_rt.localization.heatmap import Heatmap, Polygon, Region

__all__ = ["feature_collection", "presence_record", "region_properties", "region_row"]

PIXELS = "pixels"
WGS84 = "WGS84"

_PIXEL_NOTE = "pixels of the source image: column, row, rows counted downwards; not longitude and latitude"


def feature_collection(heatmap: Heatmap) -> dict[str, Any]:
    """The regions of one text as a GeoJSON FeatureCollection (RFC 7946), best first."""
    collection: dict[str, Any] = {
        "type": "FeatureCollection",
        "query": heatmap.text,
        "source": heatmap.source,
        "coordinates": coordinate_system(heatmap),
        **presence_record(heatmap),
        "features": [_feature(region, heatmap) for region in heatmap.regions],
    }
    if collection["coordinates"] == PIXELS:
        collection["note"] = _PIXEL_NOTE
    return collection


def coordinate_system(heatmap: Heatmap) -> str:
    """Tell "WGS84" where pixels have a longitude and latitude, else "pixels"."""
    return WGS84 if heatmap.placed else PIXELS


def presence_record(heatmap: Heatmap) -> dict[str, Any]:
    """Whether the scene shows the text at all, and by what that was judged."""
    presence = heatmap.presence
    if presence is None:
        return {"presence": None, "present": None, "presence_bar": None, "presence_by": None}
    return {
        "presence": round(presence.score, 6),
        "present": presence.present,
        "presence_bar": round(presence.bar, 6),
        "presence_by": "background",
    }


def region_properties(region: Region, heatmap: Heatmap) -> dict[str, Any]:
    """What a file says of a region beside its outline."""
    return {
        **region_row(region),
        "query": heatmap.text,
        "source": heatmap.source,
        "datetime": heatmap.datetime,
        "model_id": heatmap.model_id,
        "mode": heatmap.mode,
        "present": presence_record(heatmap)["present"],
    }


def region_row(region: Region) -> dict[str, Any]:
    """What every output says of a region, in the order of the table's columns."""
    return {
        "rank": region.rank,
        "score": round(region.score, 6),
        "z": round(region.z, 3),
        "window": region.window.as_list(),
        "peak": [round(value, 1) for value in region.peak],
        "lonlat": None if region.lonlat is None else [round(value, 7) for value in region.lonlat],
        "area_m2": None if region.area_m2 is None else round(region.area_m2, 1),
        "area_px": round(region.area_px, 1),
    }


def _feature(region: Region, heatmap: Heatmap) -> dict[str, Any]:
    return {
        "type": "Feature",
        "geometry": _geometry(region),
        "properties": {
            **region_properties(region, heatmap),
            "coordinates": WGS84 if region.polygons_lonlat is not None else PIXELS,
        },
    }


def _geometry(region: Region) -> dict[str, Any]:
    if region.polygons_lonlat is None:
        return {"type": "Polygon", "coordinates": _rounded(region.polygon, 3)}
    if len(region.polygons_lonlat) == 1:
        return {"type": "Polygon", "coordinates": _rounded(region.polygons_lonlat[0], 8)}
    parts = [_rounded(polygon, 8) for polygon in region.polygons_lonlat]
    return {"type": "MultiPolygon", "coordinates": parts}


def _rounded(polygon: Polygon, digits: int) -> list[list[list[float]]]:
    return [[[round(x, digits), round(y, digits)] for x, y in ring] for ring in polygon]
