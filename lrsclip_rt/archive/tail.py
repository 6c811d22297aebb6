"""The growing end of an archive, as a new writer takes it up: what an interrupted one left is cut off."""

from __future__ import annotations

import re
import sqlite3
from pathlib import Path

from lrsclip_rt.archive.appending import SegmentAppender
from lrsclip_rt.archive.records import Producer
from lrsclip_rt.archive.schema import ArchiveInfo
from lrsclip_rt.archive.segments import ColumnFiles, check_length, column_path, columns_of, sync_folder
from lrsclip_rt.errors import ArchiveCorruptError

__all__ = ["next_segment", "segment_of_file", "take_up_tail", "unlink_segments"]

_SEGMENT_FILE = re.compile(r"(\d{6,})\..+")


def take_up_tail(
    database: sqlite3.Connection, folder: Path, info: ArchiveInfo, producer: Producer
) -> SegmentAppender:
    """Tidy up behind the last commit and go on from there.

    Args:
        database: The writer's connection.
        folder: The ``segments`` folder.
        info: Of the archive.
        producer: What computes the rows to come.

    Raises:
        ArchiveCorruptError: If a file is shorter than the committed rows, or these disagree with the tiles.
    """
    folder.mkdir(exist_ok=True)
    # Its own name must be on the disk before a commit relies on what is in it.
    sync_folder(folder.parent)
    dim = info.model.dim
    records = database.execute("SELECT segment, rows FROM segments ORDER BY segment").fetchall()
    for number, rows in records:
        for column in columns_of(dim):
            check_length(column_path(folder, number, column.name), rows * column.row_bytes)
    number, rows = records[-1] if records else (0, 0)
    _check_last_row(database, folder, number, rows)
    unlink_segments(folder, keep={record[0] for record in records})
    appender = SegmentAppender(database, folder, info, producer, next_number=next_segment(database))
    if records:
        files = ColumnFiles(folder, number, dim)
        files.truncate(rows)
        files.close()
        if _producer_of(database, number) == producer:
            appender.go_on(number, rows)
    return appender


def next_segment(database: sqlite3.Connection) -> int:
    """A number that no segment has or had: readers may still hold what was compacted away."""
    query = (
        "SELECT 1 + max((SELECT coalesce(max(segment), 0) FROM segments),"
        " (SELECT coalesce(max(CAST(value AS INTEGER)), 0) FROM info WHERE key = 'last_segment'))"
    )
    return int(database.execute(query).fetchone()[0])


def segment_of_file(path: Path) -> int | None:
    """The number of the segment that a file belongs to.

    Example:
        >>> segment_of_file(Path("segments/000012.f16")), segment_of_file(Path("segments/notes"))
        (12, None)
    """
    match = _SEGMENT_FILE.fullmatch(path.name)
    return None if match is None else int(match.group(1))


def unlink_segments(folder: Path, *, keep: set[int]) -> None:
    """Remove the files of all segments but those to keep; who has mapped them goes on reading them."""
    for path in folder.iterdir():
        number = segment_of_file(path)
        if number is not None and number not in keep:
            path.unlink()


def _check_last_row(database: sqlite3.Connection, folder: Path, number: int, rows: int) -> None:
    """Before anything is cut off: the last tile or dead row agrees where the committed rows end."""
    tile = database.execute(
        "SELECT segment, row FROM tiles ORDER BY segment DESC, row DESC LIMIT 1"
    ).fetchone()
    dead = database.execute(
        "SELECT segment, first_row + rows - 1 FROM deletions ORDER BY segment DESC, first_row DESC LIMIT 1"
    ).fetchone()
    last = max((position for position in (tile, dead) if position is not None), default=None)
    if last is not None and tuple(last) != (number, rows - 1):
        raise ArchiveCorruptError(
            f"{folder.parent}: the database counts {rows} rows in segment {number}, but its "
            f"last tile is row {last[1]} of segment {last[0]}. Restore it from a copy, or index again"
        )


def _producer_of(database: sqlite3.Connection, number: int) -> Producer:
    query = "SELECT precision, backend, gate_passed FROM segments WHERE segment = ?"
    precision, backend, passed = database.execute(query, (number,)).fetchone()
    return Producer(precision, backend, bool(passed))
