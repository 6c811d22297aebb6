"""A search over a snapshot: filter, exact ranking, one hit a place, presence."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from lrsclip_rt.archive.catalog import Catalog
from lrsclip_rt.archive.footprints import Bbox, rings_meet_bbox
from lrsclip_rt.archive.hits import Hit, Hits
from lrsclip_rt.archive.places import Place, places_from_ranking
from lrsclip_rt.archive.records import SegmentRecord, TileRecord
from lrsclip_rt.archive.scanning import Ranked, best_rows, row_scores, rows_of
from lrsclip_rt.archive.segments import Segment
from lrsclip_rt.archive.times import NO_TIME, text_from_time_us
from lrsclip_rt.archive.where import Where, inside_box, passing_rows

__all__ = ["PRESENCE_HITS", "SAMPLE_ROWS", "Request", "Snapshot", "search_snapshot"]

SAMPLE_ROWS = 4_096
"""Rows of the sample that z and mixtures are standardised over."""

PRESENCE_HITS = 10
"""Presence is decided on the mean cosine of so many best rows."""

_SAMPLE_SEED = 248


@dataclass(frozen=True, eq=False)
class Snapshot:
    """Committed rows at one moment.

    Attributes:
        segments: Mapped columns.
        dim: D.
    """

    segments: tuple[Segment, ...]
    dim: int

    @cached_property
    def rows(self) -> int:
        """Rows over all segments."""
        return sum(segment.record.rows for segment in self.segments)

    @cached_property
    def records(self) -> tuple[SegmentRecord, ...]:
        """The segments as the database recorded them."""
        return tuple(segment.record for segment in self.segments)

    @cached_property
    def sample(self) -> NDArray[np.float32]:
        """``(n, D)`` float32, n <= 4,096: rows drawn with a fixed seed, the same for equal archives."""
        numbers = np.arange(self.rows)
        if self.rows > SAMPLE_ROWS:
            generator = np.random.default_rng(_SAMPLE_SEED)
            numbers = np.sort(generator.choice(self.rows, SAMPLE_ROWS, replace=False))
        return rows_of(self.segments, numbers, self.dim)

    def moments(self, query: NDArray[np.float32]) -> tuple[float, float]:
        """Mean and standard deviation of the sample's scores; (0, 0) where it is empty."""
        scores = row_scores(self.sample, query).astype(np.float64)
        return (float(scores.mean()), float(scores.std())) if len(scores) else (0.0, 0.0)


@dataclass(frozen=True, slots=True)
class Request:
    """What a search asks for besides its queries; see ``Archive.search``."""

    k: int
    where: Where
    merge: bool
    min_score: float | None


@dataclass(frozen=True, slots=True, eq=False)
class _Filtered:
    """What of a snapshot takes part; ``passing`` is None where all does."""

    passing: tuple[NDArray[np.bool_], ...] | None
    rows: int
    without_place: int = 0
    without_time: int = 0


def search_snapshot(
    snapshot: Snapshot, catalog: Catalog, queries: NDArray[np.float32], request: Request
) -> list[Hits]:
    """One ``Hits`` for each of ``(Q, D)`` float32 unit queries.

    The ranking is made longer until every query has its places complete.
    """
    filtered = _filtered(snapshot, catalog, request.where)
    results: dict[int, Hits] = {}
    count = max(8 * (request.k + 1) if request.merge else request.k + 1, 2 * PRESENCE_HITS)
    while len(results) < len(queries):
        pending = [q for q in range(len(queries)) if q not in results]
        rankings = best_rows(snapshot.segments, queries[pending], count, passing=filtered.passing)
        for q, ranked in zip(pending, rankings, strict=True):
            answer = _Answer(snapshot, catalog, request, queries[q], ranked)
            if len(ranked) < count or answer.complete:
                results[q] = answer.hits(filtered)
        count *= 4
    return [results[q] for q in range(len(queries))]


class _Answer:
    """The places of one ranking."""

    def __init__(
        self,
        snapshot: Snapshot,
        catalog: Catalog,
        request: Request,
        query: NDArray[np.float32],
        ranked: Ranked,
    ) -> None:
        self._snapshot = snapshot
        self._catalog = catalog
        self._request = request
        self._query = query
        self._scores = ranked.scores
        rows = ranked.rows.tolist()
        tiles = catalog.tiles(rows, snapshot.records)
        box = request.where.box
        self._kept = [
            (position, tiles[row])
            for position, row in enumerate(rows)
            if row in tiles and (box is None or _touches(tiles[row], box))
        ]
        self._places, ended = places_from_ranking(self._kept, request.k, merge=request.merge)
        self.complete = ended and len(self._kept) >= PRESENCE_HITS

    def hits(self, filtered: _Filtered) -> Hits:
        best = self._scores[[position for position, _ in self._kept[:PRESENCE_HITS]]]
        presence = float(best.mean(dtype=np.float64)) if len(best) else None
        least = self._request.min_score
        present = None if least is None else presence is not None and presence >= least
        mean, deviation = self._snapshot.moments(self._query)
        hits = tuple(
            self._hit(rank, place, mean, deviation)
            for rank, place in enumerate(self._places if present is not False else (), start=1)
        )
        return Hits(hits, presence, present, filtered.rows, filtered.without_place, filtered.without_time)

    def _hit(self, rank: int, place: Place, mean: float, deviation: float) -> Hit:
        tile = place.tile.tile
        score = float(self._scores[place.position])
        return Hit(
            rank=rank,
            score=score,
            z=(score - mean) / deviation if deviation > 0 else 0.0,
            id=place.tile.id,
            source=self._catalog.path_text(place.tile.source),
            window=tile.window,
            datetime=None if tile.time_us is None else text_from_time_us(tile.time_us),
            bbox=tile.bbox,
            level=tile.level,
            count=place.count,
            footprint=tile.footprint,
        )


def _filtered(snapshot: Snapshot, catalog: Catalog, where: Where) -> _Filtered:
    if where.is_empty:
        return _Filtered(None, snapshot.rows)
    sources = _source_numbers(catalog, where)
    passing = tuple(passing_rows(where, segment, sources) for segment in snapshot.segments)
    without_place = without_time = 0
    for segment in snapshot.segments:
        if where.box is not None:
            without_place += int(np.isnan(segment.box[:, 0]).sum())
        if where.asks_for_time:
            without_time += int((segment.time == NO_TIME).sum())
    return _Filtered(passing, sum(int(p.sum()) for p in passing), without_place, without_time)


def _source_numbers(catalog: Catalog, where: Where) -> NDArray[np.int64] | None:
    chosen: set[int] | None = None
    if where.sources is not None:
        chosen = catalog.sources_by_path(where.sources)
    if where.metadata:
        having = catalog.sources_by_metadata(where.metadata)
        chosen = having if chosen is None else chosen & having
    return None if chosen is None else np.array(sorted(chosen), np.int64)


def _touches(record: TileRecord, box: Bbox) -> bool:
    """Columns compare boxes; where a box reaches over the edge of the asked one, its footprint decides."""
    tile = record.tile
    if tile.bbox is None:
        return False
    return not tile.footprint or inside_box(tile.bbox, box) or rings_meet_bbox(tile.footprint, box)
