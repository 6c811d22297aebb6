"""The successor of an archive: the same tiles, embedded again by another model, while the old one serves."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from lrsclip_rt.archive.ids import WHOLE_IMAGE
from lrsclip_rt.archive.inputs import is_raster, sha256_and_size
from lrsclip_rt.archive.models import model_from_bundle, producer_from_embedder
from lrsclip_rt.archive.plans import read_window
from lrsclip_rt.archive.read_ahead import run_ahead
from lrsclip_rt.archive.records import NewTile, TileRecord
from lrsclip_rt.archive.source_copying import SourceCopy, copy_source, sources_of
from lrsclip_rt.archive.store import Archive
from lrsclip_rt.archive.writing import ArchiveWriter
from lrsclip_rt.errors import ArchiveError, LrsclipError

if TYPE_CHECKING:
    from lrsclip_rt.embedder import Embedder
    from lrsclip_rt.image_stream import EmbeddedBatch
    from lrsclip_rt.images import ImageSource

__all__ = ["ReembedReport", "reembed_archive"]

_READ_AHEAD = 16
_COMMIT_ROWS = 4_096
_COMMIT_SECONDS = 30.0
_READINGS = {"bands", "nodata", "stretch"}


@dataclass(slots=True)
class ReembedReport:
    """What was embedded again; also handed out while it goes on.

    Attributes:
        sources: Sources that are complete in the successor.
        added_rows: Rows that were embedded.
        known_rows: Rows that the successor had already.
        rows: Rows of the successor.
        failures: Sources that could not be read any more, with the reason.
    """

    sources: int = 0
    added_rows: int = 0
    known_rows: int = 0
    rows: int = 0
    failures: list[tuple[str, str]] = field(default_factory=list)


@dataclass(slots=True, eq=False)
class _Job:
    """A source on its way: ``left`` tiles are not back from the model, None while more are handed out."""

    source: SourceCopy
    given: int = 0
    left: int | None = None
    back: int = 0
    broken: bool = False
    number: int | None = None


def reembed_archive(
    archive: str | Path,
    successor: str | Path,
    model: Embedder,
    *,
    batch_size: int = 32,
    progress: Callable[[ReembedReport], None] | None = None,
) -> ReembedReport:
    """Build the successor of an archive from the same files with another model.

    Every tile of the archive is cut from its source as it was cut then, and keeps id, place, time, metadata
    and grid. What the successor has already is skipped, so an interrupted run goes on where it stopped.

    Args:
        archive: The archive as it is; it is only read.
        successor: The new one; made where there is none.
        model: What embeds.
        batch_size: Images of one run of the model.
        progress: Called now and then with the report so far.

    Returns:
        The report; sources that are gone or changed are in ``failures``.

    Raises:
        ArchiveError: If either cannot be used; everything committed is intact.
        ArchiveModelError: If the successor holds rows of a third model.
        ArchiveLockedError: If another writer is at work on the successor.
    """
    if Path(archive).resolve() == Path(successor).resolve():
        raise ArchiveError(f"{successor} is the archive itself; give the successor another folder")
    bundle = model.bundle
    with Archive.open(archive) as old:
        sources = sources_of(old.catalog)
        old.refresh()
        producer = producer_from_embedder(model)
        with ArchiveWriter(successor, model_from_bundle(bundle), producer, bundle=bundle) as writer:
            reader = _Reader(old, Path(successor), sources)
            recorder = _Recorder(writer, reader)
            ahead = run_ahead(reader.items(), depth=_READ_AHEAD)
            try:
                for batch in model.stream_images(ahead, batch_size=batch_size):
                    recorder.take(batch)
                    if progress is not None:
                        progress(recorder.report)
            except ArchiveError:
                raise
            except BaseException:
                # Ctrl-C or a failing model: what has arrived is good.
                writer.commit()
                raise
            finally:
                ahead.close()
            recorder.settle()
            recorder.report.rows = writer.commit()
    return recorder.report


class _Reader:
    """The reading side, in a thread of its own: tiles that the successor lacks, with their pixels."""

    def __init__(self, old: Archive, successor: Path, sources: list[SourceCopy]) -> None:
        self.events: deque[_Job] = deque()
        self.failures: deque[tuple[str, str]] = deque()
        self.known_rows = 0
        self._old, self._successor, self._sources = old, successor, sources

    def items(self) -> Iterator[tuple[tuple[_Job, NewTile], ImageSource]]:
        with Archive.open(self._successor) as held:
            for source in self._sources:
                job = _Job(source)
                try:
                    yield from self._items_of(job, held)
                except (LrsclipError, OSError) as error:
                    job.broken = True
                    self.failures.append((self._old.catalog.path_text(source.number), str(error)))
                job.left = job.given
                self.events.append(job)

    def _items_of(self, job: _Job, held: Archive) -> Iterator[tuple[tuple[_Job, NewTile], ImageSource]]:
        content = job.source.content
        tiles = self._old.tiles_of_source(job.source.number)
        known = _known_ids(held, content.content_sha256)
        missing = [tile for tile in tiles if tile.id not in known]
        self.known_rows += len(tiles) - len(missing)
        if not missing:
            return
        path = _path_of(job.source)
        if not is_raster(path) and all(tile.tile.level == WHOLE_IMAGE for tile in tiles):
            for tile in missing:
                job.given += 1
                yield (job, tile.tile), path
            return
        yield from _windows(job, path, missing)


def _windows(
    job: _Job, path: Path, tiles: list[TileRecord]
) -> Iterator[tuple[tuple[_Job, NewTile], ImageSource]]:
    from lrsclip_rt.raster import open_scene

    reading = dict(job.source.content.reading)
    if not set(reading) <= _READINGS:
        raise ArchiveError(f"its pixels were read with {reading}, which this version cannot repeat")
    bands, stretch = reading.get("bands"), reading.get("stretch")
    with open_scene(
        path,
        bands=None if bands is None else tuple(bands),
        nodata=reading.get("nodata"),
        stretch="auto" if stretch is None else (float(stretch[0]), float(stretch[1])),
    ) as scene:
        for tile in tiles:
            pixels = read_window(scene, tile.tile.window)
            job.given += 1
            yield (job, tile.tile), pixels


def _known_ids(held: Archive, content_sha256: str) -> set[str]:
    query = "SELECT id FROM tiles JOIN sources USING (source) WHERE content_sha256 = ?"
    return {row[0] for row in held.catalog.rows(query, (content_sha256,))}


def _path_of(source: SourceCopy) -> Path:
    """Where the source still lies unchanged.

    Raises:
        ArchiveError: If it lies nowhere.
    """
    paths = [location.absolute() for location in source.locations]
    found = [path for path in paths if path.is_file()]
    for path in found:
        if sha256_and_size(path)[0] == source.content.content_sha256:
            return path
    where = ", ".join(map(str, paths)) or "any path"
    what = "has changed since it was indexed" if found else "is gone"
    raise ArchiveError(f"the source at {where} {what}. If it moved: lrsclip archive relocate ARCHIVE OLD NEW")


class _Recorder:
    """The writing side: rows as they come, and what is said about a source when all its rows are there."""

    def __init__(self, writer: ArchiveWriter, reader: _Reader) -> None:
        self.report = ReembedReport()
        self._writer, self._reader = writer, reader
        self._waiting: list[_Job] = []
        self._last_commit = time.monotonic()

    def take(self, batch: EmbeddedBatch[tuple[_Job, NewTile]]) -> None:
        start = 0
        while start < len(batch.keys):
            job = batch.keys[start][0]
            stop = start
            while stop < len(batch.keys) and batch.keys[stop][0] is job:
                stop += 1
            if job.number is None:
                job.number = copy_source(self._writer, job.source, complete=False)
            tiles = [tile for _, tile in batch.keys[start:stop]]
            self.report.added_rows += self._writer.append(job.number, tiles, batch.embeddings[start:stop])
            job.back += stop - start
            start = stop
        for (job, _), error in batch.failures:
            job.broken, job.back = True, job.back + 1
            self.report.failures.append((str(job.source.locations[0].absolute()), str(error)))
        self.settle()
        waited = time.monotonic() - self._last_commit
        if self._writer.pending_rows >= _COMMIT_ROWS or waited >= _COMMIT_SECONDS:
            self.report.rows = self._writer.commit()
            self._last_commit = time.monotonic()

    def settle(self) -> None:
        """Finish the sources whose tiles are all back."""
        while self._reader.events:
            self._waiting.append(self._reader.events.popleft())
        while self._reader.failures:
            self.report.failures.append(self._reader.failures.popleft())
        self.report.known_rows = self._reader.known_rows
        done = [job for job in self._waiting if job.back == job.left]
        self._waiting = [job for job in self._waiting if job.back != job.left]
        for job in done:
            if not job.broken:
                copy_source(self._writer, job.source)
                self.report.sources += 1
