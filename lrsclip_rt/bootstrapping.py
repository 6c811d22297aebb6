"""Percentages with percentile bootstrap intervals.

Units (images, scenes) are resampled with replacement, each with everything that was asked of it. Columns of
one call share their resamples, so that the difference of two columns is a paired one.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lrsclip_rt.errors import InputError
from lrsclip_rt.intervals import resample_counts

__all__ = ["Estimate", "estimate_from_resamples", "resampled_percentages"]


@dataclass(frozen=True, slots=True)
class Estimate:
    """A percentage or a difference of two, and its central 95 % [%].

    Attributes:
        value: What was measured.
        low: 2.5th percentile of the resamples.
        high: 97.5th percentile of the resamples.
    """

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.1f} [{self.low:.1f}, {self.high:.1f}]"

    def as_dict(self) -> dict[str, float]:
        """Rounded to hundredths: ``{"value", "low", "high"}``."""
        return {"value": round(self.value, 2), "low": round(self.low, 2), "high": round(self.high, 2)}

    def is_above(self, other: Estimate) -> bool:
        """Whether the whole interval lies above that of ``other``."""
        return self.low > other.high


def resampled_percentages(
    hits: NDArray[np.float64], asked: NDArray[np.float64], *, resamples: int = 1000, seed: int = 0
) -> NDArray[np.float64]:
    """``100 * hits / asked`` of resampled units.

    Args:
        hits: (N, K) hits of each unit in each column.
        asked: (N, K) questions of each unit in each column.
        resamples: Number of bootstrap samples R.
        seed: Seed of the sampling; the same seed gives the same resamples.

    Returns:
        (R, K) float64; NaN where a resample holds no question of a column.

    Raises:
        InputError: If the shapes differ or there is nothing to resample.
    """
    if hits.ndim != 2 or hits.shape != asked.shape:
        raise InputError(f"hits {hits.shape} and asked {asked.shape} must both be (N, K)")
    blocks = list(resample_counts(len(hits), resamples=resamples, seed=seed))
    total = np.concatenate([block @ asked for block in blocks])
    found = np.concatenate([block @ hits for block in blocks])
    percentages = np.full(total.shape, np.nan)
    np.divide(100 * found, total, out=percentages, where=total > 0)
    return percentages


def estimate_from_resamples(value: float, resampled: NDArray[np.float64]) -> Estimate:
    """The interval of one column.

    Args:
        value: What was measured [%].
        resampled: (R,) the same of the resamples [%]; NaN is left out.

    Raises:
        InputError: If every resample is NaN.

    Example:
        >>> estimate_from_resamples(50.0, np.arange(101.0))
        Estimate(value=50.0, low=2.5, high=97.5)
    """
    defined = resampled[~np.isnan(resampled)]
    if len(defined) == 0:
        raise InputError("no resample holds a question, so there is no interval; leave the column out")
    low, high = np.percentile(defined, [2.5, 97.5])
    return Estimate(float(value), float(low), float(high))
