"""Which way a ranking is found: every row exactly, or candidates from codes that are then scored exactly."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from lrsclip_rt.archive.codes.codebooks import import_faiss
from lrsclip_rt.archive.codes.files import Codes
from lrsclip_rt.archive.codes.scanning import best_coded_rows
from lrsclip_rt.archive.exact_scanning import best_rows_by_faiss, rescored
from lrsclip_rt.archive.mapped_pages import PageBudget
from lrsclip_rt.archive.scanning import Ranked, best_rows, merged
from lrsclip_rt.archive.segments import Segment
from lrsclip_rt.cpu import available_cpus
from lrsclip_rt.errors import DependencyError

__all__ = ["CODES_FROM_ROWS", "EXACT_ROWS", "SURE_ROWS", "UNCODED_ROWS", "Ranker"]

CODES_FROM_ROWS = 50_000
"""Rows from which on codes are built without being asked for: an exact scan then takes longer than the text
tower."""
UNCODED_ROWS = 16_384
"""Rows that may wait for codes: every search scores all of them, which takes a few milliseconds."""
EXACT_ROWS = 20_000
"""Rows that pass a filter and are all scored exactly; more take longer than a scan of all codes."""
_FILTERED_FACTOR = 2
"""Under a filter the calibrated number of candidates is multiplied by this: it was measured on all rows."""
SURE_ROWS, _SURE_CANDIDATES = 100_000, 1_024
"""Where a filter lets so many rows through, so many candidates or more are scored: at least a hundredth."""
_COLUMNS = ("f16", "i8", "scale", "box", "time", "source", "level")
_FEW_QUERIES = 16
"""More are scored by one matrix product a block."""
_USED_SHARE = 4
"""Codes are of use where candidates are fewer than this part of the rows."""


@dataclass(frozen=True, eq=False)
class Ranker:
    """Finds the best rows of a snapshot's segments.

    Attributes:
        segments: All of them.
    """

    segments: tuple[Segment, ...]

    @cached_property
    def workers(self) -> ThreadPoolExecutor:
        """A thread a core; faiss and NumPy let go of the interpreter while they compute."""
        return ThreadPoolExecutor(available_cpus(), "search", _alone)

    @cached_property
    def pages(self) -> PageBudget:
        """What searches keep resident of the mapped vectors."""
        return PageBudget([segment.f16 for segment in self.segments])

    def exactly(
        self,
        queries: NDArray[np.float32],
        count: int,
        passing: Sequence[NDArray[np.bool_]] | None,
        rows: int,
    ) -> list[Ranked]:
        """The ``count`` best rows of each query; the same rows and scores with faiss and without.

        Args:
            queries: ``(Q, D)`` float32 unit rows.
            count: At least 1.
            passing: Per segment the rows that take part; None for all.
            rows: How many take part.
        """
        worth = "faiss" in sys.modules or rows >= CODES_FROM_ROWS
        if len(queries) <= _FEW_QUERIES and worth and _has_faiss():
            return best_rows_by_faiss(
                self.segments, queries, count, passing=passing, workers=self.workers, pages=self.pages
            )
        best = [Ranked(np.empty(0, np.int64), np.empty(0, np.float32))] * len(queries)
        for position, segment in enumerate(self.segments):
            masks = None if passing is None else [passing[position]]
            found = best_rows([segment], queries, count, passing=masks)
            best = [merged(a, b.rows, b.scores, count) for a, b in zip(best, found, strict=True)]
            self.pages.touched(scanned_bytes=segment.f16.nbytes)
        return best

    def by_codes(
        self,
        codes: Codes,
        queries: NDArray[np.float32],
        count: int,
        k: int,
        passing: Sequence[NDArray[np.bool_]] | None,
        rows: int,
    ) -> list[Ranked]:
        """The best rows with the recall that the calibration measured for ``k``; scores are exact.

        Filters that let few rows through, and rows that have no codes yet, are searched exactly.
        """
        filtered = rows < sum(segment.record.living for segment in self.segments)
        wanted = codes.calibration.candidates_for(k) * (_FILTERED_FACTOR if filtered else 1)
        candidates = max(wanted, 2 * count, _SURE_CANDIDATES if filtered and rows <= SURE_ROWS else 0)
        if (filtered and rows <= EXACT_ROWS) or candidates * _USED_SHARE > rows:
            return self.exactly(queries, count, passing, rows)
        roughs = best_coded_rows(
            codes.codebook,
            codes.pieces,
            self.segments,
            queries,
            candidates,
            passing=passing,
            workers=self.workers,
        )
        rest = self._uncoded(codes, queries, count, passing)
        rankings = []
        for query, rough, exact in zip(queries, roughs, rest, strict=True):
            found = rescored(self.segments, rough.rows, query, count)
            self.pages.touched(rows=len(rough.rows))
            rankings.append(merged(found, exact.rows, exact.scores, count))
        return rankings

    def _uncoded(
        self,
        codes: Codes,
        queries: NDArray[np.float32],
        count: int,
        passing: Sequence[NDArray[np.bool_]] | None,
    ) -> list[Ranked]:
        """The best of the rows without codes, which are the last ones of their segments."""
        ends: list[Segment] = []
        masks: list[NDArray[np.bool_]] = []
        for position, segment in enumerate(self.segments):
            coded = codes.pieces.get(segment.record.number)
            start = 0 if coded is None else coded.rows
            if start < segment.record.rows:
                ends.append(_end_of(segment, start))
                if passing is not None:
                    masks.append(passing[position][start:])
        if not ends:
            return [Ranked(np.empty(0, np.int64), np.empty(0, np.float32))] * len(queries)
        return best_rows_by_faiss(
            ends,
            queries,
            count,
            passing=None if passing is None else masks,
            workers=self.workers,
            pages=self.pages,
        )


def _end_of(segment: Segment, start: int) -> Segment:
    """The rows of a segment from ``start`` on, as a segment."""
    record = segment.record
    columns = {name: getattr(segment, name)[start:] for name in _COLUMNS}
    return Segment(replace(record, base=record.base + start, rows=record.rows - start, dead=()), **columns)


def _alone() -> None:
    """The threads of a search share the cores already, so that none starts further ones."""
    if _has_faiss():
        import_faiss().omp_set_num_threads(1)


def _has_faiss() -> bool:
    try:
        import_faiss()
    except DependencyError:
        return False
    return True
