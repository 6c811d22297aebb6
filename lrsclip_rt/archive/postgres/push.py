"""Bring PostgreSQL to what an archive holds: only what is missing is sent, only what is gone is removed.

Ids are walked through in order on both sides, a page at a time; each page is one transaction. A push that was
interrupted is therefore finished by the next.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any
from uuid import UUID

import numpy as np
from numpy.typing import NDArray

from lrsclip_rt.archive.footprints import wkb_from_rings
from lrsclip_rt.archive.postgres.connection import Server, connect, import_psycopg, server_errors
from lrsclip_rt.archive.postgres.schema import PushedInfo, create_schema, query, set_fact
from lrsclip_rt.archive.records import TileRecord
from lrsclip_rt.archive.scanning import rows_of
from lrsclip_rt.archive.source_facts import SourceFacts, facts_of_sources
from lrsclip_rt.archive.store import Archive
from lrsclip_rt.errors import ArchiveLockedError

if TYPE_CHECKING:
    from psycopg import Connection

__all__ = ["PushReport", "push_archive"]

PAGE_ROWS = 4_096
_SOURCES_AT_ONCE = 1_000
_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
_TILE_TYPES = (
    "uuid int8 int4 int4 int4 int4 int4 float8 float8 float8 float8 bytea timestamptz float4 bytea".split()
)
_STAGED = (
    "id uuid, source bigint, level integer, col_off integer, row_off integer, width integer, height integer,"
    " bbox_xmin double precision, bbox_ymin double precision, bbox_xmax double precision,"
    " bbox_ymax double precision, geometry bytea, datetime timestamptz, nodata_fraction real"
)
_SOURCE_COLUMNS = (
    "content_sha256, size_bytes, width, height, crs, transform, gsd_m, datetime, reading, href, locations,"
    " metadata"
)


@dataclass(slots=True)
class PushReport:
    """What a push did.

    Attributes:
        rows_sent: Rows that the database did not have.
        rows_removed: Rows that the archive no longer has.
        sources: Sources sent or compared.
        rows: Rows of the database now.
    """

    rows_sent: int = 0
    rows_removed: int = 0
    sources: int = 0
    rows: int = 0


def push_archive(
    archive: Archive,
    server: Server,
    *,
    keep: bool = False,
    progress: Callable[[int], None] | None = None,
) -> PushReport:
    """Send an archive's snapshot; the text tower stays behind.

    Args:
        archive: An open archive.
        server: Where to.
        keep: Leave rows in the database that the archive does not have: several archives in one schema.
        progress: Called with the number of rows compared.

    Raises:
        ArchiveError: If the database cannot be reached or refuses; what was committed stays.
        ArchiveModelError: If it holds vectors of another model.
        ArchiveLockedError: If another push into the schema is at work.
        DependencyError: If psycopg is not installed.
    """
    with (
        connect(server) as connection,
        server_errors(server, "pushing into"),
        _lock(connection, server),
    ):
        info = create_schema(connection, server, archive.model)
        report = PushReport()
        numbers = _push_sources(connection, server, archive, report)
        pages = _Pages(connection, server, archive, info, numbers)
        for page in _local_pages(archive):
            report.rows_sent += pages.send(page)
            if not keep:
                report.rows_removed += pages.remove_others(page)
            if progress is not None:
                progress(len(page.ids))
        if not keep:
            _remove_sources(connection, server)
        with connection.transaction():
            (report.rows,) = connection.execute(
                query("SELECT count(*) FROM {s}.tiles", server)
            ).fetchone() or (0,)
            set_fact(connection, server, "rows", report.rows)
            set_fact(connection, server, "pushed", datetime.now(timezone.utc).isoformat(timespec="seconds"))
        if report.rows_sent or report.rows_removed:
            connection.execute(query("VACUUM (ANALYZE) {s}.tiles", server))
    return report


@dataclass(frozen=True, slots=True)
class _Page:
    """Ids of the archive in ``(after, last]``; None: no end on that side.

    ``rows`` are those of the snapshot. A tile that was added or moved since is neither sent nor removed.
    """

    after: str | None
    last: str | None
    ids: list[str]
    rows: dict[str, int]


def _local_pages(archive: Archive) -> Iterator[_Page]:
    """Every tile of the archive, in the order of ids."""
    bases = {segment.number: segment.base for segment in archive.segments}
    ends = {segment.number: segment.rows for segment in archive.segments}
    after: str | None = None
    while True:
        found = archive.catalog.rows(
            "SELECT id, segment, row FROM tiles WHERE id > ? ORDER BY id LIMIT ?", (after or "", PAGE_ROWS)
        )
        last = found[-1][0] if len(found) == PAGE_ROWS else None
        inside = {name: bases[at] + row for name, at, row in found if row < ends.get(at, 0)}
        yield _Page(after, last, [name for name, _, _ in found], inside)
        if last is None:
            return
        after = last


class _Pages:
    """Compares and sends pages over one connection."""

    def __init__(
        self,
        connection: Connection[Any],
        server: Server,
        archive: Archive,
        info: PushedInfo,
        numbers: dict[int, int],
    ) -> None:
        self._connection, self._server, self._archive = connection, server, archive
        self._postgis, self._numbers = info.postgis, numbers
        staged = f"CREATE TEMPORARY TABLE staged ({_STAGED}, embedding halfvec({archive.dim}))"
        connection.execute(staged)

    def send(self, page: _Page) -> int:
        """Send what the database lacks of a page."""
        if not page.ids:
            return 0
        held = self._connection.execute(
            query("SELECT id FROM {s}.tiles WHERE id = ANY(%s)", self._server),
            ([UUID(hex=name) for name in page.ids],),
        )
        known = {row[0].hex for row in held}
        rows = [row for name, row in page.rows.items() if name not in known]
        if not rows:
            return 0
        tiles = self._archive.catalog.tiles(rows, self._archive.segments)
        present = [row for row in rows if row in tiles and tiles[row].source in self._numbers]
        vectors = rows_of(self._archive.mapped_segments, np.array(present, np.int64), self._archive.dim)
        with self._connection.transaction():
            self._connection.execute("TRUNCATE staged")
            self._copy([tiles[row] for row in present], vectors)
            geometry = "ST_GeomFromWKB(geometry, 4326)" if self._postgis else "geometry"
            insert = (
                "INSERT INTO {s}.tiles SELECT id, source, level, col_off, row_off, width, height, bbox_xmin,"
                f" bbox_ymin, bbox_xmax, bbox_ymax, {geometry}, datetime, nodata_fraction, embedding"
                " FROM staged ON CONFLICT (id) DO NOTHING"
            )
            self._connection.execute(query(insert, self._server))
        return len(present)

    def remove_others(self, page: _Page) -> int:
        """Remove what lies between the page's ends and is not of the archive."""
        conditions, values = [], []
        for sign, end in ((">", page.after), ("<=", page.last)):
            if end is not None:
                conditions.append(f"id {sign} %s")
                values.append(UUID(hex=end))
        conditions.append("NOT (id = ANY(%s))")
        delete = "DELETE FROM {s}.tiles WHERE " + " AND ".join(conditions)
        held = [UUID(hex=name) for name in page.ids]
        removed = self._connection.execute(query(delete, self._server), (*values, held))
        return int(removed.rowcount)

    def _copy(self, tiles: Sequence[TileRecord], vectors: NDArray[np.float32]) -> None:
        halves = vectors.astype(">f2")
        # halfvec on the wire: its length and an unused number, both 16 bit, then the halves, big-endian.
        head = self._archive.dim.to_bytes(2, "big") + b"\0\0"
        with self._connection.cursor().copy("COPY staged FROM STDIN (FORMAT BINARY)") as copy:
            copy.set_types(_TILE_TYPES)
            for record, half in zip(tiles, halves, strict=True):
                tile = record.tile
                copy.write_row(
                    (
                        UUID(hex=record.id),
                        self._numbers[record.source],
                        tile.level,
                        *tile.window.as_list(),
                        *(tile.bbox or (None,) * 4),
                        wkb_from_rings(tile.footprint) if tile.footprint else None,
                        None if tile.time_us is None else _EPOCH + timedelta(microseconds=tile.time_us),
                        tile.nodata_fraction,
                        head + half.tobytes(),
                    )
                )


