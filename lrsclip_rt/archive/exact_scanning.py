"""Exact search at the speed of the memory: the answer of ``scanning.best_rows``, found by faiss's kernels.

faiss scores the float16 rows where they are mapped. Its sums run in another order, so its scores find
candidates only: they differ from those of ``row_scores`` by less than a known margin, and every row that
could belong to the best within it is scored again by ``row_scores``: scores and ties are the plain scan's.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lrsclip_rt.archive.codes.codebooks import import_faiss
from lrsclip_rt.archive.half_floats import float32_from_half
from lrsclip_rt.archive.mapped_pages import PageBudget
from lrsclip_rt.archive.scanning import Ranked, best_rows, merged, row_scores
from lrsclip_rt.archive.segments import Segment

__all__ = ["best_rows_by_faiss", "rescored"]

_SPARE = 32
_MAPPED_ROWS = 64
_MOST_CANDIDATES = 1 << 14
"""Candidates of a segment; where more tie, the plain scan takes over."""


def best_rows_by_faiss(
    segments: Sequence[Segment],
    queries: NDArray[np.float32],
    count: int,
    *,
    passing: Sequence[NDArray[np.bool_]] | None = None,
    workers: ThreadPoolExecutor,
    pages: PageBudget,
) -> list[Ranked]:
    """The ``count`` best rows of each query, by score and then by row.

    Args:
        segments: All segments of the archive.
        queries: ``(Q, D)`` float32 unit rows.
        count: How many, at least 1.
        passing: Per segment the rows that take part, ``(N,)`` bool; None for all.
        workers: Scan the segments side by side.
        pages: Told what is touched.

    Raises:
        DependencyError: If faiss is not installed.
    """
    import_faiss()

    def scan(position: int) -> list[Ranked]:
        mask = None if passing is None else passing[position]
        return _best_of_segment(segments[position], queries, count, mask)

    best = [Ranked(np.empty(0, np.int64), np.empty(0, np.float32)) for _ in queries]
    for position, rankings in enumerate(workers.map(scan, range(len(segments)))):
        pages.touched(
            scanned_bytes=_read_bytes(segments[position].f16, None if passing is None else passing[position])
        )
        best = [
            merged(one, other.rows, other.scores, count) for one, other in zip(best, rankings, strict=True)
        ]
    return best


def rescored(
    segments: Sequence[Segment], rows: NDArray[np.int64], query: NDArray[np.float32], count: int
) -> Ranked:
    """Of ``(C,)`` global rows the ``count`` best by exact score and then by row."""
    rows = np.sort(rows)
    bases = np.array([segment.record.base for segment in segments])
    edges = np.append(np.searchsorted(rows, bases), len(rows))
    scores = np.empty(len(rows), np.float32)
    for position, segment in enumerate(segments):
        part = slice(edges[position], edges[position + 1])
        if part.start < part.stop:
            vectors = float32_from_half(segment.f16[rows[part] - bases[position]])
            scores[part] = row_scores(vectors, query)
    order = np.lexsort((rows, -scores))[:count]
    return Ranked(rows[order], scores[order])


def _read_bytes(rows: NDArray[np.float16], passing: NDArray[np.bool_] | None) -> int:
    """Bytes that a scan of the passing rows makes resident: the system maps some 64 rows at a time."""
    if passing is None:
        return rows.nbytes
    starts = np.arange(0, len(passing), _MAPPED_ROWS)
    runs = int(np.count_nonzero(np.logical_or.reduceat(passing, starts))) if len(starts) else 0
    return min(rows.nbytes, runs * _MAPPED_ROWS * rows.strides[0])


def _best_of_segment(
    segment: Segment, queries: NDArray[np.float32], count: int, passing: NDArray[np.bool_] | None
) -> list[Ranked]:
    taking_part = segment.record.rows if passing is None else int(np.count_nonzero(passing))
    if taking_part == 0:
        return [Ranked(np.empty(0, np.int64), np.empty(0, np.float32)) for _ in queries]
    with closing(_Scanner(segment.f16, passing)) as scanner:
        return [_best_of_one(segment, scanner, query, count, taking_part, passing) for query in queries]


def _best_of_one(
    segment: Segment,
    scanner: _Scanner,
    query: NDArray[np.float32],
    count: int,
    taking_part: int,
    passing: NDArray[np.bool_] | None,
) -> Ranked:
    margin = np.float32(2 * len(query) * np.finfo(np.float32).eps)
    asked = count + _SPARE
    while asked <= _MOST_CANDIDATES or asked >= taking_part:
        rows, rough = scanner.best(query, min(asked, taking_part))
        scores = row_scores(float32_from_half(segment.f16[rows]), query)
        ranked = merged(
            Ranked(np.empty(0, np.int64), np.empty(0, np.float32)), segment.record.base + rows, scores, count
        )
        if len(rows) == taking_part or rough.min() < ranked.scores[-1] - margin:
            return ranked
        asked *= 4
    masks = None if passing is None else [passing]
    return best_rows([segment], query[None], count, passing=masks)[0]


class _Scanner:
    """faiss's kernel for float16 codes over the rows of a segment, where they are mapped."""

    def __init__(self, rows: NDArray[np.float16], passing: NDArray[np.bool_] | None) -> None:
        self._faiss = faiss = import_faiss()
        self._rows = rows
        dim = rows.shape[1]
        # The scanner keeps pointers to these.
        self._quantizer = faiss.ScalarQuantizer(dim, faiss.ScalarQuantizer.QT_fp16)
        self._coarse = faiss.IndexFlatIP(dim)
        self._selector: Any = None
        if passing is not None:
            self._selector = faiss.IDSelectorBitmap(np.packbits(passing, bitorder="little"))
        self._scanner = self._quantizer.select_InvertedListScanner(
            faiss.METRIC_INNER_PRODUCT, self._coarse, True, self._selector, False
        )
        self._scanner.set_list(0, 0.0)

    def close(self) -> None:
        """Free faiss's object, which it hands out as a plain pointer; it cannot be used any more."""
        type(self._scanner).__swig_destroy__(self._scanner)

    def best(self, query: NDArray[np.float32], count: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """The ``count`` passing rows of best score, at least 1 and at most as many as pass, in no order."""
        pointer = self._faiss.swig_ptr
        query = np.ascontiguousarray(query)
        scores = np.full(count, -np.inf, np.float32)
        rows = np.full(count, -1, np.int64)
        codes = self._rows.view(np.uint8).reshape(-1)
        self._scanner.set_query(pointer(query))
        self._scanner.scan_codes(len(self._rows), pointer(codes), None, pointer(scores), pointer(rows), count)
        return rows, scores
