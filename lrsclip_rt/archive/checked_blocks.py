"""The committed rows of a segment, read for a copy: block by block, each held against its checksum."""

from __future__ import annotations

import sqlite3
import zlib
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from lrsclip_rt.archive.guarding import reading
from lrsclip_rt.archive.records import SegmentRecord
from lrsclip_rt.archive.schema import DATABASE, ArchiveInfo
from lrsclip_rt.archive.segments import Column, check_length, column_path, columns_of
from lrsclip_rt.errors import ArchiveCorruptError

__all__ = ["Block", "checked_blocks"]


@dataclass(frozen=True, slots=True, eq=False)
class Block:
    """Rows behind one checksum: the first, how many, and the bytes of every column."""

    first_row: int
    rows: int
    content: Mapping[str, bytes]


def checked_blocks(
    database: sqlite3.Connection, folder: Path, info: ArchiveInfo, record: SegmentRecord
) -> Iterator[Block]:
    """Read a segment once, so that damage is found before it is copied under a checksum of its own.

    Raises:
        ArchiveCorruptError: If a file is short or differs from its checksums.
    """
    columns = columns_of(info.model.dim)
    with ExitStack() as stack:
        streams: dict[str, BinaryIO] = {}
        for column in columns:
            path = column_path(folder, record.number, column.name)
            check_length(path, record.rows * column.row_bytes)
            streams[column.name] = stack.enter_context(path.open("rb"))
        for first in range(0, record.rows, info.block_rows):
            rows = min(info.block_rows, record.rows - first)
            query = "SELECT column_name, rows, crc32 FROM blocks WHERE segment = ? AND block = ?"
            with reading(folder.parent / DATABASE):
                found = database.execute(query, (record.number, first // info.block_rows)).fetchall()
                told = {name: (count, crc) for name, count, crc in found}
            content = {}
            for column in columns:
                part = streams[column.name].read(rows * column.row_bytes)
                if told.get(column.name) != (rows, zlib.crc32(part)):
                    raise _damaged(column_path(folder, record.number, column.name), first, rows, column)
                content[column.name] = part
            yield Block(first, rows, content)


def _damaged(path: Path, first: int, rows: int, column: Column) -> ArchiveCorruptError:
    where = f"rows {first} to {first + rows - 1} (bytes {first * column.row_bytes} on)"
    return ArchiveCorruptError(
        f"{path}: {where} differ from their checksum. Restore it from a copy, or index again"
    )
