"""What the database tells a reader about segments, tiles and sources."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import numpy as np

from lrsclip_rt.archive.footprints import rings_from_wkb
from lrsclip_rt.archive.guarding import guarded, refuse_unless
from lrsclip_rt.archive.records import ContentRecord, NewTile, Producer, SegmentRecord, TileRecord
from lrsclip_rt.errors import InputError
from lrsclip_rt.tiles import Window

__all__ = ["Catalog"]

_TILE_COLUMNS = (
    "id, source, level, col_off, row_off, width, height, segment, row,"
    " west, south, east, north, footprint, time_us, nodata_fraction"
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
        """Every segment with committed rows, in order."""
        columns = "segment, rows, precision, backend, gate_passed"
        query = f"SELECT {columns} FROM segments WHERE rows > 0 ORDER BY segment"
        records, base = [], 0
        for number, rows, precision, backend, passed in self._database.execute(query):
            refuse_unless(isinstance(number, int) and isinstance(rows, int), f"segment {number}, rows {rows}")
            records.append(SegmentRecord(number, base, rows, Producer(precision, backend, bool(passed))))
            base += rows
        return tuple(records)

    @guarded
    def tiles(self, rows: Iterable[int], segments: Sequence[SegmentRecord]) -> dict[int, TileRecord]:
        """The tiles of global rows."""
        by_segment: dict[int, list[int]] = {}
        bases = np.array([segment.base for segment in segments])
        wanted = np.unique(np.fromiter(rows, np.int64))
        for row, index in zip(wanted.tolist(), np.searchsorted(bases, wanted, "right") - 1, strict=True):
            by_segment.setdefault(int(index), []).append(row - segments[index].base)
        found = {}
        for index, numbers in by_segment.items():
            for start in range(0, len(numbers), _AT_ONCE):
                part = numbers[start : start + _AT_ONCE]
                query = f"SELECT {_TILE_COLUMNS} FROM tiles WHERE segment = ? AND row IN ({_marks(part)})"
                for record in self._database.execute(query, (segments[index].number, *part)):
                    tile = _tile_from_record(record, segments[index].base)
                    found[tile.row] = tile
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
        bases = {segment.number: segment.base for segment in segments}
        records = [record for record in records if record[7] in bases]
        if len(records) != 1:
            what = "belongs to no tile of this archive" if not records else "begins more than one tile id"
            raise InputError(f"{prefix} {what}; ids are the `id` of search results")
        return _tile_from_record(records[0], bases[records[0][7]])

    @guarded
    def tiles_of_source(
        self, source: int, level: int | None, segments: Sequence[SegmentRecord]
    ) -> tuple[TileRecord, ...]:
        """All tiles of a source, by level and then in row-major order."""
        bases = {segment.number: segment.base for segment in segments}
        query = (
            f"SELECT {_TILE_COLUMNS} FROM tiles WHERE source = ? AND (? IS NULL OR level = ?)"
            " ORDER BY level, row_off, col_off, width, height"
        )
        records = self._database.execute(query, (source, level, level))
        return tuple(_tile_from_record(r, bases[r[7]]) for r in records if r[7] in bases)

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
            return f"sha256:{self.content(source).content_sha256}"
        if len(paths) > 1:
            return str(next((path for path in paths if path.exists()), paths[0]))
        return str(paths[0])

    @guarded
    def sources_by_path(self, patterns: Sequence[str]) -> set[int]:
        """Sources whose path, whole or relative to its root, equals or matches one of ``patterns``."""
        query = "SELECT source, roots.path, locations.path FROM locations JOIN roots USING (root)"
        found = set()
        for source, root, path in self._database.execute(query):
            names = (path, str(Path(root) / path))
            if any(name == p or fnmatchcase(name, p) for p in patterns for name in names):
                found.add(int(source))
        return found

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
    def rows(self, query: str, parameters: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """The rows of any reading statement."""
        return self._database.execute(query, tuple(parameters)).fetchall()

    def _refuse_unknown_key(self, key: str) -> None:
        keys = [row[0] for row in self._database.execute("SELECT DISTINCT key FROM metadata ORDER BY key")]
        (sources,) = self._database.execute("SELECT count(*) FROM sources").fetchone()
        if key not in keys and sources:
            known = ", ".join(keys) or "none"
            raise InputError(f"no source of this archive has metadata {key!r}; known keys: {known}")


def _tile_from_record(record: tuple[Any, ...], base: int) -> TileRecord:
    identifier, source, level, col_off, row_off, width, height, _, row = record[:9]
    west, south, east, north, footprint, time_us, nodata_fraction = record[9:]
    numbers = (source, level, col_off, row_off, width, height, row, *(() if time_us is None else (time_us,)))
    refuse_unless(all(isinstance(number, int) for number in numbers), f"tile {identifier}")
    bbox = None if west is None else (float(west), float(south), float(east), float(north))
    try:
        window = Window(col_off, row_off, width, height)
        rings = () if footprint is None else rings_from_wkb(footprint)
    except InputError as error:
        # A stored value is wrong, not a caller's.
        raise ValueError(str(error)) from error
    tile = NewTile(level, window, bbox, rings, time_us, nodata_fraction)
    return TileRecord(identifier, base + row, source, tile)


def _marks(values: Sequence[object]) -> str:
    return ",".join("?" * len(values))
