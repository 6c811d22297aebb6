"""Is it here at all: the threshold of a model, from queries whose answer is known.

The presence of a query in an archive is the mean cosine of its best rows: of ten, and where fewer than 1,760
rows take part of the best 176th, since a small archive holds fewer tiles of a thing. Queries of several
kinds (short prompts, captions) reach different heights, so the threshold is set where the mean of the
kinds' accepted shares of present queries is the share asked for: a kind with many queries does not outvote
the others.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lrsclip_rt.errors import InputError

__all__ = [
    "ACCEPTED",
    "PRESENCE_HITS",
    "Acceptance",
    "acceptance",
    "calibrated_threshold",
    "presence_hits",
    "separation",
]

PRESENCE_HITS = 10
"""Most rows that the presence is the mean of."""

_ROWS_A_HIT = 176

ACCEPTED = 0.9
"""Share of present queries that a threshold accepts."""


def presence_hits(rows: int) -> int:
    """How many best rows the presence is the mean of.

    Args:
        rows: Rows that take part in the search.

    Example:
        >>> [presence_hits(rows) for rows in (1, 176, 177, 1_584, 1_585, 10**6)]
        [1, 1, 2, 9, 10, 10]
    """
    return min(PRESENCE_HITS, max(1, -(-rows // _ROWS_A_HIT)))


@dataclass(frozen=True, slots=True)
class Acceptance:
    """What a threshold does: shares of present and of absent queries that it accepts, in [0, 1]."""

    present: float
    absent: float


def calibrated_threshold(present: Mapping[str, ArrayLike], *, accepted: float = ACCEPTED) -> float:
    """The highest threshold at which ``accepted`` of the present queries pass, every kind weighing the same.

    Args:
        present: Presences of queries that are there, by kind of query; each ``(Q,)``.
        accepted: Share in (0, 1].

    Raises:
        InputError: If a kind has no queries, a value is not finite, or the share is outside (0, 1].

    Example:
        >>> calibrated_threshold({"prompts": [0.5, 0.6], "captions": [0.1, 0.2, 0.3, 0.4]}, accepted=0.75)
        0.3
    """
    if not 0.0 < accepted <= 1.0:
        raise InputError(f"the accepted share must lie in (0, 1], got {accepted:g}")
    if not present:
        raise InputError("a threshold needs queries that are present, got none")
    kinds = [_values(values, kind) for kind, values in present.items()]
    candidates = np.unique(np.concatenate(kinds))
    shares = np.mean([_shares(values, candidates) for values in kinds], axis=0)
    return float(candidates[np.flatnonzero(shares >= accepted - 1e-12)[-1]])


def acceptance(threshold: float, present: ArrayLike, absent: ArrayLike) -> Acceptance:
    """The shares of both that reach a threshold.

    Raises:
        InputError: If either is empty or holds a value that is not finite.

    Example:
        >>> acceptance(0.3, [0.2, 0.3, 0.4, 0.5], [0.1, 0.35])
        Acceptance(present=0.75, absent=0.5)
    """
    there, gone = _values(present, "present"), _values(absent, "absent")
    return Acceptance(float((there >= threshold).mean()), float((gone >= threshold).mean()))


def separation(present: ArrayLike, absent: ArrayLike) -> float:
    """Area under the ROC curve: how often a present query beats an absent one, ties counting half.

    Raises:
        InputError: If either is empty or holds a value that is not finite.

    Example:
        >>> separation([0.4, 0.2], [0.1, 0.3])
        0.75
    """
    there, gone = _values(present, "present"), np.sort(_values(absent, "absent"))
    below = np.searchsorted(gone, there, "left")
    not_above = np.searchsorted(gone, there, "right")
    return float((below + not_above).sum() / (2 * len(there) * len(gone)))


def _shares(values: NDArray[np.float64], thresholds: NDArray[np.float64]) -> NDArray[np.float64]:
    """Share of values at or above each threshold."""
    passing = len(values) - np.searchsorted(np.sort(values), thresholds, "left")
    return np.asarray(passing / len(values), np.float64)


def _values(values: ArrayLike, what: str) -> NDArray[np.float64]:
    array = np.asarray(values, np.float64)
    if array.ndim != 1 or not len(array) or not np.isfinite(array).all():
        raise InputError(f"{what}: expected a list of finite presences, got the shape {array.shape}")
    return array
