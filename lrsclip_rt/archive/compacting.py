"""Compaction: new segments without dead rows, small ones joined, in place of the old in one transaction.

Living rows keep their bytes, their order within what is rewritten, and their ids; rewritten rows go behind
all others, so that only rows of equal score may answer in another order than before.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lrsclip_rt.archive.appending import SegmentAppender
from lrsclip_rt.archive.catalog import Catalog
from lrsclip_rt.archive.checked_blocks import Block, checked_blocks
from lrsclip_rt.archive.records import Producer, SegmentRecord
from lrsclip_rt.archive.schema import DATABASE, ArchiveInfo
from lrsclip_rt.archive.segments import alive_from_runs, columns_of
from lrsclip_rt.archive.tail import next_segment

__all__ = ["CompactReport", "compact_segments", "segments_to_rewrite"]


@dataclass(frozen=True, slots=True)
class CompactReport:
    """What a compaction did.

    Attributes:
        rows: Living rows of the archive.
        removed_rows: Dead rows that are gone.
        moved_rows: Living rows that were written again.
        segments_before: Numbers of the segments before.
        segments_after: And after.
    """

    rows: int
    removed_rows: int
    moved_rows: int
    segments_before: tuple[int, ...]
    segments_after: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class _Move:
    """A run of rows and where it went."""

    segment: int
    first_row: int
    rows: int
    to_segment: int
    to_row: int


def segments_to_rewrite(
    records: Sequence[SegmentRecord], segment_rows: int
) -> dict[Producer, tuple[SegmentRecord, ...]]:
    """Per producer the segments with dead rows and, where there are several, those that are not full.

    Example:
        >>> by = Producer("fp32", "onnxruntime")
        >>> full, holed = SegmentRecord(1, 0, 8, by), SegmentRecord(2, 8, 8, by, dead=((0, 2),))
        >>> records = [full, holed, SegmentRecord(3, 16, 5, by)]
        >>> {p.precision: [s.number for s in group] for p, group in segments_to_rewrite(records, 8).items()}
        {'fp32': [2, 3]}
        >>> segments_to_rewrite(records[2:], 8)
        {}
    """
    groups: dict[Producer, list[SegmentRecord]] = {}
    for record in records:
        if record.dead or record.rows < segment_rows:
            groups.setdefault(record.producer, []).append(record)
    return {
        producer: tuple(group)
        for producer, group in groups.items()
        if len(group) > 1 or any(record.dead for record in group)
    }


def compact_segments(
    database: sqlite3.Connection,
    folder: Path,
    info: ArchiveInfo,
    committing: Callable[[], AbstractContextManager[None]],
    progress: Callable[[int], None] | None = None,
) -> CompactReport:
    """Write the new segments and name them; the caller is the one writer, and removes the old files after.

    Args:
        database: The writer's connection, in a transaction that holds nothing else; it is ended.
        folder: The ``segments`` folder.
        info: Of the archive.
        committing: Entered around the COMMIT.
        progress: Called with the rows that were looked at.

    Raises:
        ArchiveCorruptError: If a segment does not match its checksums.
    """
    records = Catalog(database, folder.parent / DATABASE).segments()
    groups = segments_to_rewrite(records, info.segment_rows)
    old = [record for group in groups.values() for record in group]
    moves: list[_Move] = []
    appenders: list[SegmentAppender] = []
    try:
        for producer, group in groups.items():
            # Each producer goes on behind the numbers that the one before took.
            number = next_segment(database)
            appenders.append(SegmentAppender(database, folder, info, producer, next_number=number))
            for record in group:
                for block in checked_blocks(database, folder, info, record):
                    moves += _append_living(appenders[-1], info, record, block)
                    if progress is not None:
                        progress(block.rows)
            appenders[-1].sync()
            appenders[-1].close()
        _rename_rows(database, old, _joined(moves))
    except BaseException:
        for appender in appenders:
            appender.drop_pending()
            appender.close()
        raise
    with committing():
        database.execute("COMMIT")
    after = [row[0] for row in database.execute("SELECT segment FROM segments ORDER BY segment")]
    living = sum(record.living for record in old)
    return CompactReport(
        rows=sum(record.living for record in records),
        removed_rows=sum(record.rows for record in old) - living,
        moved_rows=living,
        segments_before=tuple(record.number for record in records),
        segments_after=tuple(after),
    )


def _append_living(
    appender: SegmentAppender, info: ArchiveInfo, record: SegmentRecord, block: Block
) -> Iterator[_Move]:
    living = np.flatnonzero(alive_from_runs(record)[block.first_row : block.first_row + block.rows])
    columns: dict[str, NDArray[Any]] = {
        column.name: np.frombuffer(block.content[column.name], column.dtype).reshape(-1, *column.shape)[
            living
        ]
        for column in columns_of(info.model.dim)
    }
    start = 0
    while start < len(living):
        count = appender.room(len(living) - start)
        part = living[start : start + count]
        for offset, rows in _runs(part):
            first = block.first_row + int(part[offset])
            yield _Move(record.number, first, rows, appender.number, appender.row + offset)
        appender.append({name: values[start : start + count] for name, values in columns.items()}, count)
        start += count


def _runs(numbers: NDArray[np.int64]) -> list[tuple[int, int]]:
    """Where ascending numbers go on without a gap: ``(offset, count)``.

    Example:
        >>> _runs(np.array([4, 5, 9]))
        [(0, 2), (2, 1)]
    """
    edges = np.flatnonzero(np.diff(numbers) != 1) + 1
    bounds = [0, *edges.tolist(), len(numbers)]
    return [(first, stop - first) for first, stop in pairwise(bounds) if stop > first]


def _joined(moves: Sequence[_Move]) -> list[_Move]:
    """Runs that go on where the one before ended, as one."""
    joined: list[_Move] = []
    for move in moves:
        last = joined[-1] if joined else None
        if (
            last is not None
            and (last.segment, last.first_row + last.rows) == (move.segment, move.first_row)
            and (last.to_segment, last.to_row + last.rows) == (move.to_segment, move.to_row)
        ):
            joined[-1] = _Move(
                last.segment, last.first_row, last.rows + move.rows, last.to_segment, last.to_row
            )
        else:
            joined.append(move)
    return joined


def _rename_rows(database: sqlite3.Connection, old: Sequence[SegmentRecord], moves: Sequence[_Move]) -> None:
    database.executemany(
        "UPDATE tiles SET segment = ?, row = row + ? WHERE segment = ? AND row >= ? AND row < ?",
        [(m.to_segment, m.to_row - m.first_row, m.segment, m.first_row, m.first_row + m.rows) for m in moves],
    )
    database.executemany(
        "INSERT INTO moves VALUES (?, ?, ?, ?, ?)",
        [(m.segment, m.first_row, m.rows, m.to_segment, m.to_row) for m in moves],
    )
    for table in ("deletions", "blocks", "segments"):
        database.executemany(f"DELETE FROM {table} WHERE segment = ?", [(record.number,) for record in old])
    if old:
        highest = max(record.number for record in old)
        database.execute(
            "INSERT INTO info VALUES ('last_segment', ?) ON CONFLICT (key)"
            " DO UPDATE SET value = max(CAST(value AS INTEGER), CAST(excluded.value AS INTEGER))",
            (str(highest),),
        )
