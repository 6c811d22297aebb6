"""Exact search: every row against every query, in blocks, with the best rows kept.

A block is scored by one matrix product, which finds the candidates. BLAS may round the same row
differently at another place of a block, so candidates are scored again, each on its own: equal rows
get equal scores wherever they lie, and ties are broken by row.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lrsclip_rt.archive.half_floats import float32_from_half
from lrsclip_rt.archive.segments import Segment

__all__ = ["BLOCK_ROWS", "Ranked", "best_rows", "merged", "row_scores", "rows_of"]

BLOCK_ROWS = 8_192
"""Rows in memory as float32 at a time: 16 MiB at D = 512."""


@dataclass(frozen=True, slots=True, eq=False)
class Ranked:
    """The best rows of one query, best first: global rows ``(K,)`` int64, scores ``(K,)`` float32."""

    rows: NDArray[np.int64]
    scores: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.rows)


def row_scores(rows: NDArray[np.float32], query: NDArray[np.float32]) -> NDArray[np.float32]:
    """Cosines of ``(N, D)`` unit rows with a ``(D,)`` unit query, each independent of the other rows."""
    scores: NDArray[np.float32] = (rows * query).sum(axis=1, dtype=np.float32)
    return scores


def best_rows(
    segments: Sequence[Segment],
    queries: NDArray[np.float32],
    count: int,
    *,
    passing: Sequence[NDArray[np.bool_]] | None = None,
    block_rows: int = BLOCK_ROWS,
) -> list[Ranked]:
    """The ``count`` best rows of each query, by score and then by row.

    Args:
        segments: All segments of the archive.
        queries: ``(Q, D)`` float32 unit rows.
        count: How many, at least 1.
        passing: Per segment the rows that take part, ``(N,)`` bool; None for all.
        block_rows: Rows scored at a time.
    """
    empty = Ranked(np.empty(0, np.int64), np.empty(0, np.float32))
    best = [empty] * len(queries)
    # Two orders of summation of D products of unit rows differ by less than this.
    margin = np.float32(queries.shape[1] * np.finfo(np.float32).eps)
    for index, segment in enumerate(segments):
        for start in range(0, segment.record.rows, block_rows):
            stop = min(start + block_rows, segment.record.rows)
            if passing is None:
                numbers = np.arange(start, stop)
                rows = float32_from_half(segment.f16[start:stop])
            else:
                numbers = start + np.flatnonzero(passing[index][start:stop])
                if not len(numbers):
                    continue
                rows = float32_from_half(segment.f16[numbers])
            rough = queries @ rows.T
            for q, query in enumerate(queries):
                chosen = _candidates(rough[q], best[q], count, margin)
                if len(chosen):
                    scores = row_scores(rows[chosen], query)
                    best[q] = merged(best[q], segment.record.base + numbers[chosen], scores, count)
    return best


def rows_of(segments: Sequence[Segment], rows: NDArray[np.int64], dim: int) -> NDArray[np.float32]:
    """Vectors of global rows: ``(K, D)`` float32 in the order asked for."""
    vectors = np.empty((len(rows), dim), np.float32)
    for segment in segments:
        first, stop = segment.record.base, segment.record.base + segment.record.rows
        inside = np.flatnonzero((rows >= first) & (rows < stop))
        if len(inside):
            vectors[inside] = float32_from_half(segment.f16[rows[inside] - first])
    return vectors


def _candidates(
    rough: NDArray[np.float32], best: Ranked, count: int, margin: np.float32
) -> NDArray[np.int64]:
    """Rows of a block that may belong to the best ``count``."""
    least = best.scores[-1] if len(best) == count else np.float32(-np.inf)
    if len(rough) > count:
        least = max(least, np.partition(rough, -count)[-count])
    chosen: NDArray[np.int64] = np.flatnonzero(rough >= least - margin)
    return chosen


def merged(best: Ranked, rows: NDArray[np.int64], scores: NDArray[np.float32], count: int) -> Ranked:
    """``best`` and further rows with their scores together, cut to ``count``."""
    all_rows = np.concatenate([best.rows, rows])
    all_scores = np.concatenate([best.scores, scores])
    order = np.lexsort((all_rows, -all_scores))[:count]
    return Ranked(all_rows[order], all_scores[order])
