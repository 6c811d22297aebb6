"""What the database tells a reader about segments, tiles and sources."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np

from lrsclip_rt.archive.footprints import rings_from_wkb
from lrsclip_rt.archive.guarding import guarded, refuse_unless
from lrsclip_rt.archive.moves import has_table, is_live, moved_rows, row_in_snapshot
from lrsclip_rt.archive.records import ContentRecord, NewTile, Producer, SegmentRecord, TileRecord
from lrsclip_rt.archive.source_paths import SourcePaths
from lrsclip_rt.archive.times import is_time_us
from lrsclip_rt.errors import InputError
from lrsclip_rt.tiles import Window

__all__ = ["Catalog"]

_TILE_COLUMNS = (
    "id, source, level, col_off, row_off, width, height, segment, row,"
    " west, south, east, north, footprint, time_us, nodata_fraction"
)
_SEGMENTS = (
    "SELECT segment, rows, precision, backend, gate_passed, NULL, NULL"
    " FROM segments WHERE rows > 0 ORDER BY segment"
)
_SEGMENTS_AND_DEAD = (
    "SELECT segment, s.rows, precision, backend, gate_passed, d.first_row, d.rows"
    " FROM segments s LEFT JOIN deletions d USING (segment) WHERE s.rows > 0 ORDER BY segment, d.first_row"
)
_AT_ONCE = 500
"""Values in one statement; SQLite's oldest limit is 999."""


