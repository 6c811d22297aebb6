"""archive.db: its tables, how it is opened for writing and for reading, and which versions are understood."""

from __future__ import annotations

import os
import sqlite3
from dataclasses import dataclass
from pathlib import Path

from lrsclip_rt.archive.guarding import reading
from lrsclip_rt.archive.records import ModelRecord
from lrsclip_rt.errors import ArchiveCorruptError, ArchiveError

__all__ = [
    "APPLICATION_ID",
    "DATABASE",
    "FORMAT_VERSION",
    "LOCK_FILE",
    "MODEL",
    "SEGMENTS",
    "ArchiveInfo",
    "connect_to_read",
    "connect_to_write",
    "create_tables",
    "is_created",
    "migrate",
    "read_info",
]

FORMAT_VERSION = 2
APPLICATION_ID = 0x4C525341
"""``LRSA`` in the database's header: an archive is told from any other SQLite file."""

_FACTS = (
    "format_version",
    "created",
    "model_identity",
    "model_name",
    "dim",
    "bundle_path",
    "segment_rows",
    "block_rows",
)
_MOST_DIM = 65_536

DATABASE, SEGMENTS, MODEL, LOCK_FILE = "archive.db", "segments", "model", "writer.lock"

_TABLES = """
CREATE TABLE info (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;

CREATE TABLE roots (
    root INTEGER PRIMARY KEY,
    name TEXT NOT NULL UNIQUE,
    path TEXT NOT NULL UNIQUE              -- absolute folder
);
CREATE TABLE sources (
    source INTEGER PRIMARY KEY,
    content_sha256 TEXT NOT NULL UNIQUE,
    size_bytes INTEGER NOT NULL,
    width INTEGER NOT NULL,                -- px
    height INTEGER NOT NULL,               -- px
    crs TEXT,
    transform TEXT,                        -- JSON [a, b, c, d, e, f]
    gsd_m REAL,
    time_us INTEGER,                       -- since 1970-01-01 UTC
    reading TEXT NOT NULL                  -- JSON: bands, nodata, stretch
);
CREATE TABLE locations (
    root INTEGER NOT NULL REFERENCES roots,
    path TEXT NOT NULL,                    -- relative to the root, with /
    source INTEGER NOT NULL REFERENCES sources,
    mtime_ns INTEGER NOT NULL,
    PRIMARY KEY (root, path)
) WITHOUT ROWID;
CREATE INDEX locations_by_source ON locations (source);
CREATE TABLE metadata (
    source INTEGER NOT NULL REFERENCES sources,
    key TEXT NOT NULL,
    value TEXT NOT NULL,
    PRIMARY KEY (source, key)
) WITHOUT ROWID;
CREATE INDEX metadata_by_value ON metadata (key, value);
CREATE TABLE grids (                       -- only finished ones: a grid that is here needs no second look
    source INTEGER NOT NULL REFERENCES sources,
    level INTEGER NOT NULL,                -- nominal tile edge, px; 0: the whole image
    overlap REAL NOT NULL,
    windows INTEGER NOT NULL,              -- of the grid
    skipped INTEGER NOT NULL,              -- of these, left out because they are mostly nodata
    PRIMARY KEY (source, level, overlap)
) WITHOUT ROWID;

CREATE TABLE segments (
    segment INTEGER PRIMARY KEY,
    rows INTEGER NOT NULL,
    precision TEXT NOT NULL,
    backend TEXT NOT NULL,
    gate_passed INTEGER NOT NULL
);
CREATE TABLE blocks (                      -- checksums of the segment files, by blocks of rows
    segment INTEGER NOT NULL REFERENCES segments,
    block INTEGER NOT NULL,                -- rows block * block_rows ...
    column_name TEXT NOT NULL,
    rows INTEGER NOT NULL,
    crc32 INTEGER NOT NULL,
    PRIMARY KEY (segment, block, column_name)
) WITHOUT ROWID;

CREATE TABLE tiles (
    tile INTEGER PRIMARY KEY,
    id TEXT NOT NULL UNIQUE,               -- 32 hex digits
    source INTEGER NOT NULL REFERENCES sources,
    level INTEGER NOT NULL,
    col_off INTEGER NOT NULL,
    row_off INTEGER NOT NULL,
    width INTEGER NOT NULL,
    height INTEGER NOT NULL,
    segment INTEGER NOT NULL REFERENCES segments,
    row INTEGER NOT NULL,                  -- in the segment
    west REAL, south REAL, east REAL, north REAL,   -- degrees; west > east across the antimeridian
    footprint BLOB,                        -- WKB, WGS84
    time_us INTEGER,
    nodata_fraction REAL,
    UNIQUE (segment, row)
);
CREATE INDEX tiles_by_source ON tiles (source, level);
CREATE VIRTUAL TABLE tile_boxes USING rtree (   -- two boxes for a tile across the antimeridian
    box, min_lon, max_lon, min_lat, max_lat, +tile INTEGER
);
"""

