"""Connected parts of a score map that stand out, as ranked regions in source pixels and lon/lat."""

from __future__ import annotations

import itertools
import math

import numpy as np
from numpy.typing import NDArray

from lrsclip_rt.components import label_components
from lrsclip_rt.localization.box_filter import odd_cells, without_slivers
from lrsclip_rt.localization.heatmap import Polygon, Region
from lrsclip_rt.localization.outlines import outlines_from_mask
from lrsclip_rt.localization.statistics import ScoreStatistics, peak_cell
from lrsclip_rt.raster import Scene
from lrsclip_rt.raster_georeference import Ring
from lrsclip_rt.tiles import Window

__all__ = ["MAX_REGIONS", "regions_from_scores"]

MAX_REGIONS = 100
"""Regions kept of one text, the best."""

NARROW_PX = 32
"""Gaps and spurs below this width [px] come from windows shifted at the edge, not from the scene."""

SEGMENTS_PER_SCENE = 32
"""Outline edges longer than this part of the scene get points in between before reprojection."""


def regions_from_scores(
    scores: NDArray[np.float32],
    statistics: ScoreStatistics,
    scene: Scene,
    *,
    smooth: NDArray[np.float32] | None = None,
) -> tuple[Region, ...]:
    """Find the regions of one map.

    Args:
        scores: (h, w) float32 on the fusion grid over ``scene``; NaN where it shows nothing.
        statistics: Of ``scores``.
        scene: Gives the size and the georeference.
        smooth: (h, w) float32 map whose highest cell inside a region is its peak; ``scores`` by default.

    Returns:
        Regions above the map's threshold, best first; none where nothing stands out.
    """
    sides = (scene.height, scene.width)
    smooth = scores if smooth is None else smooth
    threshold = statistics.threshold
    if threshold is None:
        return ()
    with np.errstate(invalid="ignore"):
        above = scores >= threshold
    narrow = [odd_cells(NARROW_PX, cells, px) for cells, px in zip(scores.shape, sides, strict=True)]
    mask = without_slivers(above, narrow[0], narrow[1]) & np.isfinite(scores)
    labels, count = label_components(mask)
    highest = np.full(count + 1, -np.inf)
    np.maximum.at(highest, labels.ravel(), np.where(labels > 0, scores, -np.inf).ravel())
    order = np.argsort(-highest[1:], kind="stable")[:MAX_REGIONS] + 1
    boxes = _boxes(labels, count)
    return tuple(
        _region(rank, scores, smooth, labels == label, boxes[label], statistics, scene)
        for rank, label in enumerate(order, start=1)
    )


def _boxes(labels: NDArray[np.int32], count: int) -> NDArray[np.intp]:
    """(count + 1, 4): first row, end row, first column, end column of each label."""
    rows, cols = np.nonzero(labels)
    of = labels[rows, cols]
    boxes = np.zeros((count + 1, 4), dtype=np.intp)
    boxes[:, 0], boxes[:, 2] = labels.shape
    np.minimum.at(boxes[:, 0], of, rows)
    np.maximum.at(boxes[:, 1], of, rows + 1)
    np.minimum.at(boxes[:, 2], of, cols)
    np.maximum.at(boxes[:, 3], of, cols + 1)
    return boxes


def _region(
    rank: int,
    scores: NDArray[np.float32],
    smooth: NDArray[np.float32],
    area: NDArray[np.bool_],
    box: NDArray[np.intp],
    statistics: ScoreStatistics,
    scene: Scene,
) -> Region:
    top, bottom, left, right = (int(edge) for edge in box)
    mask = area[top:bottom, left:right]
    score = float(scores[top:bottom, left:right][mask].max())
    inside = np.where(mask, smooth[top:bottom, left:right], np.float32(np.nan))
    per_col, per_row = scene.width / scores.shape[1], scene.height / scores.shape[0]
    cell = peak_cell(inside)
    assert cell is not None, "a region has at least one cell"
    peak = ((left + cell[0]) * per_col, (top + cell[1]) * per_row)
    polygon = tuple(
        tuple((float((left + col) * per_col), float((top + row) * per_row)) for col, row in ring)
        for ring in outlines_from_mask(mask)
    )
    return Region(
        rank=rank,
        score=score,
        z=statistics.z(score),
        window=_bounding_window(polygon, scene),
        peak=peak,
        lonlat=scene.lonlat(*peak),
        area_px=float(mask.sum() * per_col * per_row),
        area_m2=_area_m2(mask, top, left, per_row, per_col, scene),
        polygon=polygon,
        polygons_lonlat=_reprojected(polygon, scene),
    )


def _bounding_window(polygon: Polygon, scene: Scene) -> Window:
    """Smallest window of whole pixels around the outer ring."""
    cols = [point[0] for point in polygon[0]]
    rows = [point[1] for point in polygon[0]]
    left, top = math.floor(min(cols) + 1e-6), math.floor(min(rows) + 1e-6)
    right = min(scene.width, math.ceil(max(cols) - 1e-6))
    bottom = min(scene.height, math.ceil(max(rows) - 1e-6))
    return Window(left, top, max(1, right - left), max(1, bottom - top))


def _area_m2(
    mask: NDArray[np.bool_], top: int, left: int, per_row: float, per_col: float, scene: Scene
) -> float | None:
    """Sum of the cells' ground areas, the pixel's size taken in the middle of each row of cells."""
    rows = np.asarray((top + np.arange(mask.shape[0]) + 0.5) * per_row, dtype=np.float64)
    cols = np.full(len(rows), (left + mask.shape[1] / 2) * per_col, dtype=np.float64)
    areas = scene.pixel_areas_m2(cols, rows)
    if areas is None:
        return None
    return float((mask.sum(axis=1) * areas).sum() * per_col * per_row)


def _reprojected(polygon: Polygon, scene: Scene) -> tuple[Polygon, ...] | None:
    """Outline in lon/lat; holes go to the part on their side of the antimeridian."""
    longest = max(scene.height, scene.width) / SEGMENTS_PER_SCENE
    rings = [scene.rings_from_pixels(_densified(ring, longest)) for ring in polygon]
    outer = rings[0]
    if outer is None:
        return None
    parts: list[list[Ring]] = [[ring] for ring in outer]
    for hole in rings[1:]:
        for ring in hole or ():
            side = 0 if len(parts) == 1 or ring[0][0] > 0 else 1
            parts[side].append(ring[::-1])  # RFC 7946: holes run clockwise
    return tuple(tuple(part) for part in parts)


def _densified(ring: Ring, longest: float) -> NDArray[np.float64]:
    """Closed (n, 2) ring without an edge above ``longest``."""
    points: list[NDArray[np.float64]] = []
    corners = np.array(ring, dtype=np.float64)
    for start, end in itertools.pairwise(corners):
        pieces = max(1, math.ceil(float(np.abs(end - start).max()) / longest))
        points.append(start + (end - start) * (np.arange(pieces) / pieces)[:, None])
    return np.concatenate([*points, corners[-1:]])