class Catalog:
    """Queries on an archive's database.

    Args:
        database: A connection; it is only read.
        path: Its file, for messages.
    """

    def __init__(self, database: sqlite3.Connection, path: Path) -> None:
        self.path = path
        self._database = database

    @guarded
    def segments(self) -> tuple[SegmentRecord, ...]:
        """Every segment with committed rows, in order, with its dead rows; of one moment."""
        query = _SEGMENTS
        if has_table(self._database, "deletions"):
            query = _SEGMENTS_AND_DEAD
        records: list[SegmentRecord] = []
        base = 0
        found = self._database.execute(query).fetchall()
        for number, runs in groupby(found, key=itemgetter(0)):
            lines = list(runs)
            _, rows, precision, backend, passed, _, _ = lines[0]
            dead = tuple((line[5], line[6]) for line in lines if line[5] is not None)
            numbers = (number, rows, *(value for run in dead for value in run))
            refuse_unless(all(isinstance(n, int) for n in numbers), f"segment {number}, rows {rows}")
            records.append(
                SegmentRecord(number, base, rows, Producer(precision, backend, bool(passed)), dead)
            )
            base += rows
        return tuple(records)

    @guarded
    def tiles(self, rows: Iterable[int], segments: Sequence[SegmentRecord]) -> dict[int, TileRecord]:
        """The tiles of global rows; rows that were deleted have none."""
        by_segment: dict[int, list[int]] = {}
        bases = np.array([segment.base for segment in segments])
        wanted = np.unique(np.fromiter(rows, np.int64))
        for row, index in zip(wanted.tolist(), np.searchsorted(bases, wanted, "right") - 1, strict=True):
            by_segment.setdefault(int(index), []).append(row - segments[index].base)
        found = {}
        for index, numbers in by_segment.items():
            base = segments[index].base
            for row, record in self._records(segments[index].number, numbers).items():
                found[base + row] = _tile_from_record(record, base + row)
        return found

    def _records(self, segment: int, rows: Sequence[int]) -> dict[int, tuple[Any, ...]]:
        """What is recorded of rows of a segment, also of one that was compacted away meanwhile."""
        found = {}
        for start in range(0, len(rows), _AT_ONCE):
            part = rows[start : start + _AT_ONCE]
            query = f"SELECT {_TILE_COLUMNS} FROM tiles WHERE segment = ? AND row IN ({_marks(part)})"
            found.update({record[8]: record for record in self._database.execute(query, (segment, *part))})
        missing = [row for row in rows if row not in found]
        if missing and not is_live(self._database, segment):
            for target, old_rows in moved_rows(self._database, segment, missing).items():
                for row, record in self._records(target, list(old_rows)).items():
                    found[old_rows[row]] = record
        return found

    @guarded
    def tile_by_id(self, prefix: str, segments: Sequence[SegmentRecord]) -> TileRecord:
        """The tile of an id, or of an unambiguous beginning of one.

        Raises:
            InputError: If there is none, or more than one.
        """
        text = prefix.strip().lower()
        if not text or set(text) - set("0123456789abcdef"):
            raise InputError(f"{prefix!r} is no tile id; expected 32 hex digits, or the first of them")
        query = f"SELECT {_TILE_COLUMNS} FROM tiles WHERE id >= ? AND id < ? LIMIT 2"
        records = self._database.execute(query, (text, text + "g")).fetchall()
        tiles = self._in_snapshot(records, segments)
        if len(tiles) != 1:
            what = "belongs to no tile of this archive" if not tiles else "begins more than one tile id"
            raise InputError(f"{prefix} {what}; ids are the `id` of search results")
        return tiles[0]

    @guarded
    def tiles_of_source(
        self, source: int, level: int | None, segments: Sequence[SegmentRecord]
    ) -> tuple[TileRecord, ...]:
        """All tiles of a source, by level and then in row-major order."""
        query = (
            f"SELECT {_TILE_COLUMNS} FROM tiles WHERE source = ? AND (? IS NULL OR level = ?)"
            " ORDER BY level, row_off, col_off, width, height"
        )
        return self._in_snapshot(self._database.execute(query, (source, level, level)).fetchall(), segments)

    def _in_snapshot(
        self, records: Sequence[tuple[Any, ...]], segments: Sequence[SegmentRecord]
    ) -> tuple[TileRecord, ...]:
        """The tiles of those records whose rows a snapshot holds."""
        by_number = {segment.number: segment for segment in segments}
        tiles = []
        for record in records:
            row = row_in_snapshot(self._database, by_number, record[7], record[8])
            if row is not None:
                tiles.append(_tile_from_record(record, row))
        return tuple(tiles)

    @guarded
    def content(self, source: int) -> ContentRecord:
        """What is recorded about a source.

        Raises:
            InputError: If there is none of this number.
        """
        query = (
            "SELECT content_sha256, size_bytes, width, height, crs, transform, gsd_m, time_us, reading"
            " FROM sources WHERE source = ?"
        )
        found = self._database.execute(query, (source,)).fetchone()
        if found is None:
            raise InputError(f"the archive has no source number {source}")
        sha, size, width, height, crs, transform, gsd_m, time_us, reading = found
        affine = None if transform is None else tuple(float(value) for value in json.loads(transform))
        return ContentRecord(sha, size, width, height, crs, affine, gsd_m, time_us, json.loads(reading))

    @guarded
    def locations(self, source: int) -> list[Path]:
        """Where a source lay when it was indexed."""
        query = (
            "SELECT roots.path, locations.path FROM locations JOIN roots USING (root)"
            " WHERE source = ? ORDER BY root, locations.path"
        )
        return [Path(root) / path for root, path in self._database.execute(query, (source,))]

    def path_text(self, source: int) -> str:
        """The path of a source for people: of several the first that exists."""
        paths = self.locations(source)
        if not paths:
            # Imported rows have no file; what their table calls the source stands in the metadata.
            href = self.rows("SELECT value FROM metadata WHERE source = ? AND key = 'source_href'", (source,))
            return str(href[0][0]) if href else f"sha256:{self.content(source).content_sha256}"
        if len(paths) > 1:
            return str(next((path for path in paths if path.exists()), paths[0]))
        return str(paths[0])

    @guarded
    def sources_by_path(self, patterns: Sequence[str]) -> set[int]:
        """Sources that one of ``patterns`` means (``source_paths``)."""
        query = "SELECT source, roots.path, locations.path FROM locations JOIN roots USING (root)"
        wanted = SourcePaths(patterns)
        return {
            int(source) for source, root, path in self._database.execute(query) if wanted.match(root, path)
        }

    @guarded
    def sources_by_metadata(self, metadata: Mapping[str, str]) -> set[int]:
        """Sources that have every key with its value.

        Raises:
            InputError: If no source has a key of this name.
        """
        found: set[int] | None = None
        for key, value in metadata.items():
            query = "SELECT source FROM metadata WHERE key = ? AND value = ?"
            having = {int(row[0]) for row in self._database.execute(query, (key, value))}
            if not having:
                self._refuse_unknown_key(key)
            found = having if found is None else found & having
        return found or set()

    @guarded
    def version(self) -> int:
        """A number that changes when somebody commits."""
        return int(self._database.execute("PRAGMA data_version").fetchone()[0])

    @guarded
    def rows(self, query: str, parameters: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """The rows of any reading statement."""
        return self._database.execute(query, tuple(parameters)).fetchall()

    def _refuse_unknown_key(self, key: str) -> None:
        keys = [row[0] for row in self._database.execute("SELECT DISTINCT key FROM metadata ORDER BY key")]
        (sources,) = self._database.execute("SELECT count(*) FROM sources").fetchone()
        if key not in keys and sources:
            known = ", ".join(keys) or "none"
            raise InputError(f"no source of this archive has metadata {key!r}; known keys: {known}")


def _tile_from_record(record: tuple[Any, ...], row: int) -> TileRecord:
    identifier, source, level, col_off, row_off, width, height = record[:7]
    west, south, east, north, footprint, time_us, nodata_fraction = record[9:]
    numbers = (source, level, col_off, row_off, width, height, row, *(() if time_us is None else (time_us,)))
    refuse_unless(all(isinstance(number, int) for number in numbers), f"tile {identifier}")
    refuse_unless(time_us is None or is_time_us(time_us), f"time of tile {identifier}")
    bbox = None if west is None else (float(west), float(south), float(east), float(north))
    try:
        window = Window(col_off, row_off, width, height)
        rings = () if footprint is None else rings_from_wkb(footprint)
    except InputError as error:
        # A stored value is wrong, not a caller's.
        raise ValueError(str(error)) from error
    tile = NewTile(level, window, bbox, rings, time_us, nodata_fraction)
    return TileRecord(identifier, row, source, tile)


def _marks(values: Sequence[object]) -> str:
    return ",".join("?" * len(values))
