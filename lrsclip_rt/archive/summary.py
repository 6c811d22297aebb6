"""What an archive holds, at a glance."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lrsclip_rt.archive.codes.summary import search_facts
from lrsclip_rt.archive.footprints import Bbox
from lrsclip_rt.archive.guarding import reading
from lrsclip_rt.archive.schema import DATABASE
from lrsclip_rt.archive.store import Archive
from lrsclip_rt.archive.times import text_from_time_us

__all__ = ["ArchiveSummary", "summary_from_archive"]


@dataclass(frozen=True, slots=True)
class ArchiveSummary:
    """The facts of ``lrsclip archive info``.

    Attributes:
        path: The folder.
        format_version: Of the folder's format.
        created: When, ISO 8601.
        rows: Rows in all.
        sources: Sources, by content.
        locations: Paths to them.
        unfinished_sources: Sources without a single finished grid: index them again.
        skipped_windows: Windows that are mostly nodata.
        levels: Rows by level.
        model: Name, identity and D.
        segments: Rows by precision and backend.
        metadata_keys: Keys that ``--where`` knows.
        roots: Folder of every named root.
        extent: West, south, east, north [deg] of all rows with a place; None without any.
        rows_without_place: Rows without one.
        first_time: Earliest time; None without any.
        last_time: Latest time.
        rows_without_time: Rows without one.
        bytes: Size of all files [bytes].
        search: How it is searched: exactly or by codes, with the recall that was measured.
    """

    path: str
    format_version: int
    created: str
    rows: int
    sources: int
    locations: int
    unfinished_sources: int
    skipped_windows: int
    levels: dict[str, int]
    model: dict[str, Any]
    segments: list[dict[str, Any]]
    metadata_keys: list[str]
    roots: dict[str, str]
    extent: Bbox | None
    rows_without_place: int
    first_time: str | None
    last_time: str | None
    rows_without_time: int
    bytes: int
    search: dict[str, Any]


def summary_from_archive(archive: Archive) -> ArchiveSummary:
    """Collect the facts; one pass over the database.

    Raises:
        ArchiveCorruptError: If a value of the database makes no sense.
    """
    with reading(archive.path / DATABASE):
        return _summary(archive)


def _summary(archive: Archive) -> ArchiveSummary:
    rows = archive.catalog.rows

    def one(query: str) -> Any:
        return rows(query)[0][0]

    west, south, east, north, first, last = rows(
        "SELECT min(CASE WHEN west > east THEN -180 ELSE west END), min(south),"
        " max(CASE WHEN west > east THEN 180 ELSE east END), max(north),"
        " min(time_us), max(time_us) FROM tiles"
    )[0]
    producers = rows("SELECT precision, backend, sum(rows) FROM segments WHERE rows > 0 GROUP BY 1, 2")
    levels = rows("SELECT level, count(*) FROM tiles GROUP BY level ORDER BY level")
    unfinished = "SELECT count(*) FROM sources WHERE source NOT IN (SELECT source FROM grids)"
    return ArchiveSummary(
        path=str(archive.path),
        format_version=archive.info.format_version,
        created=archive.info.created,
        rows=len(archive),
        sources=one("SELECT count(*) FROM sources"),
        locations=one("SELECT count(*) FROM locations"),
        unfinished_sources=one(unfinished),
        skipped_windows=one("SELECT coalesce(sum(skipped), 0) FROM grids"),
        levels={str(level): count for level, count in levels},
        model={"name": archive.model.name, "identity": archive.model.identity, "dim": archive.dim},
        segments=[{"precision": p, "backend": b, "rows": n} for p, b, n in producers],
        metadata_keys=[key for (key,) in rows("SELECT DISTINCT key FROM metadata ORDER BY key")],
        roots=dict(rows("SELECT name, path FROM roots ORDER BY root")),
        extent=None if west is None else (float(west), float(south), float(east), float(north)),
        rows_without_place=one("SELECT count(*) FROM tiles WHERE west IS NULL"),
        first_time=None if first is None else text_from_time_us(first),
        last_time=None if last is None else text_from_time_us(last),
        rows_without_time=one("SELECT count(*) FROM tiles WHERE time_us IS NULL"),
        bytes=_size_of_folder(archive.path),
        search=search_facts(archive),
    )


def _size_of_folder(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
