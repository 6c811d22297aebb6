"""The growing end of an archive: the segment files behind the last committed row."""

from __future__ import annotations

import contextlib
import re
import sqlite3
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lrsclip_rt.archive.records import Producer
from lrsclip_rt.archive.segments import ColumnFiles, check_length, column_path, columns_of
from lrsclip_rt.errors import ArchiveCorruptError

__all__ = ["SegmentTail"]

_SEGMENT_FILE = re.compile(r"(\d{6,})\.[a-z0-9]+")


class SegmentTail:
    """Appends rows to the last segment, begins new ones, and keeps the checksums.

    Making one cuts off what an interrupted writer left behind the committed rows.

    Args:
        database: The writer's connection.
        folder: The ``segments`` folder.
        dim: D.
        producer: What computes the rows; a segment holds rows of one producer.
        segment_rows: Most rows of a segment.
        block_rows: Rows behind one checksum.

    Raises:
        ArchiveCorruptError: If a file is shorter than the committed rows, or these disagree with the tiles.
    """

    def __init__(
        self,
        database: sqlite3.Connection,
        folder: Path,
        dim: int,
        producer: Producer,
        *,
        segment_rows: int,
        block_rows: int,
    ) -> None:
        self._database = database
        self._folder = folder
        self._dim = dim
        self._producer = producer
        self._segment_rows = segment_rows
        self._block_rows = block_rows
        self._files: list[ColumnFiles] = []
        self._crc: dict[tuple[int, int, str], list[int]] = {}
        self.number, self.row = 0, 0
        self.committed_rows = 0
        self.pending_rows = 0
        self._take_up()

    def room(self, wanted: int) -> int:
        """How many of ``wanted`` rows fit in the current segment; begins a new one where it is full."""
        if not self._files or self.row >= self._segment_rows:
            self.number, self.row = self.number + 1, 0
            by = self._producer
            self._database.execute(
                "INSERT INTO segments (segment, rows, precision, backend, gate_passed)"
                " VALUES (?, 0, ?, ?, ?)",
                (self.number, by.precision, by.backend, int(by.gate_passed)),
            )
            self._files.append(ColumnFiles(self._folder, self.number, self._dim))
            self._files[-1].truncate(0)
        return min(wanted, self._segment_rows - self.row)

    def append(self, columns: Mapping[str, NDArray[Any]], count: int) -> None:
        """Write ``count`` rows, which ``room`` has allowed; they are not durable yet."""
        self._files[-1].write(self.row, columns)
        self._extend_checksums(columns, count)
        self.row += count
        self.pending_rows += count

    def sync(self) -> None:
        """Bring all rows to the disk, then name them in the open transaction."""
        for files in self._files:
            files.sync()
        for files in self._files[:-1]:
            self._record_rows(files.number, self._segment_rows)
        if self._files:
            self._record_rows(self.number, self.row)
        self._database.executemany(
            "INSERT OR REPLACE INTO blocks (segment, block, column_name, rows, crc32) VALUES (?, ?, ?, ?, ?)",
            [(*key, *state) for key, state in self._crc.items()],
        )

    def committed(self) -> None:
        """The transaction ended well: its rows are the archive's now."""
        for files in self._files[:-1]:
            files.close()
        del self._files[:-1]
        self.committed_rows += self.pending_rows
        self.pending_rows = 0
        self._remember()

    def drop_pending(self) -> None:
        """Cut off what the last commit does not name."""
        number, row = self._committed_at
        for files in self._files:
            with contextlib.suppress(OSError):
                files.truncate(row if files.number == number else 0)

    def close(self) -> None:
        """Close the files."""
        for files in self._files:
            files.close()
        self._files = []

    def _take_up(self) -> None:
        self._folder.mkdir(exist_ok=True)
        records = self._database.execute("SELECT segment, rows FROM segments ORDER BY segment").fetchall()
        for number, rows in records:
            for column in columns_of(self._dim):
                check_length(column_path(self._folder, number, column.name), rows * column.row_bytes)
        self.committed_rows = sum(rows for _, rows in records)
        self.number = records[-1][0] if records else 0
        self._check_last_row(records[-1][1] if records else 0)
        self._remove_unnamed_segments()
        if records:
            files = ColumnFiles(self._folder, self.number, self._dim)
            files.truncate(records[-1][1])
            if self._is_ours(self.number):
                self.row = records[-1][1]
                self._files = [files]
                self._load_block(self.row // self._block_rows)
            else:
                files.close()
        self._remember()

    def _check_last_row(self, rows: int) -> None:
        """Before anything is cut off: the last tile agrees where the committed rows end."""
        query = "SELECT segment, row FROM tiles ORDER BY segment DESC, row DESC LIMIT 1"
        last = self._database.execute(query).fetchone()
        if last is not None and last != (self.number, rows - 1):
            raise ArchiveCorruptError(
                f"{self._folder.parent}: the database counts {rows} rows in segment {self.number}, but its "
                f"last tile is row {last[1]} of segment {last[0]}. Restore it from a copy, or index again"
            )

    def _remove_unnamed_segments(self) -> None:
        for path in self._folder.iterdir():
            match = _SEGMENT_FILE.fullmatch(path.name)
            if match is not None and int(match.group(1)) > self.number:
                path.unlink()

    def _is_ours(self, number: int) -> bool:
        query = "SELECT precision, backend, gate_passed FROM segments WHERE segment = ?"
        precision, backend, passed = self._database.execute(query, (number,)).fetchone()
        return Producer(precision, backend, bool(passed)) == self._producer

    def _load_block(self, block: int) -> None:
        query = "SELECT column_name, rows, crc32 FROM blocks WHERE segment = ? AND block = ?"
        for name, rows, crc in self._database.execute(query, (self.number, block)):
            self._crc[self.number, block, name] = [rows, crc]

    def _extend_checksums(self, columns: Mapping[str, NDArray[Any]], count: int) -> None:
        start = 0
        while start < count:
            block, filled = divmod(self.row + start, self._block_rows)
            stop = min(count, start + self._block_rows - filled)
            for name, values in columns.items():
                state = self._crc.setdefault((self.number, block, name), [0, 0])
                state[0] = filled + stop - start
                state[1] = zlib.crc32(np.ascontiguousarray(values[start:stop]).data.cast("B"), state[1])
            start = stop

    def _record_rows(self, number: int, rows: int) -> None:
        self._database.execute("UPDATE segments SET rows = ? WHERE segment = ?", (rows, number))

    def _remember(self) -> None:
        """Where the committed rows end; of the checksums only the last, unfinished block is still needed."""
        self._committed_at = (self.number, self.row)
        block = self.row // self._block_rows
        self._crc = {key: state for key, state in self._crc.items() if key[:2] == (self.number, block)}
