"""Index files into an archive: reading, embedding and writing, each going on while the others do.

A thread reads files and cuts windows (``SourceReader``), decoders and the model work behind it
(``Embedder.stream_images``), and the caller's thread writes. What is complete is skipped by its content hash;
what is not is finished without doubling.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING

from lrsclip_rt.archive.models import model_from_bundle, producer_from_embedder
from lrsclip_rt.archive.plans import IndexOptions, SourcePlan
from lrsclip_rt.archive.read_ahead import run_ahead
from lrsclip_rt.archive.records import Location
from lrsclip_rt.archive.source_reading import Arrival, Failed, Known, SourceReader
from lrsclip_rt.archive.writing import ArchiveWriter
from lrsclip_rt.errors import ArchiveError

if TYPE_CHECKING:
    from lrsclip_rt.embedder import Embedder
    from lrsclip_rt.image_stream import EmbeddedBatch

__all__ = ["IndexReport", "index_sources"]

READ_AHEAD = 16
"""Windows that wait for the decoders."""

SCENE_COMMIT_SECONDS = 1.0
"""A scene's end is committed at once, but many small scenes share a commit of this length [s]."""


@dataclass(slots=True)
class IndexReport:
    """What indexing did; also handed out while it is at work.

    Attributes:
        files: Files looked at.
        new_sources: Sources that were added or completed.
        known_sources: Files whose content was complete already.
        rows: Rows added.
        skipped_windows: Windows left out because they are mostly nodata.
        replaced: Files whose content changed since they were indexed; their former tiles stay.
        failures: Files that could not be used, with the reason.
        archive_rows: Rows of the archive.
        seconds: Time taken [s].
    """

    files: int = 0
    new_sources: int = 0
    known_sources: int = 0
    rows: int = 0
    skipped_windows: int = 0
    replaced: list[str] = field(default_factory=list)
    failures: list[tuple[str, str]] = field(default_factory=list)
    archive_rows: int = 0
    seconds: float = 0.0


def index_sources(
    archive: str | Path,
    sources: Sequence[str | Path],
    model: Embedder,
    options: IndexOptions | None = None,
    *,
    progress: Callable[[IndexReport], None] | None = None,
) -> IndexReport:
    """Embed files and append them to an archive, which is made where there is none.

    Args:
        archive: The archive's folder.
        sources: Images, rasters and folders of them.
        model: What embeds them; the archive must hold rows of the same model.
        options: How to tile and read.
        progress: Called now and then with the report so far.

    Returns:
        The report; ``failures`` lists the files that could not be used.

    Raises:
        ArchiveError: If the archive cannot be written; everything committed is intact.
        ArchiveModelError: If it holds rows of another model.
        ArchiveLockedError: If another writer is at work.
    """
    chosen = options or IndexOptions()
    bundle = model.bundle
    started = time.monotonic()
    producer = producer_from_embedder(model)
    with ArchiveWriter(archive, model_from_bundle(bundle), producer, bundle=bundle) as writer:
        reader = SourceReader(Path(archive), [Path(source) for source in sources], chosen)
        recorder = _Recorder(writer, reader, chosen)
        ahead = run_ahead(reader.items(), depth=READ_AHEAD)
        try:
            for batch in model.stream_images(ahead, batch_size=chosen.batch_size):
                recorder.take(batch)
                recorder.report.seconds = time.monotonic() - started
                if progress is not None:
                    progress(recorder.report)
        except ArchiveError:
            raise
        except BaseException:
            # Ctrl-C or a failing model: what has arrived is good.
            recorder.commit()
            raise
        finally:
            ahead.close()
        recorder.settle()
        recorder.commit()
    recorder.report.seconds = time.monotonic() - started
    return recorder.report


class _Recorder:
    """The writing side: rows as they arrive, sources as they become complete."""

    def __init__(self, writer: ArchiveWriter, reader: SourceReader, options: IndexOptions) -> None:
        self.report = IndexReport()
        self._writer = writer
        self._reader = reader
        self._options = options
        self._waiting: list[SourcePlan] = []
        self._finished: list[SourcePlan] = []
        self._last_commit = time.monotonic()
        self._scene_ended = False

    def take(self, batch: EmbeddedBatch[Arrival]) -> None:
        """Append a batch, and commit where it is time to."""
        start = 0
        for plan, group in groupby(batch.keys, key=attrgetter("plan")):
            tiles = [arrival.tile for arrival in group]
            rows = batch.embeddings[start : start + len(tiles)]
            start += len(tiles)
            self.report.rows += self._writer.append(self._number(plan), tiles, rows)
            plan.arrived += len(tiles)
        for arrival, error in batch.failures:
            arrival.plan.broken = True
            arrival.plan.arrived += 1
            self.report.failures.append((str(arrival.plan.locations[0].absolute()), str(error)))
        self.settle()
        waited = time.monotonic() - self._last_commit
        full = self._writer.pending_rows >= self._options.commit_rows
        scene_ended = self._scene_ended and waited >= SCENE_COMMIT_SECONDS
        if full or scene_ended or waited >= self._options.commit_seconds:
            self.commit()

    def settle(self) -> None:
        """Record what the reading side told, and the sources whose windows have all arrived."""
        while self._reader.events:
            event = self._reader.events.popleft()
            if isinstance(event, Failed):
                self.report.failures.append((str(event.path), event.reason))
            elif isinstance(event, Known):
                self.report.known_sources += 1
                self._describe(event.number, event.location)
            else:
                self._waiting.append(event)
        arrived = [plan for plan in self._waiting if plan.arrived == plan.emitted]
        self._waiting = [plan for plan in self._waiting if plan.arrived != plan.emitted]
        for plan in arrived:
            self._finish(plan)
        self.report.files = self._reader.files

    def commit(self) -> None:
        """Commit, and forget the plans that are safe now."""
        self._writer.commit()
        for plan in self._finished:
            self._retire(plan)
        self._finished = []
        self._last_commit = time.monotonic()
        self._scene_ended = False
        self.report.archive_rows = self._writer.rows

    def _retire(self, plan: SourcePlan) -> None:
        """Let go of a plan; other paths may have turned out to hold the same content meanwhile."""
        locations = self._reader.retire(plan)
        if plan.number is not None:
            for location in locations[plan.described :]:
                self._describe(plan.number, location)
            return
        for location in locations[1:]:
            same = f"its content is that of {locations[0].absolute()}, which failed"
            self.report.failures.append((str(location.absolute()), same))

    def _number(self, plan: SourcePlan) -> int:
        """The source's number; it is recorded with its location at the latest with its first row."""
        if plan.number is None:
            plan.number = self._writer.add_source(plan.content)
        while plan.described < len(plan.locations):
            self._describe(plan.number, plan.locations[plan.described])
            plan.described += 1
        return plan.number

    def _finish(self, plan: SourcePlan) -> None:
        self._finished.append(plan)
        if plan.broken:
            return
        number = self._number(plan)
        for grid in plan.grids:
            skipped = plan.skipped.get(grid.level, 0)
            self._writer.finish_grid(
                number, level=grid.level, overlap=grid.overlap, windows=len(grid.windows), skipped=skipped
            )
            self.report.skipped_windows += skipped
        self.report.new_sources += 1
        self._scene_ended = self._scene_ended or plan.emitted > 1

    def _describe(self, number: int, location: Location) -> None:
        if self._writer.add_location(number, location) is not None:
            self.report.replaced.append(str(location.absolute()))
        if self._options.metadata:
            self._writer.add_metadata(number, self._options.metadata)