_ADDED_IN_2 = """
CREATE TABLE deletions (                   -- runs of dead rows; they have no tile
    segment INTEGER NOT NULL REFERENCES segments,
    first_row INTEGER NOT NULL,
    rows INTEGER NOT NULL,
    PRIMARY KEY (segment, first_row)
) WITHOUT ROWID;
CREATE TABLE moves (                       -- where compaction put the living rows of a segment that is gone
    segment INTEGER NOT NULL,
    first_row INTEGER NOT NULL,
    rows INTEGER NOT NULL,
    to_segment INTEGER NOT NULL,
    to_row INTEGER NOT NULL,
    PRIMARY KEY (segment, first_row)
) WITHOUT ROWID;
CREATE INDEX moves_by_target ON moves (to_segment, to_row);
"""

_PROGRAMS = """
SELECT type, name FROM sqlite_master WHERE type IN ('view', 'trigger')
UNION ALL
SELECT 'generated column', column.name FROM sqlite_master AS tables, pragma_table_xinfo(tables.name) AS column
WHERE tables.type = 'table' AND column.hidden IN (2, 3)
LIMIT 1
"""

_JOURNAL_BYTES = 64 << 20
"""What the write-ahead log is cut to once it has been folded into the database."""


def create_tables(connection: sqlite3.Connection) -> None:
    """Make the tables in the transaction that the caller has begun."""
    for statement in _statements(_TABLES + _ADDED_IN_2):
        connection.execute(statement)
    connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
    connection.execute(f"PRAGMA user_version = {FORMAT_VERSION}")


def migrate(connection: sqlite3.Connection) -> None:
    """Bring an older archive to this version's tables, in one transaction; the caller is its one writer.

    Version 2 only adds tables, so that readers that are at work notice nothing.
    """
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if version >= FORMAT_VERSION:
        return
    connection.execute("BEGIN IMMEDIATE")
    for statement in _statements(_ADDED_IN_2):
        connection.execute(statement)
    connection.execute("UPDATE info SET value = ? WHERE key = 'format_version'", (str(FORMAT_VERSION),))
    connection.execute(f"PRAGMA user_version = {FORMAT_VERSION}")
    connection.execute("COMMIT")


def _statements(script: str) -> list[str]:
    statements, start = [], 0
    for end in range(len(script)):
        if script[end] == ";" and sqlite3.complete_statement(script[start : end + 1]):
            statements.append(script[start : end + 1])
            start = end + 1
    return statements


def is_created(folder: Path) -> bool:
    """Whether ``folder`` holds a database whose creation reached its end.

    Raises:
        ArchiveError: If archive.db belongs to something else.
    """
    path = folder / DATABASE
    if not path.exists() or path.stat().st_size == 0:
        return False
    _roll_back(path)
    connection = connect_to_read(folder)
    try:
        with reading(path):
            return _is_ours(connection, path)
    finally:
        connection.close()


def _roll_back(path: Path) -> None:
    """A power cut in the first moments, before the write-ahead log is in use, leaves a rollback journal."""
    if not _rollback_journal(path).exists():
        return
    connection = sqlite3.connect(path)
    try:
        connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    except (sqlite3.DatabaseError, UnicodeError) as error:
        raise _unreadable(path, error) from error
    finally:
        connection.close()


def _rollback_journal(path: Path) -> Path:
    return path.with_name(path.name + "-journal")


def connect_to_write(folder: Path) -> sqlite3.Connection:
    """Open the database for the one writer: explicit transactions, WAL, every commit on the disk."""
    connection = sqlite3.connect(
        folder / DATABASE, isolation_level=None, timeout=60.0, check_same_thread=False
    )
    try:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA foreign_keys = ON")
        connection.execute(f"PRAGMA journal_size_limit = {_JOURNAL_BYTES}")
    except (sqlite3.DatabaseError, UnicodeError) as error:
        connection.close()
        raise _unreadable(folder / DATABASE, error) from error
    return connection


