"""Where rows went when their segment was compacted away, for readers whose snapshot is older than that.

A snapshot names a row by the segment that it was in. Segment numbers are never given twice, so the runs
in the table ``moves`` lead from there to where the row is now, through as many compactions as there were,
and back.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping, Sequence

import numpy as np

from lrsclip_rt.archive.guarding import refuse_unless
from lrsclip_rt.archive.records import SegmentRecord

__all__ = ["has_table", "is_live", "moved_rows", "row_in_snapshot"]


def has_table(database: sqlite3.Connection, name: str) -> bool:
    """Whether the database has a table; version 1 has neither ``deletions`` nor ``moves``."""
    query = "SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = ?"
    return database.execute(query, (name,)).fetchone() is not None


def is_live(database: sqlite3.Connection, segment: int) -> bool:
    """Whether a segment still is one, so that a row of it without a tile was deleted."""
    query = "SELECT 1 FROM segments WHERE segment = ?"
    return database.execute(query, (segment,)).fetchone() is not None


def moved_rows(database: sqlite3.Connection, segment: int, rows: Sequence[int]) -> dict[int, dict[int, int]]:
    """Where one compaction put rows of a segment: by new segment, the new row and the old one.

    Rows that it left out were dead.

    Raises:
        ValueError: If the table leads backwards, which nobody wrote.
    """
    query = "SELECT first_row, rows, to_segment, to_row FROM moves WHERE segment = ? ORDER BY first_row"
    runs = np.array(database.execute(query, (segment,)).fetchall(), np.int64).reshape(-1, 4)
    old = np.array(rows, np.int64)
    index = np.searchsorted(runs[:, 0], old, "right") - 1
    old, index = old[index >= 0], index[index >= 0]
    inside = old < runs[index, 0] + runs[index, 1]
    old, chosen = old[inside], runs[index[inside]]
    targets: dict[int, dict[int, int]] = {}
    new = chosen[:, 3] + old - chosen[:, 0]
    for number, to_row, row in zip(chosen[:, 2].tolist(), new.tolist(), old.tolist(), strict=True):
        refuse_unless(number > segment, f"segment {segment} was moved to segment {number}")
        targets.setdefault(number, {})[to_row] = row
    return targets


def row_in_snapshot(
    database: sqlite3.Connection, segments: Mapping[int, SegmentRecord], segment: int, row: int
) -> int | None:
    """The global row in a snapshot of what is now at ``row`` of ``segment``; None where it is newer.

    Args:
        database: The archive's.
        segments: Of the snapshot, by number.
        segment: Of today.
        row: Of today.

    Raises:
        ValueError: If the table leads backwards, which nobody wrote.
    """
    query = (
        "SELECT segment, first_row + ? - to_row FROM moves"
        " WHERE to_segment = ? AND to_row <= ? AND to_row + rows > ? ORDER BY to_row DESC LIMIT 1"
    )
    while segment not in segments:
        if not has_table(database, "moves"):
            return None
        before = database.execute(query, (row, segment, row, row)).fetchone()
        if before is None:
            return None
        refuse_unless(before[0] < segment, f"segment {before[0]} was moved to segment {segment}")
        segment, row = int(before[0]), int(before[1])
    record = segments[segment]
    return record.base + row if row < record.rows else None
