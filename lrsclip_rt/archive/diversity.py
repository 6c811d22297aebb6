"""Hits that differ from each other: maximal marginal relevance (Carbonell and Goldstein, 1998)."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from lrsclip_rt.archive.hits import Hits
from lrsclip_rt.archive.store import Archive
from lrsclip_rt.errors import InputError

__all__ = ["diverse_hits", "diverse_order", "pool_size"]


def pool_size(k: int) -> int:
    """How many of the best places the k diverse ones are chosen from.

    Example:
        >>> pool_size(1), pool_size(20)
        (10, 60)
    """
    return max(10, 3 * k)


def diverse_order(
    scores: NDArray[np.floating], vectors: NDArray[np.float32], k: int, share: float
) -> list[int]:
    """Choose one candidate after the other, each time that of the largest worth.

    It is worth::

        (1 - share) * relevance - share * (largest cosine with those chosen already)

    where relevance is the score between the least (0) and the best (1) of all candidates. The best is
    always first; of equal values the earlier is taken.

    Args:
        scores: ``(N,)`` cosines with the query, best first.
        vectors: ``(N, D)`` unit rows of the candidates.
        k: How many to choose; all where there are fewer.
        share: 0 leaves the order as it is, 1 looks at nothing but difference.

    Returns:
        Positions in the order chosen.

    Raises:
        InputError: If ``share`` is outside [0, 1].

    Example:
        >>> rows = np.array([[1, 0], [1, 0], [0, 1]], np.float32)
        >>> diverse_order(np.array([0.3, 0.29, 0.2]), rows, 2, 0.6)
        [0, 2]
    """
    if not 0.0 <= share <= 1.0:
        raise InputError(f"the share of diversity must lie in [0, 1], got {share:g}")
    values = np.asarray(scores, np.float64)
    if not len(values):
        return []
    span = float(values.max() - values.min())
    relevance = (values - values.min()) / span if span > 0 else np.ones(len(values))
    rows = vectors.astype(np.float64)
    likeness = np.full(len(values), -np.inf)
    left = np.ones(len(values), bool)
    chosen: list[int] = []
    while left.any() and len(chosen) < k:
        worth = (1.0 - share) * relevance - share * likeness if chosen else relevance
        best = int(np.flatnonzero(left)[worth[left].argmax()])
        chosen.append(best)
        left[best] = False
        likeness = np.maximum(likeness, rows @ rows[best])
    return chosen


def diverse_hits(archive: Archive, hits: Hits, k: int, share: float) -> Hits:
    """The k of ``hits`` that ``diverse_order`` chooses, ranked anew.

    Args:
        archive: Where the hits come from.
        hits: Of a search for ``pool_size(k)`` places.
        k: How many to choose.
        share: Weight of being different, in [0, 1].

    Raises:
        InputError: If ``share`` is outside [0, 1].
    """
    vectors = archive.vectors([archive.tile(hit.id) for hit in hits])
    order = diverse_order(np.array([hit.score for hit in hits]), vectors, k, share)
    chosen = tuple(replace(hits[position], rank=rank) for rank, position in enumerate(order, start=1))
    return replace(hits, hits=chosen)
