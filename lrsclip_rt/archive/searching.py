"""A search over a snapshot: filter, exact ranking, one hit a place, presence."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property, reduce
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from lrsclip_rt.archive.catalog import Catalog
from lrsclip_rt.archive.codes.files import Codes, CodesObstacle
from lrsclip_rt.archive.conditions import sources_having, sources_meeting
from lrsclip_rt.archive.guarding import reading
from lrsclip_rt.archive.hits import Hit, Hits
from lrsclip_rt.archive.mapped_pages import PageBudget
from lrsclip_rt.archive.place_blocks import PlaceBlocks
from lrsclip_rt.archive.places import Place, places_from_ranking
from lrsclip_rt.archive.presence import PRESENCE_HITS, presence_hits
from lrsclip_rt.archive.ranking import Ranker
from lrsclip_rt.archive.records import SegmentRecord, TileRecord
from lrsclip_rt.archive.scanning import Ranked, rows_of
from lrsclip_rt.archive.segments import Segment
from lrsclip_rt.archive.times import NO_TIME, text_from_time_us
from lrsclip_rt.archive.where import Where, lies_in, passing_rows

if TYPE_CHECKING:
    from lrsclip_rt.archive.device_ranking import DeviceRanking

__all__ = ["SAMPLE_ROWS", "Request", "Snapshot", "search_snapshot"]

SAMPLE_ROWS = 4_096
"""Rows of the sample that z and mixtures are standardised over."""

_SAMPLE_SEED = 248
_KEPT_BOX_BYTES = 64 << 20
_FEWEST_CODED_ROWS = 1_000
"""Fewer are not worth loading codes for."""


def _no_codes() -> CodesObstacle:
    """Where nobody said how to load any."""
    return CodesObstacle("no codes were built", missing=True)


@dataclass(frozen=True, slots=True, eq=False)
class Filtered:
    """What of a snapshot takes part; ``passing`` is None where all does."""

    passing: tuple[NDArray[np.bool_], ...] | None
    rows: int
    without_place: int = 0
    without_time: int = 0
    without_metadata: int = 0


@dataclass(frozen=True, eq=False)
class Snapshot:
    """Committed rows at one moment.

    Attributes:
        segments: Mapped columns.
        dim: D.
        load_codes: Called once, when they are first needed.
        load_rows: Called when rows are first ranked: puts them on a GPU; None where none was asked for.
    """

    segments: tuple[Segment, ...]
    dim: int
    load_codes: Callable[[], Codes | CodesObstacle] = _no_codes
    load_rows: Callable[[], DeviceRanking] | None = None

    @cached_property
    def rows(self) -> int:
        """Living rows over all segments."""
        return sum(segment.record.living for segment in self.segments)

    @cached_property
    def records(self) -> tuple[SegmentRecord, ...]:
        """The segments as the database recorded them."""
        return tuple(segment.record for segment in self.segments)

    @cached_property
    def codes(self) -> Codes | CodesObstacle:
        """What finds candidates in a large archive, or why nothing does."""
        return self.load_codes()

    def prepare(self) -> None:
        """Load what the first search of all rows needs."""
        if self.load_rows is not None:
            self.load_rows()
        elif self.rows >= _FEWEST_CODED_ROWS:
            self.codes  # noqa: B018 - loads them
        self.sample  # noqa: B018 - reads it

    @cached_property
    def ranker(self) -> Ranker:
        """Finds the best rows."""
        return Ranker(self.segments)

    @cached_property
    def living(self) -> tuple[NDArray[np.bool_], ...] | None:
        """Per segment the rows that were not deleted, ``(N,)`` bool; None where none was."""
        if all(segment.alive is None for segment in self.segments):
            return None
        return tuple(
            np.ones(segment.record.rows, bool) if segment.alive is None else segment.alive
            for segment in self.segments
        )

    @cached_property
    def last_filter(self) -> list[tuple[Where, Filtered]]:
        """The filter that was last applied, if any, and what passed: the next query often has the same."""
        return []

    @cached_property
    def place_blocks(self) -> tuple[PlaceBlocks, ...]:
        """Per segment the boxes of its runs of rows."""
        return tuple(PlaceBlocks(segment.box) for segment in self._read_boxes())

    @cached_property
    def rows_without_place(self) -> int:
        """Living rows that pass no filter by place."""
        return sum(_count(np.isnan(segment.box[:, 0]), segment) for segment in self._read_boxes())

    def _read_boxes(self) -> Iterator[Segment]:
        """The segments, to be read one by one; their boxes do not stay resident in a large archive."""
        pages = PageBudget([segment.box for segment in self.segments], kept=_KEPT_BOX_BYTES)
        for segment in self.segments:
            yield segment
            pages.touched(scanned_bytes=segment.box.nbytes)

    @cached_property
    def rows_without_time(self) -> int:
        """Living rows that pass no filter by time."""
        return sum(_count(segment.time == NO_TIME, segment) for segment in self.segments)

    @cached_property
    def sample(self) -> NDArray[np.float32]:
        """``(n, D)`` float32, n <= 4,096: rows drawn with a fixed seed, the same for equal archives."""
        numbers = np.arange(self.rows)
        if self.rows > SAMPLE_ROWS:
            generator = np.random.default_rng(_SAMPLE_SEED)
            numbers = np.sort(generator.choice(self.rows, SAMPLE_ROWS, replace=False))
        if self.living is not None:
            numbers = np.flatnonzero(np.concatenate(self.living))[numbers]
        sample = rows_of(self.segments, numbers, self.dim)
        self.ranker.pages.touched(rows=len(numbers))
        return sample

    def moments(self, query: NDArray[np.float32]) -> tuple[float, float]:
        """Mean and standard deviation of the sample's scores; (0, 0) where it is empty."""
        # Not BLAS: waking its threads takes longer than so small a product.
        scores = np.einsum("nd,d->n", self.sample, query).astype(np.float64)
        return (float(scores.mean()), float(scores.std())) if len(scores) else (0.0, 0.0)


