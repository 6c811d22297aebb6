"""Candidates: the rows of best approximate score, from codes that are scanned in place of the vectors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import reduce
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lrsclip_rt.archive.codes.codebooks import Codebook, index_of_blocks
from lrsclip_rt.archive.segments import Segment

__all__ = ["CodePiece", "Rough", "best_coded_rows"]

_MOST_SHARE = 0.5
"""Blocks of codes are picked out where they are no more than this part: copying costs about a scan."""
_SHARE, _SPARE = 1.5, 32
"""A piece is asked for so many times its share of the candidates, and some more."""
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

        The scan knows no filter, so more are asked for until enough of them pass. Where a filter leaves out
        many blocks of codes, as one by place or time does, the others alone are scanned.

        Args:
            scanned: ``(1, 2 W)`` of ``Codebook.scanned_queries``.
            count: At least 1.
            passing: ``(rows,)`` bool; None for all.
        """
        taking_part = self.rows if passing is None else int(np.count_nonzero(passing))
        expected = min(count, taking_part)
        if expected == 0:
            return np.empty(0, np.int64), np.empty(0, np.float32)
        if passing is None:
            scores, rows = self.index.search(scanned, expected)
            return rows[0], scores[0]
        blocks = _blocks_with(passing, self.index.bbs)
        if len(blocks) * self.index.bbs > _MOST_SHARE * self.rows:
            return _best_passing(self.index, scanned, expected, passing)
        numbers = (blocks[:, None] * self.index.bbs + np.arange(self.index.bbs)).reshape(-1)
        numbers = numbers[: np.searchsorted(numbers, self.rows)]
        part = index_of_blocks(self.index, blocks, len(numbers))
        rows, scores = _best_passing(part, scanned, expected, passing[numbers])
        return numbers[rows], scores


def _best_passing(
    index: Any, scanned: NDArray[np.float32], expected: int, passing: NDArray[np.bool_]
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """The ``expected`` best rows of an index that pass; at least so many do."""
    share = np.count_nonzero(passing) / len(passing)
    asked = min(len(passing), expected if share == 1 else int(1.2 * expected / share) + 64)
    while True:
        scores, rows = index.search(scanned, asked)
        keep = passing[rows[0]] & (rows[0] >= 0)
        if np.count_nonzero(keep) >= expected or asked == len(passing):
            return rows[0][keep][:expected], scores[0][keep][:expected]
        asked = min(len(passing), 8 * asked)


def _blocks_with(passing: NDArray[np.bool_], size: int) -> NDArray[np.int64]:
    """Increasing numbers of the blocks of ``size`` rows of which one or more pass."""
    whole = len(passing) // size
    words = passing[: whole * size].view(np.uint64).reshape(whole, size // 8)
    some = np.zeros(-(-len(passing) // size), bool)
    some[:whole] = reduce(np.bitwise_or, words.T)  # column by column: far faster than along short rows
    some[whole:] = passing[whole * size :].any()
    return np.flatnonzero(some)


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
    jobs = _jobs(pieces, segments, passing)
    if not jobs:
        return [Rough(np.empty(0, np.int64), np.empty(0, np.float32)) for _ in queries]
    total = max(1, sum(job.rows for job in jobs))
    # A piece has its share of the best, and somewhat more; where it had none left over it is asked again.
    shares = [min(count, int(_SHARE * count * job.rows / total) + _SPARE) for job in jobs]
    together = max(1, _MOST_AT_ONCE // (count * len(jobs)))
    results: list[Rough] = []
    for start in range(0, len(queries), together):
        part = [scanned[q : q + 1] for q in range(start, min(start + together, len(queries)))]
        found = list(workers.map(_Job.best, jobs, [part] * len(jobs), shares))
        for q, query in enumerate(part):
            results.append(_best_of_pieces(jobs, [piece[q] for piece in found], shares, query, count))
    return results


_Found = tuple[NDArray[np.int64], NDArray[np.float32]]


@dataclass(frozen=True, slots=True, eq=False)
class _Job:
    """A piece to scan: the global number of its first row, the rows that take part, and their number."""

    base: int
    piece: CodePiece
    mask: NDArray[np.bool_] | None
    rows: int

    def best(self, scanned: Sequence[NDArray[np.float32]], count: int) -> list[_Found]:
        """For each query the global rows and scores of the best ``count``, or of all where they are fewer."""
        found = [self.piece.best(query, count, self.mask) for query in scanned]
        return [(rows + self.base, scores) for rows, scores in found]


def _jobs(
    pieces: Mapping[int, CodePiece],
    segments: Sequence[Segment],
    passing: Sequence[NDArray[np.bool_]] | None,
) -> list[_Job]:
    jobs: list[_Job] = []
    for position, segment in enumerate(segments):
        piece = pieces.get(segment.record.number)
        if piece is not None:
            mask = None if passing is None else passing[position][: piece.rows]
            rows = piece.rows if mask is None else int(np.count_nonzero(mask))
            if rows:
                jobs.append(_Job(segment.record.base, piece, mask, rows))
    return jobs


def _best_of_pieces(
    jobs: Sequence[_Job], found: list[_Found], shares: Sequence[int], query: NDArray[np.float32], count: int
) -> Rough:
    """The best ``count`` over all pieces, as if each had been asked for so many."""
    scores = np.concatenate([scores for _, scores in found])
    least = np.partition(scores, len(scores) - count)[-count] if len(scores) > count else -np.inf
    for position, (job, share) in enumerate(zip(jobs, shares, strict=True)):
        held = found[position][1]
        if share < min(count, job.rows) and held.min() > least:
            found[position] = job.best([query], count)[0]
    rows = np.concatenate([rows for rows, _ in found])
    scores = np.concatenate([scores for _, scores in found])
    if len(rows) > count:
        chosen = np.argpartition(scores, len(scores) - count)[-count:]
        rows, scores = rows[chosen], scores[chosen]
    return Rough(rows, scores)
