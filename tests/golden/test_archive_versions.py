"""Archives of earlier format versions: read as they are, brought up to date by the first writer."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import archive_makers as makers
import pytest

from lrsclip_rt.archive import Archive, ArchiveWriter, Where
from lrsclip_rt.archive.schema import APPLICATION_ID
from lrsclip_rt.archive.summary import summary_from_archive
from lrsclip_rt.archive.verifying import verify_archive

VERSION_1 = """
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

TABLES = "info roots sources locations metadata grids segments blocks tiles".split()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An archive as version 1 wrote it: its schema, and the same segment files."""
    path: Path = makers.write(tmp_path / "archive", range(5), segment_rows=20, block_rows=8)
    current = path / "archive.db"
    database = sqlite3.connect(tmp_path / "version-1.db", isolation_level=None)
    database.executescript(VERSION_1)
    database.execute("ATTACH ? AS current", (str(current),))
    for table in TABLES:
        database.execute(f"INSERT INTO main.{table} SELECT * FROM current.{table}")
    boxes = "box, min_lon, max_lon, min_lat, max_lat, tile"
    database.execute(f"INSERT INTO main.tile_boxes ({boxes}) SELECT {boxes} FROM current.tile_boxes")
    database.execute("UPDATE main.info SET value = '1' WHERE key = 'format_version'")
    database.execute("DETACH current")
    database.execute(f"PRAGMA application_id = {APPLICATION_ID}")
    database.execute("PRAGMA user_version = 1")
    database.execute("PRAGMA journal_mode = WAL")
    database.close()
    (tmp_path / "version-1.db").replace(current)
    return path


def version(folder: Path) -> tuple[int, str]:
    database = sqlite3.connect(folder / "archive.db")
    (user,) = database.execute("PRAGMA user_version").fetchone()
    (told,) = database.execute("SELECT value FROM info WHERE key = 'format_version'").fetchone()
    database.close()
    return user, told


def test_version_1_is_read_as_it_is(folder: Path) -> None:
    with Archive.open(folder) as archive:
        assert archive.info.format_version == 1
        assert makers.contents(archive) == makers.expected_contents(range(5))
        assert len(archive.search(makers.unit_rows(1), k=4, where=Where(bbox=(0, -1, 3, 1)))[0]) == 4
        assert archive.tile(archive.tiles_of_source(2)[1].id).source == 2
        assert summary_from_archive(archive).rows == 30
    assert not verify_archive(folder).damaged
    assert version(folder) == (1, "1")


def test_the_first_writer_brings_version_1_up_to_date(folder: Path) -> None:
    with ArchiveWriter.of_existing(folder):
        pass
    assert version(folder) == (2, "2")
    with ArchiveWriter(folder, makers.MODEL, makers.FP32) as writer:
        makers.add(writer, 5)
        writer.delete_source(1)
    with Archive.open(folder) as archive:
        assert archive.info.format_version == 2
        assert makers.contents(archive) == makers.expected_contents(range(1, 6))
    assert not verify_archive(folder).damaged


def test_an_update_that_was_interrupted_is_none(folder: Path) -> None:
    database = sqlite3.connect(folder / "archive.db", isolation_level=None)
    database.execute("BEGIN IMMEDIATE")
    database.execute("CREATE TABLE deletions (half TEXT)")
    database.close()
    with ArchiveWriter.of_existing(folder) as writer:
        writer.delete_source(3)
    assert version(folder) == (2, "2")
    assert not verify_archive(folder).damaged


def test_a_reader_of_version_1_survives_the_update_a_deletion_and_a_compaction(folder: Path) -> None:
    with Archive.open(folder) as archive:
        with ArchiveWriter.of_existing(folder) as writer:
            writer.delete_source(2)
            writer.commit()
            for _ in range(2):
                [hits] = archive.search(makers.unit_rows(1), k=40, merge=False)
                expected = makers.expected_contents(range(5))
                gone = makers.expected_contents(range(1, 2))
                assert {hit.id for hit in hits} == expected.keys() - gone.keys()
                writer.compact()
        assert archive.refresh() == 24