@dataclass(frozen=True, slots=True)
class Request:
    """What a search asks for besides its queries; see ``Archive.search``."""

    k: int
    where: Where
    merge: bool
    min_score: float | None
    exact: bool = False


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
        rankings = _rankings(snapshot, queries[pending], count, request, filtered)
        for q, ranked in zip(pending, rankings, strict=True):
            answer = _Answer(snapshot, catalog, request, queries[q], ranked)
            if len(ranked) < count or answer.complete:
                results[q] = answer.hits(filtered)
        count *= 4
    return [results[q] for q in range(len(queries))]


def _rankings(
    snapshot: Snapshot, queries: NDArray[np.float32], count: int, request: Request, filtered: Filtered
) -> list[Ranked]:
    """The first ``count`` rows of each query; by codes where they help and the request allows it."""
    passing, rows = filtered.passing, filtered.rows
    if snapshot.load_rows is not None:
        return snapshot.load_rows().best(queries, count, passing, rows)
    codes = None if request.exact or rows < _FEWEST_CODED_ROWS else snapshot.codes
    if isinstance(codes, Codes) and codes.calibration.reached:
        return snapshot.ranker.by_codes(codes, queries, count, request.k, passing, rows)
    return snapshot.ranker.exactly(queries, count, passing, rows)


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
        self._rows = ranked.rows.tolist()
        self._kept: list[tuple[int, TileRecord]] = []
        walked = self._walk()
        self._places, ended = places_from_ranking(walked, request.k, merge=request.merge)
        while len(self._kept) < PRESENCE_HITS and next(walked, None) is not None:
            pass
        self.complete = ended and len(self._kept) >= PRESENCE_HITS

    def _walk(self) -> Iterator[tuple[int, TileRecord]]:
        """The ranking's tiles that lie where they should, and their positions; fetched as far as needed."""
        at_once = max(2 * PRESENCE_HITS, self._request.k + 1)
        for start in range(0, len(self._rows), at_once):
            part = self._rows[start : start + at_once]
            tiles = self._catalog.tiles(part, self._snapshot.records)
            for position, row in enumerate(part, start):
                if row in tiles and lies_in(tiles[row].tile, self._request.where):
                    self._kept.append((position, tiles[row]))
                    yield self._kept[-1]

    def hits(self, filtered: Filtered) -> Hits:
        averaged = presence_hits(filtered.rows)
        best = self._scores[[position for position, _ in self._kept[:averaged]]]
        presence = float(best.mean(dtype=np.float64)) if len(best) else None
        least = self._request.min_score
        present = None if least is None else presence is not None and presence >= least
        mean, deviation = self._snapshot.moments(self._query)
        hits = tuple(
            self._hit(rank, place, mean, deviation)
            for rank, place in enumerate(self._places if present is not False else (), start=1)
        )
        return Hits(
            hits,
            presence,
            present,
            filtered.rows,
            filtered.without_place,
            filtered.without_time,
            filtered.without_metadata,
            best=float(best[0]) if len(best) else None,
        )

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


