"""Sources in the database: what they are, where they lie, what is known about them."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping
from pathlib import Path

from lrsclip_rt.archive.records import ContentRecord, Location
from lrsclip_rt.errors import ArchiveError

__all__ = ["add_source", "put_grid", "put_location", "put_metadata", "source_number"]

_NEXT_SOURCE = (
    "SELECT 1 + max((SELECT coalesce(max(source), 0) FROM sources),"
    " (SELECT coalesce(max(CAST(value AS INTEGER)), 0) FROM info WHERE key = 'last_source'))"
)


def source_number(database: sqlite3.Connection, content_sha256: str) -> int | None:
    """The number of a source by its content; None where it is not there."""
    query = "SELECT source FROM sources WHERE content_sha256 = ?"
    found = database.execute(query, (content_sha256,)).fetchone()
    return None if found is None else int(found[0])


def add_source(database: sqlite3.Connection, content: ContentRecord) -> int:
    """The number of a source, which is added where its content is new; numbers are never given twice.

    Raises:
        ArchiveError: If the content is there but its pixels were read in another way.
    """
    reading = json.dumps(dict(content.reading), sort_keys=True)
    known = source_number(database, content.content_sha256)
    if known is not None:
        _check_reading(database, known, reading)
        return known
    (number,) = database.execute(_NEXT_SOURCE).fetchone()
    transform = None if content.transform is None else json.dumps(list(content.transform))
    database.execute(
        "INSERT INTO sources (source, content_sha256, size_bytes, width, height, crs, transform, gsd_m,"
        " time_us, reading) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            number,
            content.content_sha256,
            content.size_bytes,
            content.width,
            content.height,
            content.crs,
            transform,
            content.gsd_m,
            content.time_us,
            reading,
        ),
    )
    return int(number)


def put_location(database: sqlite3.Connection, source: int, location: Location) -> int | None:
    """Record where a source lies; the number of another source that lay there before, or None."""
    root = _root(database, location.root)
    query = "SELECT source FROM locations WHERE root = ? AND path = ?"
    before = database.execute(query, (root, location.path)).fetchone()
    database.execute(
        "INSERT OR REPLACE INTO locations (root, path, source, mtime_ns) VALUES (?, ?, ?, ?)",
        (root, location.path, source, location.mtime_ns),
    )
    return int(before[0]) if before is not None and before[0] != source else None


def put_metadata(database: sqlite3.Connection, source: int, metadata: Mapping[str, str]) -> None:
    """Record keys and values of a source; a key that it has gets the new value."""
    database.executemany(
        "INSERT OR REPLACE INTO metadata (source, key, value) VALUES (?, ?, ?)",
        [(source, key, value) for key, value in metadata.items()],
    )


def put_grid(
    database: sqlite3.Connection, source: int, *, level: int, overlap: float, windows: int, skipped: int
) -> None:
    """Record that a grid of a source is complete."""
    database.execute(
        "INSERT OR REPLACE INTO grids (source, level, overlap, windows, skipped) VALUES (?, ?, ?, ?, ?)",
        (source, level, overlap, windows, skipped),
    )


def _check_reading(database: sqlite3.Connection, source: int, reading: str) -> None:
    query = "SELECT reading FROM sources WHERE source = ?"
    (held,) = database.execute(query, (source,)).fetchone()
    if held != reading:
        raise ArchiveError(
            f"its pixels were read with {held} when it was indexed, now with {reading}. "
            "Index it with the same options, or into another archive"
        )


def _root(database: sqlite3.Connection, path: str) -> int:
    found = database.execute("SELECT root FROM roots WHERE path = ?", (path,)).fetchone()
    if found is not None:
        return int(found[0])
    taken = {row[0] for row in database.execute("SELECT name FROM roots")}
    base = Path(path).name or "root"
    name, count = base, 2
    while name in taken:
        name, count = f"{base}-{count}", count + 1
    cursor = database.execute("INSERT INTO roots (name, path) VALUES (?, ?)", (name, path))
    return int(cursor.lastrowid or 0)
