"""Scores of a ranking in which values tie: area under the ROC curve, and average precision."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from lrsclip_rt.errors import InputError

__all__ = ["average_precision", "roc_auc_from_histograms"]


def roc_auc_from_histograms(
    positives: NDArray[np.integer[Any]], negatives: NDArray[np.integer[Any]]
) -> float | None:
    """How often a positive lies above a negative, a tie counting half: the area under the ROC curve.

    Args:
        positives: (L,) int, positives at each of the L levels, from low to high.
        negatives: (L,) int, negatives at each level.

    Returns:
        The area in [0, 1], or None where one side is empty.

    Raises:
        InputError: If the shapes differ.

    Example:
        >>> roc_auc_from_histograms(np.array([0, 1, 1]), np.array([2, 2, 0]))
        0.875
    """
    if positives.ndim != 1 or positives.shape != negatives.shape:
        raise InputError(f"histograms {positives.shape} and {negatives.shape} must be two equally long lists")
    above, below = positives.astype(np.int64), negatives.astype(np.int64)
    pairs = int(above.sum()) * int(below.sum())
    if pairs == 0:
        return None
    # Twice the number of pairs, so that a half is a whole number.
    doubled = int((above * (2 * (np.cumsum(below) - below) + below)).sum())
    return doubled / (2 * pairs)


def average_precision(scores: NDArray[np.floating[Any]], relevant: NDArray[np.bool_]) -> float:
    """Mean over the relevant of the precision at their own score; equal scores are found together.

    A constant score therefore gets the share of the relevant, which is chance.

    Args:
        scores: (N,) float.
        relevant: (N,) bool.

    Returns:
        Average precision in (0, 1].

    Raises:
        InputError: If the shapes differ, nothing is relevant, or a score is NaN.

    Example:
        >>> average_precision(np.array([0.9, 0.5, 0.5, 0.1]), np.array([True, True, False, False]))
        0.8333333333333333
    """
    if scores.ndim != 1 or scores.shape != relevant.shape or not relevant.any() or np.isnan(scores).any():
        raise InputError(
            f"scores {scores.shape} and relevant {relevant.shape} must be two equally long lists with at "
            "least one relevant entry and no NaN"
        )
    wanted = scores[relevant]
    found = np.searchsorted(np.sort(scores), wanted, side="left")
    right = np.searchsorted(np.sort(wanted), wanted, side="left")
    return float(((len(wanted) - right) / (len(scores) - found)).mean())
