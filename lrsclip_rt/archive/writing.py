"""The one writer of an archive: append, commit, and nothing acknowledged is ever lost.

Rows are written to the segment files as they come and named in a database transaction that stays open.
``commit`` brings the files to the disk first and ends the transaction after, so a row that the
database names is there. A writer that dies leaves rows that no transaction names; readers
do not see them and the next writer cuts them off.
"""

from __future__ import annotations

import contextlib
import json
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from lrsclip_rt.archive.creation import BLOCK_ROWS, SEGMENT_ROWS, check_folder, create_archive
from lrsclip_rt.archive.footprints import boxes_of, wkb_from_rings
from lrsclip_rt.archive.guarding import reading
from lrsclip_rt.archive.ids import tile_id
from lrsclip_rt.archive.locking import WriterLock
from lrsclip_rt.archive.records import ContentRecord, Location, ModelRecord, NewTile, Producer
from lrsclip_rt.archive.schema import DATABASE, SEGMENTS, connect_to_write, read_info
from lrsclip_rt.archive.segments import columns_from_rows
from lrsclip_rt.archive.tail import SegmentTail
from lrsclip_rt.errors import ArchiveError, ArchiveModelError, InputError

if TYPE_CHECKING:
    from lrsclip_rt.bundle import Bundle

__all__ = ["ArchiveWriter"]

UNIT_TOLERANCE = 1e-2
"""How far the length of a row may be from 1: vectors of a model are unit rows up to rounding."""


