"""Hold an archive against its own record: checksums, lengths, and tiles against rows."""

from __future__ import annotations

import contextlib
import sqlite3
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lrsclip_rt.archive.catalog import Catalog
from lrsclip_rt.archive.guarding import DAMAGE, reading
from lrsclip_rt.archive.ids import tile_id
from lrsclip_rt.archive.records import SegmentRecord
from lrsclip_rt.archive.schema import DATABASE, MODEL, SEGMENTS, connect_to_read, read_info
from lrsclip_rt.archive.segments import (
    Column,
    alive_from_runs,
    column_path,
    columns_of,
    int8_from_rows,
)
from lrsclip_rt.archive.tail import segment_of_file
from lrsclip_rt.archive.times import NO_TIME
from lrsclip_rt.errors import ArchiveError, BundleError
from lrsclip_rt.tiles import Window

__all__ = ["Finding", "VerifyReport", "verify_archive"]

_TILES_AT_ONCE = 10_000


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is not as recorded; ``damage`` tells harm from what the next writer tidies up."""

    file: str
    problem: str
    damage: bool = True


@dataclass(frozen=True, slots=True)
class VerifyReport:
    """What a verification looked at and found."""

    rows: int
    bytes: int
    findings: tuple[Finding, ...]

    @property
    def damaged(self) -> bool:
        """Whether anything is damaged."""
        return any(finding.damage for finding in self.findings)


def verify_archive(path: str | Path, *, progress: Callable[[int], None] | None = None) -> VerifyReport:
    """Read a whole archive and compare it with its record.

    Args:
        path: The archive's folder.
        progress: Called with the bytes that were read.

    Raises:
        ArchiveError: If it is no archive, or so broken that it cannot be opened.
    """
    folder = Path(path)
    if not (folder / DATABASE).is_file():
        raise ArchiveError(f"{folder} is no archive: it holds no {DATABASE}")
    while True:
        database = connect_to_read(folder)
        try:
            verifier = _Verifier(folder, database, progress or (lambda _: None))
            findings = tuple(verifier.findings())
        finally:
            database.close()
        # A compaction that took files away meanwhile is no damage: look again.
        if not any(finding.damage for finding in findings) or not verifier.outdated():
            return VerifyReport(verifier.rows, verifier.bytes, findings)


class _Verifier:
    def __init__(self, folder: Path, database: sqlite3.Connection, progress: Callable[[int], None]) -> None:
        info = read_info(folder, database)
        self._folder = folder
        self._database = database
        self._progress = progress
        self._dim = info.model.dim
        self._block_rows = info.block_rows
        self._identity = info.model.identity
        # One transaction, so that a writer at work does not look like damage.
        with reading(folder / DATABASE):
            database.execute("BEGIN")
        self._segments = Catalog(database, folder / DATABASE).segments()
        self.rows = sum(segment.living for segment in self._segments)
        self.bytes = 0

    def outdated(self) -> bool:
        """Whether a segment that was looked at is no segment any more."""
        database = connect_to_read(self._folder)
        try:
            now = {segment.number for segment in Catalog(database, self._folder / DATABASE).segments()}
        finally:
            database.close()
        return not {segment.number for segment in self._segments} <= now

    def findings(self) -> Iterator[Finding]:
        """Every finding, file by file."""
        try:
            yield from self._check_database()
            for segment in self._segments:
                torn = list(self._check_files(segment))
                yield from torn
                if not torn:
                    yield from self._check_tiles(segment)
            yield from self._check_counts()
        except FileNotFoundError as error:
            yield Finding(f"{SEGMENTS}/{Path(str(error.filename)).name}", "is missing")
        except DAMAGE as error:
            yield Finding(DATABASE, f"cannot be understood ({type(error).__name__}: {error})")
        yield from self._check_unnamed()
        yield from self._check_model()

    def _check_database(self) -> Iterator[Finding]:
        for (message,) in self._database.execute("PRAGMA integrity_check(20)"):
            if message != "ok":
                yield Finding(DATABASE, str(message))

    def _check_files(self, segment: SegmentRecord) -> Iterator[Finding]:
        for column in columns_of(self._dim):
            path = column_path(self._folder / SEGMENTS, segment.number, column.name)
            expected = segment.rows * column.row_bytes
            found = path.stat().st_size if path.is_file() else -1
            name = str(path.relative_to(self._folder))
            if found < expected:
                held = "is missing" if found < 0 else f"holds {found} bytes"
                yield Finding(name, f"{held}, the record expects {expected}")
                continue
            if found > expected:
                rest = (
                    f"{found - expected} bytes behind the last committed row; the next writer cuts them off"
                )
                yield Finding(name, rest, damage=False)
            yield from self._check_blocks(path, name, segment, column)

    def _check_blocks(
        self, path: Path, name: str, segment: SegmentRecord, column: Column
    ) -> Iterator[Finding]:
        query = "SELECT block, rows, crc32 FROM blocks WHERE segment = ? AND column_name = ? ORDER BY block"
        covered = 0
        with path.open("rb") as stream:
            for block, rows, crc in self._database.execute(query, (segment.number, column.name)):
                if not 0 < rows <= segment.rows or not 0 <= block <= segment.rows:
                    yield Finding(DATABASE, f"a checksum of {name} is of {rows} rows from block {block} on")
                    continue
                stream.seek(block * self._block_rows * column.row_bytes)
                content = stream.read(rows * column.row_bytes)
                self.bytes += len(content)
                self._progress(len(content))
                covered += rows
                if zlib.crc32(content) != crc:
                    first = block * self._block_rows
                    where = f"rows {first} to {first + rows - 1} (bytes {first * column.row_bytes} on)"
                    yield Finding(name, f"{where} differ from their checksum")
        if covered != segment.rows:
            yield Finding(DATABASE, f"checksums of {name} cover {covered} of {segment.rows} rows")

    def _check_tiles(self, segment: SegmentRecord) -> Iterator[Finding]:
        """Row by row: every committed row has its tile, and the columns say what the tile says."""
        arrays = {
            column.name: np.memmap(
                column_path(self._folder / SEGMENTS, segment.number, column.name),
                dtype=column.dtype,
                mode="r",
                shape=(segment.rows, *column.shape),
            )
            for column in columns_of(self._dim)
        }
        query = (
            "SELECT row, id, source, level, col_off, row_off, tiles.width, tiles.height,"
            " west, south, east, north, tiles.time_us, content_sha256"
            " FROM tiles JOIN sources USING (source) WHERE segment = ? ORDER BY row"
        )
        living = np.flatnonzero(alive_from_runs(segment))
        cursor = self._database.execute(query, (segment.number,))
        checked = 0
        while records := cursor.fetchmany(_TILES_AT_ONCE):
            rows = np.array([record[0] for record in records])
            expected = living[checked : checked + len(rows)]
            if not np.array_equal(rows, expected):
                what = f"the tiles of segment {segment.number} do not match its living rows one to one"
                yield Finding(DATABASE, what)
                return
            checked += len(rows)
            yield from self._check_part(segment, {key: array[rows] for key, array in arrays.items()}, records)
        if checked != len(living):
            missing = len(living) - checked
            yield Finding(DATABASE, f"{missing} rows of segment {segment.number} have no tile")

    def _check_part(
        self, segment: SegmentRecord, columns: dict[str, NDArray[Any]], records: list[tuple[Any, ...]]
    ) -> Iterator[Finding]:
        def number(index: int, missing: float) -> list[Any]:
            return [missing if record[index] is None else record[index] for record in records]

        told = {
            "source": np.array(number(2, 0)),
            "level": np.array(number(3, 0)),
            "box": np.column_stack([np.array(number(i, np.nan), np.float64) for i in (8, 9, 10, 11)]),
            "time": np.array(number(12, NO_TIME), np.int64),
        }
        codes, scale = int8_from_rows(columns["f16"])
        told["i8"], told["scale"] = codes, scale
        for name, values in told.items():
            same = (columns[name] == values) | ((columns[name] != columns[name]) & (values != values))
            if not same.all():
                row = records[int(np.argmin(same.reshape(len(records), -1).all(axis=1)))][0]
                file = f"{SEGMENTS}/{segment.number:06d}.{name}"
                yield Finding(file, f"row {row} is not what its tile or its float16 row says")
        for record in records:
            if record[1] != tile_id(record[13], record[3], Window(*record[4:8])):
                yield Finding(DATABASE, f"tile {record[1]} has not the id of its source, level and window")

    def _check_counts(self) -> Iterator[Finding]:
        (tiles,) = self._database.execute("SELECT count(*) FROM tiles").fetchone()
        if tiles != self.rows:
            yield Finding(DATABASE, f"it names {tiles} tiles for {self.rows} living rows")
        query = "SELECT coalesce(sum(1 + (west > east)), 0) FROM tiles WHERE west IS NOT NULL"
        (expected,) = self._database.execute(query).fetchone()
        (boxes,) = self._database.execute("SELECT count(*) FROM tile_boxes").fetchone()
        if boxes != expected:
            yield Finding(DATABASE, f"its R*Tree holds {boxes} boxes, its tiles have {expected}")

    def _check_unnamed(self) -> Iterator[Finding]:
        named = {segment.number for segment in self._segments}
        folder = self._folder / SEGMENTS
        for path in sorted(folder.iterdir()) if folder.is_dir() else ():
            number = segment_of_file(path)
            if number is None or number in named:
                continue
            with contextlib.suppress(FileNotFoundError):  # a writer at work may have removed it
                size = path.stat().st_size
                rest = f"{size} bytes that no commit names; the next writer removes them"
                if size:
                    yield Finding(f"{SEGMENTS}/{path.name}", rest, damage=False)

    def _check_model(self) -> Iterator[Finding]:
        from lrsclip_rt.bundle import Bundle

        if not (self._folder / MODEL).is_dir():
            yield Finding(MODEL, "is missing: the archive cannot embed texts", damage=False)
            return
        try:
            bundle = Bundle.open(self._folder / MODEL)
        except BundleError as error:
            yield Finding(MODEL, str(error))
            return
        if bundle.identity != self._identity:
            expected = self._identity[:12]
            yield Finding(MODEL, f"is of another model ({bundle.identity[:12]}, expected {expected})")
