"""How far the range of an activation reaches: everything, or a cut that costs less.

Four rules look at a histogram of magnitudes, each in its own way; none is best for every layer, so the
caller tries what they propose and keeps what hurts the product least.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from lrsclip_export.number_formats import NumberFormat

__all__ = ["RANGE_RULES", "entropy_range", "magnitudes_of", "mse_range", "proposed_ranges"]

_BINS = 2048
_LEVELS = 128
_MSE_CANDIDATES = np.linspace(0.1, 1.0, 46)
_PERCENTILES = (99.9, 99.99)

Histogram = tuple[NDArray[np.float64], float]


def magnitudes_of(rows: NDArray[np.float32], largest: float) -> Histogram:
    """Counts of 2048 equal bins of ``|rows|`` over ``[0, largest]``, and ``largest``."""
    counts, _ = np.histogram(np.abs(rows), bins=_BINS, range=(0.0, largest))
    return counts.astype(np.float64), largest


def proposed_ranges(
    rows: NDArray[np.float32], largest: float, number_format: NumberFormat, rules: tuple[str, ...]
) -> Mapping[str, float]:
    """What each rule of :data:`RANGE_RULES` proposes.

    Args:
        rows: (R, C) sampled rows.
        largest: Largest magnitude that was seen anywhere, at least that of ``rows``.
        number_format: What the range is for.
        rules: Names of rules.
    """
    if largest <= 0:
        return {rules[0]: 1.0}
    histogram = magnitudes_of(rows, largest)
    return {rule: RANGE_RULES[rule](histogram, number_format) for rule in rules}


def mse_range(histogram: Histogram, number_format: NumberFormat) -> float:
    """The range with the least mean squared error of the numbers themselves."""
    counts, largest = histogram
    centres = _centres(histogram).astype(np.float32)
    errors = []
    for share in _MSE_CANDIDATES:
        rounded = number_format.rounded(centres, share * largest / number_format.largest)
        errors.append(float(counts @ np.square(centres.astype(np.float64) - rounded)))
    return float(_MSE_CANDIDATES[int(np.argmin(errors))] * largest)


def entropy_range(histogram: Histogram, number_format: NumberFormat) -> float:
    """The range whose 128 levels keep most of the distribution (least Kullback-Leibler divergence)."""
    counts, largest = histogram
    # Exact zeros fit any range and would drown the rest.
    counts = np.concatenate([[0.0], counts[1:]])
    best, best_divergence = _BINS, np.inf
    for stop in range(_LEVELS, _BINS + 1, _LEVELS // 8):
        kept = counts[:stop]
        reference = kept.copy()
        reference[-1] += counts[stop:].sum()
        divergence = _divergence(reference, _levelled(kept))
        if divergence < best_divergence:
            best, best_divergence = stop, divergence
    return best / _BINS * largest


def _percentile_range(histogram: Histogram, percentile: float) -> float:
    counts, largest = histogram
    total = counts.sum()
    place = int(np.searchsorted(np.cumsum(counts), percentile / 100 * total))
    return (min(place, _BINS - 1) + 1) / _BINS * largest


def _levelled(counts: NDArray[np.float64]) -> NDArray[np.float64]:
    """Counts as 128 levels tell them: each level's sum spread over its bins that are not empty."""
    level = np.arange(len(counts)) * _LEVELS // len(counts)
    filled = (counts > 0).astype(np.float64)
    totals = np.bincount(level, counts, _LEVELS)
    places = np.maximum(np.bincount(level, filled, _LEVELS), 1)
    spread: NDArray[np.float64] = (totals / places)[level] * filled
    return spread


def _divergence(p: NDArray[np.float64], q: NDArray[np.float64]) -> float:
    if p.sum() == 0 or q.sum() == 0:
        return float("inf")
    p, q = p / p.sum(), q / q.sum()
    there = p > 0
    return float(np.sum(p[there] * np.log(p[there] / np.maximum(q[there], 1e-12))))


def _centres(histogram: Histogram) -> NDArray[np.float64]:
    counts, largest = histogram
    return (np.arange(len(counts)) + 0.5) / len(counts) * largest


RANGE_RULES: Mapping[str, Callable[[Histogram, NumberFormat], float]] = MappingProxyType(
    {
        "max": lambda histogram, _: histogram[1],
        "percentile-99.99": lambda histogram, _: _percentile_range(histogram, _PERCENTILES[1]),
        "percentile-99.9": lambda histogram, _: _percentile_range(histogram, _PERCENTILES[0]),
        "mse": mse_range,
        "entropy": entropy_range,
    }
)
"""Rules by name."""
