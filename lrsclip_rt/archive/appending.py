"""Rows into segment files: begin segments, write, keep the checksums, and bring it all to the disk."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lrsclip_rt.archive.records import Producer
from lrsclip_rt.archive.schema import ArchiveInfo
from lrsclip_rt.archive.segments import ColumnFiles, column_path, columns_of

__all__ = ["SegmentAppender"]


class SegmentAppender:
    """Appends rows to a segment and begins new ones, in a transaction that the caller holds open.

    Args:
        database: The writer's connection.
        folder: The ``segments`` folder.
        info: D, the rows of a segment and of a checksum.
        producer: What computed the rows; a segment holds rows of one producer.
        next_number: Of the next segment.
    """

    def __init__(
        self,
        database: sqlite3.Connection,
        folder: Path,
        info: ArchiveInfo,
        producer: Producer,
        *,
        next_number: int,
    ) -> None:
        self._database = database
        self._folder = folder
        self._dim = info.model.dim
        self._producer = producer
        self._segment_rows = info.segment_rows
        self._block_rows = info.block_rows
        self._next_number = next_number
        self._files: ColumnFiles | None = None
        self._begun: list[int] = []
        self._crc: dict[tuple[int, int, str], list[int]] = {}
        self.number, self.row = 0, 0
        self.pending_rows = 0
        self._committed_at = (0, 0)

    def go_on(self, number: int, row: int) -> None:
        """Take up a segment of the same producer behind its ``row`` committed rows."""
        self._files = ColumnFiles(self._folder, number, self._dim)
        self.number, self.row, self._committed_at = number, row, (number, row)
        query = "SELECT column_name, rows, crc32 FROM blocks WHERE segment = ? AND block = ?"
        block = row // self._block_rows
        for name, rows, crc in self._database.execute(query, (number, block)):
            self._crc[number, block, name] = [rows, crc]

    def room(self, wanted: int) -> int:
        """How many of ``wanted`` rows fit in the current segment; begins a new one where it is full."""
        if self._files is None or self.row >= self._segment_rows:
            self._begin()
        return min(wanted, self._segment_rows - self.row)

    def append(self, columns: Mapping[str, NDArray[Any]], count: int) -> None:
        """Write ``count`` rows, which ``room`` has allowed; they are not durable yet."""
        assert self._files is not None
        self._files.write(self.row, columns)
        self._extend_checksums(columns, count)
        self.row += count
        self.pending_rows += count

    def sync(self) -> None:
        """Bring all rows to the disk, then name them in the open transaction."""
        if self._files is not None:
            self._files.sync()
            self._record_rows()
        self._database.executemany(
            "INSERT OR REPLACE INTO blocks (segment, block, column_name, rows, crc32) VALUES (?, ?, ?, ?, ?)",
            [(*key, *state) for key, state in self._crc.items()],
        )

    def committed(self) -> None:
        """The transaction ended well; of the checksums only the last, unfinished block is still needed."""
        self._begun = []
        self.pending_rows = 0
        self._committed_at = (self.number, self.row)
        block = self.row // self._block_rows
        self._crc = {key: state for key, state in self._crc.items() if key[:2] == (self.number, block)}

    def drop_pending(self) -> None:
        """Take back what the last commit does not name."""
        number, rows = self._committed_at
        for column in columns_of(self._dim):
            with contextlib.suppress(OSError):
                if number and self.pending_rows:
                    os.truncate(column_path(self._folder, number, column.name), rows * column.row_bytes)
            for begun in self._begun:
                with contextlib.suppress(OSError):
                    column_path(self._folder, begun, column.name).unlink()

    def close(self) -> None:
        """Close the files."""
        if self._files is not None:
            self._files.close()
            self._files = None

    def _begin(self) -> None:
        if self._files is not None:
            # A full segment is done with: open files stay few, however many rows a commit has.
            self._files.sync()
            self._record_rows()
            self.close()
        self.number, self.row = self._next_number, 0
        self._next_number += 1
        by = self._producer
        self._database.execute(
            "INSERT INTO segments (segment, rows, precision, backend, gate_passed) VALUES (?, 0, ?, ?, ?)",
            (self.number, by.precision, by.backend, int(by.gate_passed)),
        )
        self._begun.append(self.number)
        self._files = ColumnFiles(self._folder, self.number, self._dim)
        self._files.truncate(0)

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

    def _record_rows(self) -> None:
        self._database.execute("UPDATE segments SET rows = ? WHERE segment = ?", (self.row, self.number))