class ArchiveWriter:
    """Append to an archive; makes it where there is none.

    Leaving the ``with`` block commits; leaving it by an exception drops what was not committed.

    Args:
        path: The archive's folder.
        model: Whose vectors will be appended.
        producer: The precision and backend that compute them.
        bundle: Source of the text tower's copy in a new archive; None keeps no copy.
        segment_rows: Most rows of a segment, for a new archive.
        block_rows: Rows behind one checksum, for a new archive.

    Raises:
        ArchiveError: If the folder is something else or cannot be written.
        ArchiveLockedError: If another writer is at work.
        ArchiveModelError: If it holds vectors of another model, or precisions that may not mix.
        ArchiveCorruptError: If a segment is shorter than its record.

    Example:
        >>> producer = Producer("fp32", "onnxruntime")
        >>> with ArchiveWriter("archive/", model, producer) as writer:             # doctest: +SKIP
        ...     source = writer.add_source(content)
        ...     writer.append(source, tiles, vectors)
    """

    def __init__(
        self,
        path: str | Path,
        model: ModelRecord,
        producer: Producer,
        *,
        bundle: Bundle | None = None,
        segment_rows: int = SEGMENT_ROWS,
        block_rows: int = BLOCK_ROWS,
    ) -> None:
        self.path = Path(path)
        self.model = model
        self.producer = producer
        self._content: dict[int, str] = {}
        check_folder(self.path)
        self._lock = WriterLock(self.path)
        try:
            if not check_folder(self.path):
                create_archive(
                    self.path, model, bundle=bundle, segment_rows=segment_rows, block_rows=block_rows
                )
            self._database = connect_to_write(self.path)
        except BaseException:
            self._lock.close()
            raise
        try:
            with reading(self.path / DATABASE):
                info = read_info(self.path, self._database)
                self._check_model(info.model)
                self._tail = SegmentTail(
                    self._database,
                    self.path / SEGMENTS,
                    model.dim,
                    producer,
                    segment_rows=info.segment_rows,
                    block_rows=info.block_rows,
                )
                query = "SELECT coalesce(max(tile), 0) + 1 FROM tiles"
                (self._next_tile,) = self._database.execute(query).fetchone()
                self._open, self._uncertain = True, False
        except OSError as error:
            self._database.close()
            self._lock.close()
            raise ArchiveError(f"{self.path} cannot be written ({error})") from error
        except BaseException:
            self._database.close()
            self._lock.close()
            raise

    def __enter__(self) -> ArchiveWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None and self._open:
            self.commit()
        self.close()

    @property
    def rows(self) -> int:
        """Committed rows of the archive."""
        return self._tail.committed_rows

    @property
    def pending_rows(self) -> int:
        """Rows appended since the last commit."""
        return self._tail.pending_rows

    def source_number(self, content_sha256: str) -> int | None:
        """The number of a source that the archive holds already."""
        query = "SELECT source FROM sources WHERE content_sha256 = ?"
        found = self._database.execute(query, (content_sha256,)).fetchone()
        return None if found is None else int(found[0])

    def add_source(self, content: ContentRecord) -> int:
        """The number of a source, which is added where its content is new.

        Raises:
            ArchiveError: If the content is there but its pixels were read in another way.
        """
        reading = json.dumps(dict(content.reading), sort_keys=True)
        with self._writing():
            known = self.source_number(content.content_sha256)
            if known is not None:
                self._check_reading(known, reading)
                return known
            transform = None if content.transform is None else json.dumps(list(content.transform))
            cursor = self._database.execute(
                "INSERT INTO sources (content_sha256, size_bytes, width, height, crs, transform, gsd_m,"
                " time_us, reading) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    content.content_sha256,
                    content.size_bytes,
                    content.width,
                    content.height,
                    content.crs,
                    transform,
                    content.gsd_m,
                    content.time_us,
                    reading,
                ),
            )
            return int(cursor.lastrowid or 0)

    def add_location(self, source: int, location: Location) -> int | None:
        """Record where a source lies.

        Returns:
            The number of the source that lay at the same path before, or None: its file was replaced.
        """
        with self._writing():
            root = self._root(location.root)
            query = "SELECT source FROM locations WHERE root = ? AND path = ?"
            before = self._database.execute(query, (root, location.path)).fetchone()
            self._database.execute(
                "INSERT OR REPLACE INTO locations (root, path, source, mtime_ns) VALUES (?, ?, ?, ?)",
                (root, location.path, source, location.mtime_ns),
            )
        return int(before[0]) if before is not None and before[0] != source else None

    def add_metadata(self, source: int, metadata: Mapping[str, str]) -> None:
        """Record keys and values of a source; a key that it has gets the new value."""
        with self._writing():
            self._database.executemany(
                "INSERT OR REPLACE INTO metadata (source, key, value) VALUES (?, ?, ?)",
                [(source, key, value) for key, value in metadata.items()],
            )

    def append(self, source: int, tiles: Sequence[NewTile], vectors: NDArray[np.floating[Any]]) -> int:
        """Append tiles of a source with their ``(N, D)`` unit rows; those that it has are left out.

        Returns:
            How many were new.

        Raises:
            InputError: If vectors and tiles do not fit each other or the archive.
            ArchiveError: If the disk refuses; everything committed is intact and the writer is closed.
        """
        rows = self._checked_rows(vectors, len(tiles))
        with self._writing():
            content = self._content_of(source)
            ids = [tile_id(content, tile.level, tile.window) for tile in tiles]
            known = self.known_ids(ids)
            fresh: dict[str, int] = {}
            for index, identifier in enumerate(ids):
                if identifier not in known:
                    fresh.setdefault(identifier, index)
            names, chosen = list(fresh), list(fresh.values())
            start = 0
            while start < len(chosen):
                stop = start + self._tail.room(len(chosen) - start)
                part = chosen[start:stop]
                self._append_part(source, names[start:stop], [tiles[i] for i in part], rows[part])
                start = stop
        return len(chosen)

    def known_ids(self, ids: Sequence[str]) -> set[str]:
        """Which of ``ids`` the archive holds, committed or pending."""
        known: set[str] = set()
        for start in range(0, len(ids), 500):
            part = ids[start : start + 500]
            marks = ",".join("?" * len(part))
            known.update(
                row[0] for row in self._database.execute(f"SELECT id FROM tiles WHERE id IN ({marks})", part)
            )
        return known

    def finish_grid(self, source: int, *, level: int, overlap: float, windows: int, skipped: int) -> None:
        """Record that every window of a grid was embedded or skipped, so that it needs no second look."""
        with self._writing():
            self._database.execute(
                "INSERT OR REPLACE INTO grids (source, level, overlap, windows, skipped)"
                " VALUES (?, ?, ?, ?, ?)",
                (source, level, overlap, windows, skipped),
            )

    def commit(self) -> int:
        """Make everything so far durable and visible to readers.

        Returns:
            Rows of the archive.

        Raises:
            ArchiveError: If the disk refuses; what was committed before is intact and the writer is closed.
        """
        with self._writing():
            self._tail.sync()
            # A commit that fails half-way may still stand in the log, so its rows must not be cut off.
            self._uncertain = True
            self._database.execute("COMMIT")
            self._uncertain = False
        self._tail.committed()
        return self.rows

    def close(self) -> None:
        """Drop what is not committed and let the next writer in."""
        if not self._open:
            return
        self._open = False
        with contextlib.suppress(sqlite3.Error):
            if self._database.in_transaction:
                self._database.execute("ROLLBACK")
        if not self._uncertain:
            self._tail.drop_pending()
        self._tail.close()
        with contextlib.suppress(sqlite3.Error):
            self._database.close()
        self._lock.close()

    def _check_model(self, held: ModelRecord) -> None:
        if held.identity != self.model.identity or held.dim != self.model.dim:
            raise ArchiveModelError(
                f"{self.path} holds vectors of {held}, not of {self.model}. Index into another archive, "
                "or use the model that this one records"
            )
        query = "SELECT DISTINCT precision, gate_passed FROM segments WHERE rows > 0"
        for precision, passed in self._database.execute(query):
            if precision == self.producer.precision or (passed and self.producer.gate_passed):
                continue
            failed = precision if not passed else self.producer.precision
            raise ArchiveModelError(
                f"{self.path} holds {precision} rows and these would be {self.producer.precision}, but "
                f"{failed} has not passed its gate. Precisions mix only when they have: lrsclip check BUNDLE"
            )

    # -- one transaction ------------------------------------------------------------------------

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """Begin a transaction where none is open; on a refusal drop what is pending, close and say so."""
        if not self._open:
            raise ArchiveError(f"the writer of {self.path} is closed; open another one")
        try:
            if not self._database.in_transaction:
                self._database.execute("BEGIN IMMEDIATE")
            yield
        except (OSError, sqlite3.Error) as error:
            rows = self.rows
            self.close()
            reason = getattr(error, "strerror", None) or error
            raise ArchiveError(
                f"{self.path} could not be written: {reason}. Its {rows} committed rows are intact; "
                "make room and run the same command again, it goes on from there"
            ) from error

    def _append_part(
        self, source: int, ids: Sequence[str], tiles: Sequence[NewTile], rows: NDArray[np.float32]
    ) -> None:
        self._name_tiles(source, ids, tiles)
        self._tail.append(columns_from_rows(rows, tiles, source), len(tiles))

    def _name_tiles(self, source: int, ids: Sequence[str], tiles: Sequence[NewTile]) -> None:
        records, boxes = [], []
        for index, (identifier, tile) in enumerate(zip(ids, tiles, strict=True)):
            number = self._next_tile + index
            place = tile.bbox or (None,) * 4
            footprint = wkb_from_rings(tile.footprint) if tile.footprint else None
            name = (number, identifier, source, tile.level, *tile.window.as_list())
            row = (self._tail.number, self._tail.row + index)
            records.append((*name, *row, *place, footprint, tile.time_us, tile.nodata_fraction))
            for west, south, east, north in boxes_of(tile.bbox) if tile.bbox else ():
                boxes.append((west, east, south, north, number))
        marks = ",".join("?" * 17)
        self._database.executemany(f"INSERT INTO tiles VALUES ({marks})", records)
        self._database.executemany(
            "INSERT INTO tile_boxes (min_lon, max_lon, min_lat, max_lat, tile) VALUES (?, ?, ?, ?, ?)", boxes
        )
        self._next_tile += len(tiles)

    # -- checks -----------------------------------------------------------------------------------

    def _checked_rows(self, vectors: NDArray[np.floating[Any]], count: int) -> NDArray[np.float32]:
        rows = np.asarray(vectors, dtype=np.float32)
        if rows.shape != (count, self.model.dim):
            raise InputError(
                f"vectors {rows.shape} must be ({count}, {self.model.dim}): one row a tile, D of the archive"
            )
        lengths = np.sqrt(np.square(rows).sum(axis=1))
        if count and not (np.abs(lengths - 1) <= UNIT_TOLERANCE).all():
            worst = int(np.argmax(np.where(np.isfinite(lengths), np.abs(lengths - 1), np.inf)))
            raise InputError(f"row {worst} has length {lengths[worst]:.4g}; an archive holds unit rows")
        return rows

    def _content_of(self, source: int) -> str:
        if source not in self._content:
            query = "SELECT content_sha256 FROM sources WHERE source = ?"
            found = self._database.execute(query, (source,)).fetchone()
            if found is None:
                raise InputError(f"source {source} is not in {self.path}; add_source gives the number of one")
            self._content = {source: str(found[0])}
        return self._content[source]

    def _check_reading(self, source: int, reading: str) -> None:
        query = "SELECT reading FROM sources WHERE source = ?"
        (held,) = self._database.execute(query, (source,)).fetchone()
        if held != reading:
            raise ArchiveError(
                f"its pixels were read with {held} when it was indexed, now with {reading}. "
                "Index it with the same options, or into another archive"
            )

    def _root(self, path: str) -> int:
        found = self._database.execute("SELECT root FROM roots WHERE path = ?", (path,)).fetchone()
        if found is not None:
            return int(found[0])
        taken = {row[0] for row in self._database.execute("SELECT name FROM roots")}
        base = Path(path).name or "root"
        name, count = base, 2
        while name in taken:
            name, count = f"{base}-{count}", count + 1
        cursor = self._database.execute("INSERT INTO roots (name, path) VALUES (?, ?)", (name, path))
        return int(cursor.lastrowid or 0)
