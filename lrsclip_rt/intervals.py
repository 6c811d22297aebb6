"""Bootstrap intervals: what a score would be with other queries of the same kind."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lrsclip_rt.errors import InputError

__all__ = [
    "Interval",
    "PairedDifference",
    "interval_from_samples",
    "mean_interval",
    "paired_bootstrap",
    "resample_counts",
]

BLOCK_BYTES = 32 << 20


@dataclass(frozen=True, slots=True)
class Interval:
    """A bootstrap distribution: mean, standard deviation, central 95 %, in the unit of the score."""

    mean: float
    std: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class PairedDifference:
    """How much better ``a`` is than ``b`` on the same queries.

    Attributes:
        difference: Mean of a - b over the queries.
        interval: Its bootstrap distribution.
        above: Share of the resamples in which a is better, a tie counting half.
    """

    difference: float
    interval: Interval
    above: float

    @property
    def decided(self) -> bool:
        """The central 95 % lie on one side of 0."""
        return self.interval.low > 0 or self.interval.high < 0


def mean_interval(values: ArrayLike, *, resamples: int = 1000, seed: int = 0) -> Interval:
    """Resample N values with replacement and take their mean.

    Args:
        values: (N,) one score a query.
        resamples: Number of bootstrap samples.
        seed: Seed of the sampling; the same seed gives the same interval.

    Raises:
        InputError: If there is nothing to resample, or a value is not finite.

    Example:
        >>> mean_interval([0.5, 0.5, 0.5])
        Interval(mean=0.5, std=0.0, low=0.5, high=0.5)
    """
    return interval_from_samples(_resampled_means(_scores(values), resamples, seed))


def paired_bootstrap(a: ArrayLike, b: ArrayLike, *, resamples: int = 1000, seed: int = 0) -> PairedDifference:
    """Compare two models or modes that answered the same queries.

    Queries are resampled, each with both of its scores, so what makes a query hard for both cancels.

    Args:
        a: (N,) score of each query.
        b: (N,) score of the same queries in the same order.
        resamples: Number of bootstrap samples.
        seed: Seed of the sampling.

    Raises:
        InputError: If the lengths differ, there is nothing to resample, or a value is not finite.

    Example:
        >>> paired_bootstrap([0.9, 0.5, 0.7], [0.6, 0.2, 0.4]).decided
        True
    """
    first, second = _scores(a), _scores(b)
    if first.shape != second.shape:
        raise InputError(f"got {len(first)} and {len(second)} scores; a pair needs both of every query")
    differences = first - second
    means = _resampled_means(differences, resamples, seed)
    above = float((means > 0).mean() + 0.5 * (means == 0).mean())
    return PairedDifference(float(differences.mean()), interval_from_samples(means), above)


def interval_from_samples(samples: NDArray[np.float64]) -> Interval:
    """Mean, standard deviation and central 95 % of (R,) float64 resampled scores."""
    low, high = np.percentile(samples, [2.5, 97.5])
    return Interval(float(samples.mean()), float(samples.std()), float(low), float(high))


def resample_counts(number: int, *, resamples: int, seed: int) -> Iterator[NDArray[np.float64]]:
    """How often each of ``number`` units is drawn in each resample: blocks of (n, number) float64.

    Raises:
        InputError: If there is nothing to resample.
    """
    if number < 1 or resamples < 1:
        raise InputError(f"a bootstrap needs units and resamples, got {number} and {resamples}")
    generator = np.random.default_rng(seed)
    step = max(1, BLOCK_BYTES // (8 * number))
    for start in range(0, resamples, step):
        size = min(step, resamples - start)
        yield generator.multinomial(number, np.full(number, 1 / number), size=size).astype(np.float64)


def _resampled_means(values: NDArray[np.float64], resamples: int, seed: int) -> NDArray[np.float64]:
    # About the middle: equal values then give their own value to the last bit.
    middle = values.mean()
    blocks = resample_counts(len(values), resamples=resamples, seed=seed)
    return np.asarray(np.concatenate([block @ (values - middle) for block in blocks]) / len(values) + middle)


def _scores(values: ArrayLike) -> NDArray[np.float64]:
    scores: NDArray[Any] = np.asarray(values, dtype=np.float64)
    if scores.ndim != 1 or not len(scores) or not np.isfinite(scores).all():
        raise InputError(f"a bootstrap needs a list of finite scores, got {scores.shape} values")
    return scores