def _push_sources(
    connection: Connection[Any], server: Server, archive: Archive, report: PushReport
) -> dict[int, int]:
    """Send new and changed sources; the database's number of each of the archive's."""
    columns = [name.strip() for name in _SOURCE_COLUMNS.split(",")]
    changes = ", ".join(f"{name} = excluded.{name}" for name in columns[1:])
    held = ", ".join(f"h.{name}" for name in columns[1:])
    new = ", ".join(f"excluded.{name}" for name in columns[1:])
    insert = query(
        f"INSERT INTO {{s}}.sources AS h ({_SOURCE_COLUMNS}) VALUES ({', '.join(['%s'] * len(columns))})"
        f" ON CONFLICT (content_sha256) DO UPDATE SET {changes} WHERE ({held}) IS DISTINCT FROM ({new})",
        server,
    )
    numbers: dict[int, int] = {}
    local = [int(row[0]) for row in archive.catalog.rows("SELECT source FROM sources ORDER BY source")]
    for start in range(0, len(local), _SOURCES_AT_ONCE):
        facts = facts_of_sources(archive.catalog, local[start : start + _SOURCES_AT_ONCE])
        by_hash = {fact.content.content_sha256: number for number, fact in facts.items()}
        with connection.transaction():
            connection.cursor().executemany(insert, [_source_values(fact) for fact in facts.values()])
            asked = "SELECT content_sha256, source FROM {s}.sources WHERE content_sha256 = ANY(%s)"
            for sha256, source in connection.execute(query(asked, server), (list(by_hash),)):
                numbers[by_hash[sha256]] = source
        report.sources += len(facts)
    return numbers


