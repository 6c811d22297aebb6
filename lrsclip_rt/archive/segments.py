"""Segments: append-only column files, one row per tile, in the same order in every file.

``segments/000001.f16`` and its siblings are plain little-endian arrays without a header:

======  =======  =====  ==================================================================
suffix  type     shape  content
======  =======  =====  ==================================================================
f16     float16  (D,)   the unit row; the truth
i8      int8     (D,)   ``round(127 v / max|v|)`` of the float16 row ``v``, halves to even
scale   float32  ()     ``max|v| / 127``: ``i8 * scale`` approximates the row
box     float64  (4,)   west, south, east, north [deg]; west > east across the antimeridian; NaN: no place
time    int64    ()     microseconds since 1970-01-01 UTC; the least int64: no time
source  int64    ()     number of the source
level   int32    ()     nominal tile edge [px]; 0: a whole image
======  =======  =====  ==================================================================

The database says how many rows count; what lies behind them is the rest of an interrupted writer. It also
says which rows are dead: a deleted row stays where it is until the archive is compacted.
"""

from __future__ import annotations

import math
import os
import stat
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lrsclip_rt.archive.records import NewTile, SegmentRecord
from lrsclip_rt.archive.times import NO_TIME
from lrsclip_rt.errors import ArchiveCorruptError

__all__ = [
    "Column",
    "ColumnFiles",
    "Segment",
    "alive_from_runs",
    "check_length",
    "column_path",
    "columns_from_rows",
    "columns_of",
    "int8_from_rows",
    "map_segment",
    "sync_folder",
]


@dataclass(frozen=True, slots=True)
class Column:
    """One file of a segment: its suffix, element type and elements a row."""

    name: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def row_bytes(self) -> int:
        """Bytes of a row."""
        return np.dtype(self.dtype).itemsize * math.prod(self.shape)


def columns_of(dim: int) -> tuple[Column, ...]:
    """The columns of an archive of ``dim`` numbers a row."""
    return (
        Column("f16", "<f2", (dim,)),
        Column("i8", "|i1", (dim,)),
        Column("scale", "<f4", ()),
        Column("box", "<f8", (4,)),
        Column("time", "<i8", ()),
        Column("source", "<i8", ()),
        Column("level", "<i4", ()),
    )


def column_path(folder: Path, number: int, column: str) -> Path:
    """``folder/000001.f16`` and the like."""
    return folder / f"{number:06d}.{column}"


def int8_from_rows(rows: NDArray[np.float16]) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Quantise ``(N, D)`` float16 rows: ``(N, D)`` int8 codes and ``(N,)`` float32 scales.

    Example:
        >>> codes, scale = int8_from_rows(np.array([[0.5, -1.0, 0.25]], np.float16))
        >>> codes.tolist(), round(float(scale[0]), 6)
        ([[64, -127, 32]], 0.007874)
    """
    values = rows.astype(np.float32)
    largest = np.abs(values).max(axis=1, initial=0.0)
    divisor = np.where(largest > 0, largest, np.float32(1))
    codes = np.rint(np.float32(127) * values / divisor[:, None]).astype(np.int8)
    return codes, (largest / np.float32(127)).astype(np.float32)


def columns_from_rows(
    vectors: NDArray[np.float32], tiles: Sequence[NewTile], sources: Sequence[int]
) -> dict[str, NDArray[Any]]:
    """All columns of ``(N, D)`` vectors, their N tiles and the numbers of these tiles' sources."""
    half = vectors.astype("<f2")
    codes, scale = int8_from_rows(half)
    nowhere = (np.nan,) * 4
    boxes = np.array([nowhere if tile.bbox is None else tile.bbox for tile in tiles], "<f8").reshape(-1, 4)
    times = [NO_TIME if tile.time_us is None else tile.time_us for tile in tiles]
    return {
        "f16": half,
        "i8": codes,
        "scale": scale.astype("<f4"),
        "box": boxes,
        "time": np.array(times, "<i8"),
        "source": np.array(sources, "<i8"),
        "level": np.array([tile.level for tile in tiles], "<i4"),
    }


@dataclass(frozen=True, slots=True, eq=False)
class Segment:
    """A segment's committed rows, memory-mapped read-only.

    Attributes:
        record: Number, place among all rows and producer.
        f16: ``(N, D)`` float16.
        i8: ``(N, D)`` int8.
        scale: ``(N,)`` float32.
        box: ``(N, 4)`` float64.
        time: ``(N,)`` int64.
        source: ``(N,)`` int64.
        level: ``(N,)`` int32.
        alive: ``(N,)`` bool, False for deleted rows; None where every row lives.
    """

    record: SegmentRecord
    f16: NDArray[np.float16]
    i8: NDArray[np.int8]
    scale: NDArray[np.float32]
    box: NDArray[np.float64]
    time: NDArray[np.int64]
    source: NDArray[np.int64]
    level: NDArray[np.int32]
    alive: NDArray[np.bool_] | None = None


