"""What localization returns: one heat map a text, with the regions that stand out."""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lrsclip_rt.errors import DependencyError
from lrsclip_rt.localization.presence import Presence
from lrsclip_rt.raster_georeference import Affine6, Ring
from lrsclip_rt.tiles import Window

__all__ = ["Heatmap", "Polygon", "Region"]

NOTEBOOK_SIDE = 720
"""Longest side of the map in a notebook [px]."""

GREY = 110

Polygon = tuple[Ring, ...]
"""Closed outer ring, counter-clockwise as drawn on a map, then closed rings of holes, clockwise."""


@dataclass(frozen=True, slots=True)
class Region:
    """A connected part of a scene that fits the text better than the rest.

    Attributes:
        rank: 1 for the best region of the text.
        score: Highest mean cosine inside.
        z: How far ``score`` lies above the scene's middle, in robust standard deviations.
        window: Its bounding box in source pixels.
        peak: (col, row) [px] inside it where the map, smoothed over half the smallest window, is highest.
        lonlat: (lon, lat) of ``peak`` in WGS84, or None without georeference.
        area_px: Area in source pixels.
        area_m2: Area on the ground [m^2], or None where it cannot be known.
        polygon: Outline in source pixels (col, row), rows counted downwards.
        polygons_lonlat: Outline in (lon, lat); two polygons where it crosses the antimeridian; None
            without georeference.
    """

    rank: int
    score: float
    z: float
    window: Window
    peak: tuple[float, float]
    lonlat: tuple[float, float] | None
    area_px: float
    area_m2: float | None
    polygon: Polygon
    polygons_lonlat: tuple[Polygon, ...] | None

    def __repr__(self) -> str:
        return f"Region({self.rank}, score={self.score:.4f}, z={self.z:.1f}, {self.window.as_list()})"


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Heatmap:
    """How well each place of a scene fits one text.

    Iterating, indexing and len go over the regions.

    Attributes:
        text: The query.
        mode: How windows were chosen.
        scales: Window edges [px].
        scores: (h, w) float32 mean cosine on the fusion grid; NaN where the scene shows nothing.
        transform: From grid corners (col, row) to CRS coordinates, or to source pixels without a CRS;
            a grid cell is scaled so that the grid covers the scene exactly.
        crs: "EPSG:n" or WKT; None where coordinates are pixels.
        height: Scene height [px].
        width: Scene width [px].
        score_range: Lowest and highest score.
        z: How far the highest score lies above the scene's middle, in robust standard deviations.
        peak: (col, row) [px] where the map, smoothed over half the smallest window, is highest; None where
            the scene shows nothing.
        regions: Best first; empty where nothing stands out.
        presence: Whether the scene shows the text at all; None where it was not judged.
        source: Name of the scene.
        datetime: Time of its acquisition, "2020-08-31T17:39:01Z", or None.
        gsd_m: Ground distance of a source pixel [m], or None where it cannot be known.
        placed: Whether its pixels have a longitude and latitude.
        model_id: Identity of the model, or None.
        measure: What ``scores`` are, for legends.
    """

    text: str
    mode: str
    scales: tuple[int, ...]
    scores: NDArray[np.float32]
    transform: Affine6
    crs: str | None
    height: int
    width: int
    score_range: tuple[float, float]
    z: float
    peak: tuple[float, float] | None
    regions: tuple[Region, ...]
    presence: Presence | None = None
    source: str = "array"
    datetime: str | None = None
    gsd_m: float | None = None
    placed: bool = False
    model_id: str | None = None
    measure: str = "cosine"

    def __len__(self) -> int:
        return len(self.regions)

    def __getitem__(self, index: int) -> Region:
        return self.regions[index]

    def __repr__(self) -> str:
        low, high = self.score_range
        rows, cols = self.scores.shape
        return (
            f"Heatmap({self.text!r}, {rows} x {cols}, scores {low:.3f} .. {high:.3f}, z={self.z:.1f}, "
            f"{len(self.regions)} regions)"
        )

    @property
    def normalised(self) -> NDArray[np.float32]:
        """(h, w) float32 in [0, 1]: 0 at the lowest score, 1 at the highest; NaN stays; flat maps are 0."""
        low, high = self.score_range
        span = high - low
        if not span > 0:
            return np.where(np.isnan(self.scores), self.scores, np.float32(0.0))
        return np.asarray(np.clip((self.scores - np.float32(low)) / np.float32(span), 0.0, 1.0))

    def to_geojson(self) -> dict[str, Any]:
        """The regions as a GeoJSON FeatureCollection (RFC 7946), best first.

        In WGS84 where the scene has a place on the Earth, else in pixels, and it says so.
        """
        from lrsclip_rt.localization.geojson import feature_collection

        return feature_collection(self)

    def to_xarray(self) -> Any:
        """The map as an ``xarray.DataArray`` of ``y`` and ``x``.

        Coordinates are those of cell centres, in the CRS or in source pixels. A rotated map has none; its
        ``transform`` is in the attributes either way.

        Raises:
            DependencyError: If xarray is not installed.
        """
        try:
            import xarray
        except ImportError as error:
            raise DependencyError.of("xarray", extra="geo") from error
        a, b, c, d, e, f = self.transform
        rows, cols = self.scores.shape
        coordinates = {}
        if b == 0 and d == 0:
            coordinates = {"y": f + e * (np.arange(rows) + 0.5), "x": c + a * (np.arange(cols) + 0.5)}
        attributes = {
            "query": self.text,
            "source": self.source,
            "mode": self.mode,
            "transform": self.transform,
        }
        if self.crs is not None:
            attributes["crs"] = self.crs
        return xarray.DataArray(
            self.scores, dims=("y", "x"), coords=coordinates, attrs=attributes, name=self.measure
        )

    def to_image(self, picture: NDArray[np.uint8] | None = None) -> Any:
        """The map as a Pillow image with title, legend and outlines.

        Args:
            picture: (h, w, 3) uint8 of the whole scene to lie below; grey by default.
        """
        from lrsclip_rt.localization.overlay import render_overlay

        if picture is None:
            scale = NOTEBOOK_SIDE / max(self.height, self.width)
            size = max(1, round(self.height * scale)), max(1, round(self.width * scale))
            picture = np.full((*size, 3), GREY, np.uint8)
        return render_overlay(self, picture, subtitle=self.source, gsd_m=self.gsd_m)

    def _repr_png_(self) -> bytes:
        """What a notebook shows."""
        target = io.BytesIO()
        self.to_image().save(target, "PNG")
        return target.getvalue()