def _source_values(facts: SourceFacts) -> tuple[object, ...]:
    content = facts.content
    return (
        content.content_sha256,
        content.size_bytes,
        content.width,
        content.height,
        content.crs,
        None if content.transform is None else json.dumps(list(content.transform)),
        content.gsd_m,
        None if content.time_us is None else _EPOCH + timedelta(microseconds=content.time_us),
        json.dumps(dict(content.reading), sort_keys=True),
        facts.href,
        json.dumps([[at.root, at.path, at.mtime_ns] for at in facts.locations]),
        json.dumps(facts.metadata),
    )


def _remove_sources(connection: Connection[Any], server: Server) -> None:
    """Sources whose last tile went; those of the archive that never had one come back with the next push."""
    delete = "DELETE FROM {s}.sources s WHERE NOT EXISTS (SELECT FROM {s}.tiles t WHERE t.source = s.source)"
    connection.execute(query(delete, server))


@contextmanager
def _lock(connection: Connection[Any], server: Server) -> Iterator[None]:
    """Keep other pushes out of the schema; given back before the connection ends, which takes a moment."""
    key = (f"lrsclip:{server.schema}",)
    asked = connection.execute("SELECT pg_try_advisory_lock(hashtextextended(%s, 0))", key)
    if asked.fetchone() != (True,):
        raise ArchiveLockedError(f"{server} is being written by another push. Wait for it to end")
    try:
        yield
    finally:
        # A connection that fails here is lost, and the lock with it.
        with suppress(import_psycopg().Error):
            connection.execute("SELECT pg_advisory_unlock(hashtextextended(%s, 0))", key)
