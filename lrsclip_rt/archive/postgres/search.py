"""Search in an archive that was pushed to PostgreSQL: exact by default, by the archive's own arithmetic.

The database computes ``- <embedding, query>`` in float32 over its half-precision rows and hands over the best
rows with their vectors; those are scored again here as a folder's archive scores them. A half-precision query
would be too coarse, so it goes over in two parts, the second being what the first has lost.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from uuid import UUID

import numpy as np
from numpy.typing import NDArray

from lrsclip_rt.archive.hits import Hit, Hits
from lrsclip_rt.archive.places import places_from_ranking
from lrsclip_rt.archive.postgres.connection import DEFAULT_SCHEMA, server_errors
from lrsclip_rt.archive.postgres.filters import EVERYTHING, SqlFilter, filter_from_where
from lrsclip_rt.archive.postgres.reading import PostgresReader
from lrsclip_rt.archive.postgres.rows import (
    RankedTiles,
    text_from_halves,
)
from lrsclip_rt.archive.presence import PRESENCE_HITS, presence_hits
from lrsclip_rt.archive.queries import checked_queries
from lrsclip_rt.archive.records import TileRecord
from lrsclip_rt.archive.scanning import row_scores
from lrsclip_rt.archive.times import text_from_time_us
from lrsclip_rt.archive.where import Where, lies_in
from lrsclip_rt.errors import InputError

__all__ = ["PostgresArchive", "search_postgres"]

_LOW_PART = 1024.0
"""The second part of a query is stored so many times larger, out of the reach of subnormal halves."""

_EXACT = "(embedding <#> %s::halfvec) + (embedding <#> %s::halfvec) / 1024"
_ROUGH = "embedding <#> %s::halfvec"


_MOST_AT_ONCE = 65_536
"""Tiles with their vectors that are fetched at a time."""


@dataclass(frozen=True, slots=True)
class _Request:
    """What a search asks for besides its queries; see ``Archive.search``."""

    k: int
    where: Where
    filtered: SqlFilter
    merge: bool
    min_score: float | None
    approximate: bool


class PostgresArchive(PostgresReader):
    """An archive in PostgreSQL, opened for reading; what it shares with ``Archive`` has the same name.

    Example:
        >>> with PostgresArchive.open("postgresql://host/db") as archive:              # doctest: +SKIP
        ...     [hits] = archive.search(model.embed_texts("a harbour with ships"), k=3)
    """

    def search(
        self,
        vectors: NDArray[np.floating[Any]],
        k: int = 10,
        where: Where | None = None,
        *,
        merge: bool = True,
        min_score: float | None = None,
        exact: bool = False,
    ) -> list[Hits]:
        """Find the best places for each query; arguments and results are those of ``Archive.search``.

        With an area of interest the ``rows`` of a result are those that touch the area's box.

        Raises:
            InputError: If shapes disagree, a query is zero or not finite, ``k`` is not positive, or ``where``
                names metadata that no source has.
            ArchiveError: If the database fails.
        """
        queries = checked_queries(vectors, dim=self.dim)
        if k < 1:
            raise InputError(f"k must be at least 1, got {k}")
        asked = where if where is not None else Where()
        with server_errors(self.server, "searching"), self._connection.transaction():
            # All statements of a search see the database at one moment.
            self._connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
            filtered = filter_from_where(self._connection, self.server, asked)
            approximate = self.approximate and not exact
            request = _Request(k, asked, filtered, merge, min_score, approximate)
            rows, without = self._count(filtered), self._without(asked)
            return [self._answer(row, request, rows, without) for row in queries]

    def ranking(
        self,
        query_row: NDArray[np.float32],
        count: int,
        filtered: SqlFilter = EVERYTHING,
        *,
        approximate: bool = False,
        after: tuple[float, UUID] | None = None,
    ) -> RankedTiles:
        """The ``count`` best tiles of a ``(D,)`` unit query, without looking at places.

        Args:
            query_row: The query.
            count: How many.
            filtered: Which tiles take part.
            approximate: Ask the index, which has to be tuned before.
            after: Distance and id of the last tile that is known already; exact rankings only.
        """
        high = query_row.astype(np.float16)
        low = ((query_row - high.astype(np.float32)) * np.float32(_LOW_PART)).astype(np.float16)
        if approximate:
            found = self._rows(filtered, _ROUGH, (text_from_halves(high),), _ROUGH, count)
        else:
            distance = (text_from_halves(high), text_from_halves(low))
            rest = filtered
            if after is not None:
                text = f"{filtered.text} AND ({_EXACT}, id) > (%s, %s)"
                rest = SqlFilter(text, (*filtered.values, *distance, *after))
            found = self._rows(rest, _EXACT, distance, "distance, id", count)
        return RankedTiles.from_rows(found, query_row)

    def _answer(
        self,
        query_row: NDArray[np.float32],
        request: _Request,
        rows: int,
        without: tuple[int, int, int],
    ) -> Hits:
        """Ask for more until the places are complete, as a folder's archive does."""
        count = max(8 * (request.k + 1) if request.merge else request.k + 1, 2 * PRESENCE_HITS)
        kept: list[tuple[float, TileRecord]] = []
        after = None
        if request.approximate:
            self.tune(count)
        while True:
            ranked = self.ranking(
                query_row, count, request.filtered, approximate=request.approximate, after=after
            )
            # An index starts over with a longer ranking; an exact one goes on behind its last tile.
            kept = [] if request.approximate else kept
            kept += [pair for pair in ranked if lies_in(pair[1].tile, request.where)]
            places, ended = places_from_ranking(
                [(at, tile) for at, (_, tile) in enumerate(kept)], request.k, merge=request.merge
            )
            if len(ranked) < count or (ended and len(kept) >= PRESENCE_HITS):
                break
            after = ranked.last
            count = min(4 * count, _MOST_AT_ONCE)
        best = [score for score, _ in kept[: presence_hits(rows)]]
        presence = float(np.mean(best)) if best else None
        least = request.min_score
        present = None if least is None else presence is not None and presence >= least
        hrefs = self._hrefs({place.tile.source for place in places})
        mean, deviation = self._moments(query_row)
        hits = []
        for rank, place in enumerate(places if present is not False else (), start=1):
            score, tile = kept[place.position][0], place.tile.tile
            hit = Hit(
                rank=rank,
                score=score,
                z=(score - mean) / deviation if deviation > 0 else 0.0,
                id=place.tile.id,
                source=hrefs[place.tile.source],
                window=tile.window,
                datetime=None if tile.time_us is None else text_from_time_us(tile.time_us),
                bbox=tile.bbox,
                level=tile.level,
                count=place.count,
                footprint=tile.footprint,
            )
            hits.append(hit)
        return Hits(tuple(hits), presence, present, rows, *without, best=best[0] if best else None)

    def _moments(self, query_row: NDArray[np.float32]) -> tuple[float, float]:
        scores = row_scores(self.sample, query_row).astype(np.float64)
        return (float(scores.mean()), float(scores.std())) if len(scores) else (0.0, 0.0)

    def tune(self, count: int) -> None:
        """Settings of the approximate index for this transaction."""
        measured = self.pushed.approximate
        if measured is None:
            return
        for name, value in measured["settings"].items():
            least = max(int(value), count) if name == "hnsw.ef_search" else value
            limited = min(int(least), 1000) if name == "hnsw.ef_search" else least
            self._connection.execute("SELECT set_config(%s, %s, true)", (name, str(limited)))

    def _without(self, where: Where) -> tuple[int, int, int]:
        """Rows that no such filter lets pass: without a place, a time, or the metadata asked for."""

        def counted(condition: str, *values: object) -> int:
            return self._count(SqlFilter(condition, values))

        place = counted("bbox_xmin IS NULL") if where.asks_for_place else 0
        time = counted("datetime IS NULL") if where.asks_for_time else 0
        if not where.keys:
            return place, time, 0
        lacking = "NOT EXISTS (SELECT FROM {s}.sources s WHERE s.source = tiles.source AND s.metadata ?& %s)"
        return place, time, counted(lacking, list(where.keys))


def search_postgres(
    url: str,
    vectors: NDArray[np.floating[Any]],
    k: int = 10,
    where: Where | None = None,
    *,
    schema: str = DEFAULT_SCHEMA,
    approximate: bool = False,
    merge: bool = True,
    min_score: float | None = None,
) -> list[Hits]:
    """Connect, search and close; see ``PostgresArchive.open`` and ``PostgresArchive.search``."""
    with PostgresArchive.open(url, schema=schema, approximate=approximate) as archive:
        return archive.search(vectors, k, where, merge=merge, min_score=min_score)
