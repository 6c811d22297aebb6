"""The one writer of an archive: append, commit, and nothing acknowledged is ever lost.

Rows are written to the segment files as they come and named in a database transaction that stays open.
What reaches the disk, in this order:

- creation: the new folders in their parents, the text tower, ``archive.db`` with its tables in one
  transaction, the archive folder;
- opening: the archive folder once more, because a creator that died may not have come so far;
- commit: every column file that has new rows (``fsync``), the ``segments`` folder where their names are, then
  the transaction (SQLite, WAL, ``synchronous = FULL``: the log is on the disk when COMMIT returns);
- delete: the transaction alone, since no file changes;
- compact: the new segments' files, the ``segments`` folder, the transaction that names them in place of the
  old ones; only then are the old files removed, and whether that reaches the disk does not matter.

So a row that the database names is there, and a row that it does not name is not seen. A writer that dies
leaves rows or files that no transaction names; the next writer cuts them off.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from lrsclip_rt.archive.catalog import Catalog
from lrsclip_rt.archive.compacting import CompactReport, compact_segments
from lrsclip_rt.archive.creation import BLOCK_ROWS, SEGMENT_ROWS, check_folder, create_archive
from lrsclip_rt.archive.deleting import delete_sources
from lrsclip_rt.archive.guarding import reading
from lrsclip_rt.archive.ids import tile_id
from lrsclip_rt.archive.locking import WriterLock
from lrsclip_rt.archive.records import ContentRecord, Location, ModelRecord, NewTile, Producer, SegmentRecord
from lrsclip_rt.archive.relocating import Relocation, relocate_roots
from lrsclip_rt.archive.schema import (
    DATABASE,
    SEGMENTS,
    ArchiveInfo,
    connect_to_read,
    connect_to_write,
    is_created,
    migrate,
    read_info,
)
from lrsclip_rt.archive.segments import columns_from_rows
from lrsclip_rt.archive.source_tables import (
    add_source,
    put_grid,
    put_location,
    put_metadata,
    source_number,
)
from lrsclip_rt.archive.tail import take_up_tail, unlink_segments
from lrsclip_rt.archive.tile_tables import TileNames, checked_rows, known_ids
from lrsclip_rt.errors import ArchiveError, ArchiveModelError, InputError

if TYPE_CHECKING:
    from lrsclip_rt.bundle import Bundle

__all__ = ["ArchiveWriter"]


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
                migrate(self._database)
                self._info = info
                self._segments = self.path / SEGMENTS
                self._appender = take_up_tail(self._database, self._segments, info, producer)
                self._names = TileNames(self._database)
                self._count_rows()
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

    @classmethod
    def of_existing(cls, path: str | Path) -> ArchiveWriter:
        """A writer for an archive that is there, of the model that it records: to delete and to compact.

        Raises:
            ArchiveError: If there is none, or it cannot be written.
            ArchiveLockedError: If another writer is at work.
            ArchiveCorruptError: If a segment is shorter than its record.
        """
        folder = Path(path)
        if not is_created(folder):
            raise ArchiveError(f"{folder} is no archive. Make one: lrsclip index SOURCE -a {folder}")
        database = connect_to_read(folder)
        try:
            info = read_info(folder, database)
            records = Catalog(database, folder / DATABASE).segments()
        finally:
            database.close()
        return cls(folder, info.model, records[-1].producer if records else Producer("fp32", "none"))

    @property
    def rows(self) -> int:
        """Committed rows of the archive that were not deleted."""
        return self._rows

    @property
    def is_open(self) -> bool:
        """Whether it can go on; a disk that refuses closes it."""
        return self._open

    @property
    def info(self) -> ArchiveInfo:
        """The archive's facts."""
        return self._info

    @property
    def segments(self) -> tuple[SegmentRecord, ...]:
        """Segments with committed rows, and with those that the open transaction names."""
        return Catalog(self._database, self.path / DATABASE).segments()

    @property
    def pending_rows(self) -> int:
        """Rows appended since the last commit."""
        return self._appender.pending_rows

    def source_number(self, content_sha256: str) -> int | None:
        """The number of a source that the archive holds already."""
        return source_number(self._database, content_sha256)

    def add_source(self, content: ContentRecord) -> int:
        """The number of a source, which is added where its content is new.

        Raises:
            ArchiveError: If the content is there but its pixels were read in another way.
        """
        with self._writing():
            return add_source(self._database, content)

    def add_location(self, source: int, location: Location) -> int | None:
        """Record where a source lies.

        Returns:
            The number of the source that lay at the same path before, or None: its file was replaced.
        """
        with self._writing():
            return put_location(self._database, source, location)

    def has_locations(self, source: int) -> bool:
        """Whether a source lies anywhere, by what is committed or pending."""
        query = "SELECT 1 FROM locations WHERE source = ? LIMIT 1"
        return self._database.execute(query, (source,)).fetchone() is not None

    def add_metadata(self, source: int, metadata: Mapping[str, str]) -> None:
        """Record keys and values of a source; a key that it has gets the new value."""
        with self._writing():
            put_metadata(self._database, source, metadata)

    def delete_source(self, number: int) -> int:
        """Delete a source with its tiles and all that is said about it; see ``delete_sources``."""
        return self.delete_sources([number])

    def delete_sources(self, numbers: Iterable[int]) -> int:
        """Delete sources: their rows are dead from the next commit on, and gone after ``compact``.

        The same files can be indexed again and get the same tile ids.

        Returns:
            Rows that are dead now.

        Raises:
            InputError: If there is no source of a number.
            ArchiveError: If the disk refuses; everything committed is intact and the writer is closed.
        """
        self._content = {}
        with self._writing():
            return delete_sources(self._database, numbers)

    def relocate(self, old: str, new: str) -> list[Relocation]:
        """Give roots another folder; see ``relocate_roots``.

        Raises:
            InputError: If no root is meant.
            ArchiveError: If a path would stand for two sources, or the disk refuses.
        """
        with self._writing():
            return relocate_roots(self._database, old, new)

    def compact(self, *, progress: Callable[[int], None] | None = None) -> CompactReport:
        """Commit, then rewrite segments without dead rows and join small ones; see ``compact_segments``.

        Args:
            progress: Called with the rows that were looked at.

        Raises:
            ArchiveCorruptError: If a segment does not match its checksums; nothing has changed then and the
                writer is closed.
            ArchiveError: If the disk refuses; everything committed is intact and the writer is closed.
        """
        self.commit()
        self._appender.close()
        try:
            with self._writing():
                report = compact_segments(
                    self._database, self._segments, self._info, self._committing, progress
                )
                unlink_segments(self._segments, keep=set(report.segments_after))
                self._appender = take_up_tail(self._database, self._segments, self._info, self.producer)
        except BaseException:
            self.close()
            raise
        return report

    def append(
        self,
        source: int | Sequence[int],
        tiles: Sequence[NewTile],
        vectors: NDArray[np.floating[Any]],
    ) -> int:
        """Append tiles with their ``(N, D)`` unit rows; those that the archive has are left out.

        Args:
            source: Number of the tiles' source, or of the source of each: rows of many small sources are
                appended together at a fraction of the cost.
            tiles: N tiles.
            vectors: Their rows.

        Returns:
            How many were new.

        Raises:
            InputError: If vectors and tiles do not fit each other or the archive.
            ArchiveError: If the disk refuses; everything committed is intact and the writer is closed.
        """
        rows = checked_rows(vectors, len(tiles), self.model.dim)
        with self._writing():
            sources = list(source) if isinstance(source, Sequence) else [source] * len(tiles)
            contents = self._contents_of(sources)
            ids = [
                tile_id(contents[number], tile.level, tile.window)
                for number, tile in zip(sources, tiles, strict=True)
            ]
            known = self.known_ids(ids)
            fresh: dict[str, int] = {}
            for index, identifier in enumerate(ids):
                if identifier not in known:
                    fresh.setdefault(identifier, index)
            names, chosen = list(fresh), list(fresh.values())
            start = 0
            while start < len(chosen):
                stop = start + self._appender.room(len(chosen) - start)
                part = [tiles[index] for index in chosen[start:stop]]
                numbers = [sources[index] for index in chosen[start:stop]]
                appender = self._appender
                self._names.insert(numbers, names[start:stop], part, appender.number, appender.row)
                appender.append(columns_from_rows(rows[chosen[start:stop]], part, numbers), len(part))
                start = stop
        return len(chosen)

    def known_ids(self, ids: Sequence[str]) -> set[str]:
        """Which of ``ids`` the archive holds, committed or pending."""
        return known_ids(self._database, ids)

    def finish_grid(self, source: int, *, level: int, overlap: float, windows: int, skipped: int) -> None:
        """Record that every window of a grid was embedded or skipped, so that it needs no second look."""
        with self._writing():
            put_grid(self._database, source, level=level, overlap=overlap, windows=windows, skipped=skipped)

    def commit(self) -> int:
        """Make everything so far durable and visible to readers.

        Returns:
            Living rows of the archive.

        Raises:
            ArchiveError: If the disk refuses; what was committed before is intact and the writer is closed.
        """
        with self._writing():
            self._appender.sync()
            with self._committing():
                self._database.execute("COMMIT")
        self._appender.committed()
        self._count_rows()
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
            self._appender.drop_pending()
        self._appender.close()
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

    @contextmanager
    def _committing(self) -> Iterator[None]:
        """A COMMIT that fails half-way may still stand in the log, so its rows must not be cut off."""
        self._uncertain = True
        yield
        self._uncertain = False

    def _count_rows(self) -> None:
        query = "SELECT (SELECT total(rows) FROM segments) - (SELECT total(rows) FROM deletions)"
        self._rows = int(self._database.execute(query).fetchone()[0])

    def _contents_of(self, sources: Sequence[int]) -> dict[int, str]:
        """Content hashes of sources; those of the last call are remembered."""
        contents: dict[int, str] = {}
        for source in dict.fromkeys(sources):
            known = self._content.get(source)
            if known is None:
                query = "SELECT content_sha256 FROM sources WHERE source = ?"
                found = self._database.execute(query, (source,)).fetchone()
                if found is None:
                    raise InputError(
                        f"source {source} is not in {self.path}; add_source gives the number of one"
                    )
                known = str(found[0])
            contents[source] = known
        self._content = contents
        return contents
