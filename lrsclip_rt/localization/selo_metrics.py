"""The indicators of semantic localization (arXiv 2209.06515) for one map and the outlines of one query.

- Rsu, salient area: how much more of the map lies inside the outlines than outside, per pixel.
- Ras, attention shift: how far the peaks lie from the middles of the outlines; 0 is best.
- Rda, discrete attention: whether each outline holds one peak, or close ones.
- Rmi = 0.4 Rsu + 0.35 (1 - Ras) + 0.25 Rda.

Rmi rewards a contrast that the model did not earn, so the area under the pixel ROC curve stands beside it: it
knows only the order of the pixels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lrsclip_rt.errors import InputError
from lrsclip_rt.localization.polygon_mask import polygon_mask
from lrsclip_rt.localization.selo_annotations import Outline
from lrsclip_rt.localization.selo_peaks import peaks_from_levels
from lrsclip_rt.ranking_scores import roc_auc_from_histograms

__all__ = [
    "Circle",
    "SeloScores",
    "attention_shift",
    "discrete_attention",
    "outline_mask",
    "region_circle",
    "salient_area",
    "score_levels",
]

RADIUS_FACTOR = 1.5
"""Radius of a region circle over the mean distance of the vertices from its centre."""

STRIP = 512
"""Rows that are counted at once, which bounds the memory."""


@dataclass(frozen=True, slots=True)
class Circle:
    """Where the peaks of one outline are looked for: centre and radius [px]."""

    col: int
    row: int
    radius: int


@dataclass(frozen=True, slots=True)
class SeloScores:
    """Scores of one query.

    Attributes:
        rsu: Salient area, in [0, 1), higher is better.
        ras: Attention shift, in [0, 1], lower is better.
        rda: Discrete attention, in [0, 1], higher is better.
        roc_auc: Share of pixel pairs (inside, outside) in the right order; None where one side is empty.
        circles: Region circle of each outline.
        peaks: (col, row) [px] of the map's peaks.
        constant: The map has one value everywhere, so it points nowhere.
    """

    rsu: float
    ras: float
    rda: float
    roc_auc: float | None
    circles: tuple[Circle, ...]
    peaks: tuple[tuple[int, int], ...]
    constant: bool

    @property
    def rmi(self) -> float:
        """The mean indicator, in [0, 1]."""
        return 0.4 * self.rsu + 0.35 * (1 - self.ras) + 0.25 * self.rda


def score_levels(levels: NDArray[np.uint8], outlines: Sequence[Outline]) -> SeloScores:
    """Score one map.

    Args:
        levels: (H, W) uint8, the map P times 255.
        outlines: The polygons of the query.

    Raises:
        InputError: If a polygon lies outside the map.
    """
    mask = outline_mask(outlines, *levels.shape)
    inside, outside = _histograms(levels, mask)
    circles = tuple(region_circle(outline) for outline in outlines)
    peaks = peaks_from_levels(levels)
    return SeloScores(
        rsu=salient_area(inside, outside),
        ras=attention_shift(circles, peaks),
        rda=discrete_attention(circles, peaks),
        roc_auc=roc_auc_from_histograms(inside, outside),
        circles=circles,
        peaks=tuple((int(col), int(row)) for col, row in peaks),
        constant=int(np.count_nonzero(inside + outside)) == 1,
    )


def outline_mask(outlines: Sequence[Outline], height: int, width: int) -> NDArray[np.bool_]:
    """Pixels of a query: all polygons at once by the even-odd rule, vertices cut to whole pixels.

    Raises:
        InputError: If a polygon lies outside ``height x width``.
    """
    rings = [np.trunc(np.array(outline, dtype=np.float64)).astype(np.int64) for outline in outlines]
    for index, ring in enumerate(rings):
        low, high = ring.min(axis=0), ring.max(axis=0)
        if (high < 0).any() or low[0] >= width or low[1] >= height:
            raise InputError(
                f"polygon {index} spans columns {low[0]} to {high[0]} and rows {low[1]} to {high[1]}, "
                f"outside the scene of {height} x {width} px"
            )
    mask = polygon_mask(rings, height, width)
    if not mask.any():
        raise InputError(f"no polygon covers a pixel of the scene of {height} x {width} px")
    return mask


def region_circle(outline: Outline) -> Circle:
    """Centre: mean of the vertices; radius: 1.5 times their mean distance from it; both cut to whole pixels.

    Example:
        >>> region_circle(((0, 0), (8, 0), (8, 6), (0, 6)))          # each vertex is 5 from (4, 3)
        Circle(col=4, row=3, radius=7)
    """
    col = int(sum(point[0] for point in outline) / len(outline))
    row = int(sum(point[1] for point in outline) / len(outline))
    distance = float(np.mean([math.hypot(point[0] - col, point[1] - row) for point in outline]))
    return Circle(col, row, max(1, int(RADIUS_FACTOR * distance)))


def salient_area(inside: NDArray[np.integer], outside: NDArray[np.integer]) -> float:
    """Rsu from histograms.

    Args:
        inside: (256,) int, pixels of the mask at each level.
        outside: (256,) int, the other pixels at each level.
    """
    values = np.arange(256) / 255.0
    within, beyond = float(values @ inside), float(values @ outside)
    if within + beyond == 0:
        return 0.0
    ratio = within / (beyond + 1e-7) * (int(outside.sum()) / int(inside.sum()))
    return 1.0 - math.exp(-0.707 * ratio)


def attention_shift(circles: Sequence[Circle], peaks: NDArray[np.int64]) -> float:
    """Ras: mean distance of a circle's peaks from its centre over its radius, stretched by an exponential.

    A circle without a peak counts as 1; a map without any peak is 1.

    Args:
        circles: One an outline.
        peaks: (K, 2) int64 (col, row) [px].
    """
    if len(peaks) == 0:
        return 1.0
    shifts = []
    for circle in circles:
        near = _distances_within(circle, peaks)
        shifts.append(float(near.mean()) / circle.radius if len(near) else 1.0)
    return (math.exp(3.0 * float(np.mean(shifts))) - 1.0) / (math.exp(3.0) - 1.0)


def discrete_attention(circles: Sequence[Circle], peaks: NDArray[np.int64]) -> float:
    """Rda: 0 for a circle without a peak, 1 with one; with more the closer together the better.

    Args:
        circles: One an outline.
        peaks: (K, 2) int64 (col, row) [px].
    """
    values = []
    for circle in circles:
        near = peaks[_distance(circle, peaks) <= circle.radius]
        if len(near) < 2:
            values.append(float(len(near)))
            continue
        spread = float(np.hypot(*(near - near.mean(axis=0)).T).mean())
        values.append(0.5 * (1.0 - spread / circle.radius) + math.exp(-0.5 * (len(near) + 2)))
    return float(np.mean(values))


def _histograms(
    levels: NDArray[np.uint8], mask: NDArray[np.bool_]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Pixels at each level, inside the mask and outside: (256,) int64 each."""
    counts = np.zeros(512, dtype=np.int64)
    for top in range(0, len(levels), STRIP):  # bincount widens its input to 8 bytes a pixel
        rows = slice(top, top + STRIP)
        counts += np.bincount((levels[rows] + 256 * mask[rows].astype(np.int16)).ravel(), minlength=512)
    return counts[256:], counts[:256]


def _distances_within(circle: Circle, peaks: NDArray[np.int64]) -> NDArray[np.float64]:
    distances = _distance(circle, peaks)
    return distances[distances <= circle.radius]


def _distance(circle: Circle, peaks: NDArray[np.int64]) -> NDArray[np.float64]:
    return np.asarray(np.hypot(peaks[:, 0] - circle.col, peaks[:, 1] - circle.row))
