"""What "stands out" means in a scene: middle, spread, threshold and peak of a score map.

A map is judged against its own scene. The middle is the median and the spread the median distance to
it, so that a large object does not raise its own bar.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lrsclip_rt.components import label_components

__all__ = ["ScoreStatistics", "peak_cell", "score_statistics"]

MIN_PEAK_Z = 1.5
"""A map whose peak lies lower shows nothing in particular: it gets no regions. Noise that fills its range
evenly reaches 1.35. Large windows smear, so an object that is plainly there may reach no more than 2."""

MIN_REGION_Z = 1.0
"""Regions lie above the middle by this many spreads at least ..."""

PEAK_SHARE = 0.5
"""... and by this share of the peak's height over the middle."""

FLAT = 1e-4
"""A map that varies less is flat: cosines of equal windows differ by rounding."""

MAD_TO_SD = 1.4826
"""Standard deviation of a normal distribution whose median absolute deviation is 1."""


@dataclass(frozen=True, slots=True)
class ScoreStatistics:
    """Distribution of one score map over the cells that show something.

    Attributes:
        low: Lowest score.
        high: Highest score.
        middle: Median.
        spread: Robust standard deviation; 0 for a flat map.
    """

    low: float
    high: float
    middle: float
    spread: float

    def z(self, score: float) -> float:
        """How many spreads ``score`` lies above the middle; 0 in a flat map."""
        return (score - self.middle) / self.spread if self.spread > 0 else 0.0

    @property
    def threshold(self) -> float | None:
        """Lowest score of a region, or None where nothing stands out."""
        if self.z(self.high) < MIN_PEAK_Z:
            return None
        return self.middle + max(MIN_REGION_Z * self.spread, PEAK_SHARE * (self.high - self.middle))


def score_statistics(scores: NDArray[np.float32]) -> ScoreStatistics:
    """Describe an (h, w) float32 map; NaN cells do not count, and an empty map is flat at 0."""
    values = scores[np.isfinite(scores)].astype(np.float64)
    if values.size == 0:
        return ScoreStatistics(0.0, 0.0, 0.0, 0.0)
    middle = float(np.median(values))
    spread = MAD_TO_SD * float(np.median(np.abs(values - middle)))
    if values.max() - values.min() < FLAT:
        spread = 0.0
    elif spread == 0.0:  # more than half of the scene shares one score
        spread = float(values.std())
    return ScoreStatistics(float(values.min()), float(values.max()), middle, spread)


def peak_cell(scores: NDArray[np.float32]) -> tuple[float, float] | None:
    """Middle (col, row) of the highest cells, in grid units; None for a map without values.

    Of several separate highest places the first in row-major order counts. The middle is that of the
    place's cell nearest to its centroid, so it lies inside whatever its shape.

    Example:
        >>> peak_cell(np.array([[0, 1, 1, 1], [0, 0, 0, 0]], dtype=np.float32))
        (2.5, 0.5)
    """
    if not np.isfinite(scores).any():
        return None
    labels, _ = label_components(scores == np.nanmax(scores))
    rows, cols = np.nonzero(labels == 1)
    nearest = np.argmin((rows - rows.mean()) ** 2 + (cols - cols.mean()) ** 2)
    return float(cols[nearest]) + 0.5, float(rows[nearest]) + 0.5