def connect_to_read(folder: Path) -> sqlite3.Connection:
    """Open the database without ever writing to it.

    SQLite keeps the index of a write-ahead log in ``archive.db-shm``. Where the folder can be written,
    SQLite makes that file for a reader too. Where it cannot, a log that exists is read through the
    index that exists; without a log nobody is writing and the database is opened as immutable.

    Raises:
        ArchiveError: If it cannot be opened.
    """
    path = (folder / DATABASE).absolute()
    log = path.with_name(path.name + "-wal")
    alone = not os.access(folder, os.W_OK) and not (log.exists() and log.stat().st_size)
    mode = "mode=ro&immutable=1" if alone else "mode=ro"
    try:
        connection = sqlite3.connect(
            f"{path.as_uri()}?{mode}", uri=True, isolation_level=None, timeout=60.0, check_same_thread=False
        )
    except sqlite3.DatabaseError as error:
        raise _unreadable(path, error) from error
    try:
        connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    except (sqlite3.DatabaseError, UnicodeError) as error:
        connection.close()
        raise _unreadable(path, error) from error
    return connection


def _unreadable(path: Path, error: sqlite3.DatabaseError | UnicodeError) -> ArchiveError:
    if isinstance(error, UnicodeError) or "not a database" in str(error) or "malformed" in str(error):
        return ArchiveCorruptError(
            f"{path} is no readable SQLite database ({error}). Restore it from a copy, or index again"
        )
    if _rollback_journal(path).exists():
        return ArchiveError(f"{path.parent} was never finished being created. Run lrsclip index on it again")
    if isinstance(error, sqlite3.OperationalError) and "disk" in str(error):
        return ArchiveError(
            f"{path} cannot be opened ({error}). SQLite needs some free space beside it, also to read: "
            "make room on its disk, if that is full"
        )
    if isinstance(error, sqlite3.OperationalError) and path.exists():
        return ArchiveError(
            f"{path} cannot be opened ({error}). In a folder that cannot be written, an archive must have "
            "been closed by its writer: copy the folder to a place that you can write to"
        )
    return ArchiveError(f"{path} cannot be opened ({error})")


def _is_ours(connection: sqlite3.Connection, path: Path) -> bool:
    (application,) = connection.execute("PRAGMA application_id").fetchone()
    if application == APPLICATION_ID:
        _refuse_programs(connection, path)
        return True
    (tables,) = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    if tables == 0 and application == 0:
        return False  # the creation was interrupted before its only transaction
    raise ArchiveError(
        f"{path} is an SQLite database of something else, not an archive. Choose another folder"
    )


def _refuse_programs(connection: sqlite3.Connection, path: Path) -> None:
    """Refuse what runs when a table is read: a forged view may never end, or fill the memory."""
    found = connection.execute(_PROGRAMS).fetchone()
    if found is not None:
        raise ArchiveCorruptError(
            f"{path} holds the {found[0]} {found[1]!r:.60}, but an archive holds plain tables alone: it was "
            "not written by lrsclip. Do not use it; restore it from a copy, or index again"
        )


@dataclass(frozen=True, slots=True)
class ArchiveInfo:
    """The facts of the ``info`` table.

    Attributes:
        format_version: Of the folder's format.
        created: When, ISO 8601.
        model: Whose vectors the archive holds.
        segment_rows: Most rows of a segment.
        block_rows: Rows behind one checksum.
    """

    format_version: int
    created: str
    model: ModelRecord
    segment_rows: int
    block_rows: int


def read_info(folder: Path, connection: sqlite3.Connection) -> ArchiveInfo:
    """The facts of an archive of a format that this version understands.

    Raises:
        ArchiveError: If it is no archive, or a newer one.
        ArchiveCorruptError: If a fact is missing or makes no sense.
    """
    path = folder / DATABASE
    with reading(path):
        if not _is_ours(connection, path):
            raise ArchiveError(f"{folder} was never finished being created. Run lrsclip index on it again")
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        _refuse_newer(folder, version)
        facts = dict(connection.execute("SELECT key, value FROM info").fetchall())
        _refuse_newer(folder, int(facts["format_version"]) if "format_version" in facts else 0)
        missing = [key for key in _FACTS if key not in facts]
        if missing:
            raise ArchiveCorruptError(f"{path} lacks {', '.join(missing)}. Restore it from a copy")
        dim, segment_rows, block_rows = (int(facts[key]) for key in ("dim", "segment_rows", "block_rows"))
        if not 1 <= dim <= _MOST_DIM or segment_rows < 1 or block_rows < 1:
            raise ValueError(f"dim {dim}, segment_rows {segment_rows}, block_rows {block_rows}")
        model = ModelRecord(facts["model_identity"], facts["model_name"], dim, facts["bundle_path"] or None)
        return ArchiveInfo(version, facts["created"], model, segment_rows, block_rows)


def _refuse_newer(folder: Path, version: int) -> None:
    if version > FORMAT_VERSION:
        raise ArchiveError(
            f"{folder} has format_version {version}, this lrsclip-rt reads up to {FORMAT_VERSION}. "
            "Upgrade it: pip install -U lrsclip-rt"
        )
