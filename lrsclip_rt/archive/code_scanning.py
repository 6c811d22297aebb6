"""Candidates: the rows of best approximate score, from codes that are scanned in place of the vectors."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lrsclip_rt.archive.codebooks import Codebook
from lrsclip_rt.archive.segments import Segment

__all__ = ["CodePiece", "Rough", "best_coded_rows"]

_MOST_AT_ONCE = 1 << 21
"""Candidates held at a time over all queries and pieces; more queries take turns."""


@dataclass(frozen=True, slots=True, eq=False)
class CodePiece:
    """The codes of the first rows of a segment, ready to be scanned.

    Attributes:
        rows: How many.
        index: A faiss index over them.
    """

    rows: int
    index: Any

    def best(
        self, scanned: NDArray[np.float32], count: int, passing: NDArray[np.bool_] | None
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """The ``count`` passing rows of best approximate score of one query, in the segment's numbers.

        The scan knows no filter, so more are asked for until enough of them pass.

        Args:
            scanned: ``(1, 2 W)`` of ``Codebook.scanned_queries``.
            count: At least 1.
            passing: ``(rows,)`` bool; None for all.
        """
        expected = min(count, self.rows if passing is None else int(np.count_nonzero(passing)))
        if expected == 0:
            return np.empty(0, np.int64), np.empty(0, np.float32)
        asked = expected
        if passing is not None:
            share = np.count_nonzero(passing) / self.rows
            asked = min(self.rows, int(1.2 * expected / share) + 64)
        while True:
            scores, rows = self.index.search(scanned, asked)
            keep = rows[0] >= 0 if passing is None else passing[rows[0]] & (rows[0] >= 0)
            if np.count_nonzero(keep) >= expected or asked == self.rows:
                return rows[0][keep][:expected], scores[0][keep][:expected]
            asked = min(self.rows, 8 * asked)


@dataclass(frozen=True, slots=True, eq=False)
class Rough:
    """Candidates of one query: global rows ``(C,)`` int64 and approximate scores, in no order."""

    rows: NDArray[np.int64]
    scores: NDArray[np.float32]


def best_coded_rows(
    codebook: Codebook,
    pieces: Mapping[int, CodePiece],
    segments: Sequence[Segment],
    queries: NDArray[np.float32],
    count: int,
    *,
    passing: Sequence[NDArray[np.bool_]] | None = None,
    workers: ThreadPoolExecutor,
) -> list[Rough]:
    """The ``count`` rows of best approximate score of each query among the rows that have codes.

    Args:
        codebook: What made the codes.
        pieces: Codes by the number of their segment.
        segments: All segments of the archive.
        queries: ``(Q, D)`` float32 unit rows.
        count: How many, at least 1.
        passing: Per segment the rows that take part, ``(N,)`` bool; None for all.
        workers: Scan the pieces side by side.
    """
    scanned = codebook.scanned_queries(queries)
    jobs: list[tuple[int, CodePiece, NDArray[np.bool_] | None]] = []
    for position, segment in enumerate(segments):
        piece = pieces.get(segment.record.number)
        if piece is not None:
            mask = None if passing is None else passing[position][: piece.rows]
            jobs.append((segment.record.base, piece, mask))
    if not jobs:
        return [Rough(np.empty(0, np.int64), np.empty(0, np.float32)) for _ in queries]
    together = max(1, _MOST_AT_ONCE // (count * len(jobs)))
    results: list[Rough] = []
    for start in range(0, len(queries), together):
        part = [scanned[q : q + 1] for q in range(start, min(start + together, len(queries)))]
        found = list(workers.map(_scanner(part, count), jobs))
        for q in range(len(part)):
            rows = np.concatenate([rows for piece in found for rows, _ in piece[q : q + 1]])
            scores = np.concatenate([scores for piece in found for _, scores in piece[q : q + 1]])
            if len(rows) > count:
                chosen = np.argpartition(scores, len(scores) - count)[-count:]
                rows, scores = rows[chosen], scores[chosen]
            results.append(Rough(rows, scores))
    return results


_Found = list[tuple[NDArray[np.int64], NDArray[np.float32]]]


def _scanner(
    scanned: Sequence[NDArray[np.float32]], count: int
) -> Callable[[tuple[int, CodePiece, NDArray[np.bool_] | None]], _Found]:
    def scan(job: tuple[int, CodePiece, NDArray[np.bool_] | None]) -> _Found:
        base, piece, mask = job
        found = []
        for query in scanned:
            rows, scores = piece.best(query, count, mask)
            found.append((rows + base, scores))
        return found

    return scan