def _filtered(snapshot: Snapshot, catalog: Catalog, where: Where) -> Filtered:
    """What passes; kept for the next query where it follows from the snapshot alone."""
    if where.is_empty:
        return Filtered(snapshot.living, snapshot.rows)
    if where.sources is not None or where.keys:
        return _applied(snapshot, catalog, where)
    for applied, filtered in snapshot.last_filter:
        if applied == where:
            return filtered
    filtered = _applied(snapshot, catalog, where)
    snapshot.last_filter[:] = [(where, filtered)]
    return filtered


def _applied(snapshot: Snapshot, catalog: Catalog, where: Where) -> Filtered:
    sources = _source_numbers(catalog, where)
    without_metadata = 0
    having = np.array(sorted(sources_having(catalog, where.keys)), np.int64)
    rest = replace(where, bbox=None)
    blocks = snapshot.place_blocks if where.box is not None else ()

    def pass_filter(position: int) -> NDArray[np.bool_]:
        segment = snapshot.segments[position]
        masks = [] if rest.is_empty else [passing_rows(rest, segment, sources)]
        if where.box is not None:
            masks.append(blocks[position].touching(where.box))
        if segment.alive is not None:
            masks.append(segment.alive)
        return reduce(np.logical_and, masks)

    passing = list(snapshot.ranker.workers.map(pass_filter, range(len(snapshot.segments))))
    if where.keys:
        for segment in snapshot.segments:
            without_metadata += _count(~np.isin(segment.source, having), segment)
    return Filtered(
        tuple(passing),
        sum(int(np.count_nonzero(mask)) for mask in passing),
        snapshot.rows_without_place if where.asks_for_place else 0,
        snapshot.rows_without_time if where.asks_for_time else 0,
        without_metadata,
    )


def _count(mask: NDArray[np.bool_], segment: Segment) -> int:
    """Living rows of a mask."""
    return int(np.count_nonzero(mask if segment.alive is None else mask & segment.alive))


def _source_numbers(catalog: Catalog, where: Where) -> NDArray[np.int64] | None:
    chosen: set[int] | None = None
    if where.sources is not None:
        chosen = catalog.sources_by_path(where.sources)
    if where.metadata:
        having = catalog.sources_by_metadata(where.metadata)
        chosen = having if chosen is None else chosen & having
    if where.conditions:
        meeting = sources_meeting(catalog, where.parsed_conditions)
        chosen = meeting if chosen is None else chosen & meeting
    with reading(catalog.path):
        return None if chosen is None else np.array(sorted(chosen), np.int64)