def map_segment(folder: Path, record: SegmentRecord, dim: int) -> Segment:
    """Map the committed rows of a segment.

    Raises:
        ArchiveCorruptError: If a file is missing or shorter than the committed rows, or a row is deleted
            that the segment does not have.
    """
    arrays: dict[str, NDArray[Any]] = {}
    for column in columns_of(dim):
        path = column_path(folder, record.number, column.name)
        check_length(path, record.rows * column.row_bytes)
        shape = (record.rows, *column.shape)
        if record.rows == 0:
            arrays[column.name] = np.empty(shape, column.dtype)
        else:
            arrays[column.name] = np.asarray(np.memmap(path, dtype=column.dtype, mode="r", shape=shape))
    return Segment(record, **arrays, alive=alive_from_runs(record) if record.dead else None)


def alive_from_runs(record: SegmentRecord) -> NDArray[np.bool_]:
    """Which rows of a segment live, from its runs of dead ones: ``(N,)`` bool.

    Raises:
        ArchiveCorruptError: If a run lies outside the segment.

    Example:
        >>> from lrsclip_rt.archive import Producer
        >>> record = SegmentRecord(1, 0, 5, Producer("fp32", "onnxruntime"), dead=((0, 1), (3, 2)))
        >>> alive_from_runs(record).tolist()
        [False, True, True, False, False]
    """
    alive = np.ones(record.rows, bool)
    for first, rows in record.dead:
        if first < 0 or rows < 1 or first + rows > record.rows:
            raise ArchiveCorruptError(
                f"rows {first} to {first + rows - 1} of segment {record.number} are recorded as deleted, but "
                f"it has {record.rows}. Restore the archive from a copy, or index again"
            )
        alive[first : first + rows] = False
    alive.flags.writeable = False
    return alive


def check_length(path: Path, expected: int) -> int:
    """The file's length, which is at least ``expected`` [bytes].

    Raises:
        ArchiveCorruptError: If it is shorter or missing.
    """
    try:
        status = path.stat()
        found = status.st_size if stat.S_ISREG(status.st_mode) else -1
    except OSError:  # not there, or a link that leads nowhere or in a circle
        found = -1
    if found < 0 and expected > 0:
        raise ArchiveCorruptError(
            f"{path} is missing, the record expects {expected} bytes. Restore it from a copy, or index again"
        )
    if found < expected:
        raise ArchiveCorruptError(
            f"{path} holds {found} bytes, the record expects {expected}. "
            "Restore it from a copy, or index again"
        )
    return max(found, 0)


class ColumnFiles:
    """The open files of the segment that is being written.

    Args:
        folder: The ``segments`` folder.
        number: The segment.
        dim: D.
    """

    def __init__(self, folder: Path, number: int, dim: int) -> None:
        self.number = number
        self._columns = columns_of(dim)
        self._folder = folder
        self._descriptors: dict[str, int] = {}
        try:
            for column in self._columns:
                path = column_path(folder, number, column.name)
                self._descriptors[column.name] = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        except OSError:
            self.close()
            raise

    def write(self, first_row: int, columns: Mapping[str, NDArray[Any]]) -> None:
        """Write rows from ``first_row`` on; nothing is durable before ``sync``."""
        for column in self._columns:
            content = np.ascontiguousarray(columns[column.name], column.dtype).data.cast("B")
            offset = first_row * column.row_bytes
            while len(content):
                written = os.pwrite(self._descriptors[column.name], content, offset)
                content, offset = content[written:], offset + written

    def truncate(self, rows: int) -> None:
        """Cut every file to ``rows`` rows."""
        for column in self._columns:
            os.ftruncate(self._descriptors[column.name], rows * column.row_bytes)

    def sync(self) -> None:
        """Bring the rows to the disk, and the names of new files with them."""
        for descriptor in self._descriptors.values():
            os.fsync(descriptor)
        sync_folder(self._folder)

    def close(self) -> None:
        """Close the files."""
        while self._descriptors:
            os.close(self._descriptors.popitem()[1])


def sync_folder(folder: Path) -> None:
    """Bring a folder to the disk, so that the names in it survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
