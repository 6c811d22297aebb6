"""Index files into an archive: reading, embedding and writing, each going on while the others do.

One thread hashes files, one cuts windows (``SourceReader``), decoders and the model work behind them
(``Embedder.stream_images``) in a third, and the caller's thread writes. What is complete is skipped by its
content hash; what is not is finished without doubling.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from operator import attrgetter
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING

from lrsclip_rt.archive.content_stamps import ContentStamps
from lrsclip_rt.archive.inputs import InputFile
from lrsclip_rt.archive.models import model_from_bundle, producer_from_embedder
from lrsclip_rt.archive.plans import IndexOptions, Sighting, SourcePlan
from lrsclip_rt.archive.read_ahead import run_ahead
from lrsclip_rt.archive.source_reading import Arrival, Failed, Known, SourceReader
from lrsclip_rt.archive.writing import ArchiveWriter
from lrsclip_rt.errors import ArchiveError

if TYPE_CHECKING:
    from lrsclip_rt.embedder import Embedder
    from lrsclip_rt.image_stream import EmbeddedBatch
    from lrsclip_rt.images import ImageSource

__all__ = ["IndexReport", "index_sources"]

READ_AHEAD_BATCHES = 2
"""Batches of windows that wait for the decoders: a batch is taken at once, and the next must be there."""

READ_AHEAD_BYTES = 128 * 2**20
"""Most bytes of their pixels."""

SCENE_COMMIT_SECONDS = 1.0
"""A scene's end is committed at once, but many small scenes share a commit of this length [s]."""


@dataclass(slots=True)
class IndexReport:
    """What indexing did; also handed out while it is at work.

    Attributes:
        files: Files looked at.
        bytes_done: Bytes of the files that were embedded, in part for those at hand; for the time left.
        bytes_known: Bytes of the files that were known.
        new_sources: Sources that were added or completed.
        known_sources: Files whose content was complete already.
        rows: Rows added.
        skipped_windows: Windows left out because they are mostly nodata.
        replaced: Files whose content changed since they were indexed.
        deleted_rows: Rows of their former contents that were deleted; without ``replace`` they stay.
        failures: Files that could not be used, with the reason.
        archive_rows: Rows of the archive.
        seconds: Time taken [s].
    """

    files: int = 0
    bytes_done: int = 0
    bytes_known: int = 0
    new_sources: int = 0
    known_sources: int = 0
    rows: int = 0
    skipped_windows: int = 0
    replaced: list[str] = field(default_factory=list)
    deleted_rows: int = 0
    failures: list[tuple[str, str]] = field(default_factory=list)
    archive_rows: int = 0
    seconds: float = 0.0


def index_sources(
    archive: str | Path,
    sources: Sequence[str | Path | InputFile],
    model: Embedder,
    options: IndexOptions | None = None,
    *,
    stamps: ContentStamps | None = None,
    rehash: bool = False,
    base: str | Path | None = None,
    stop: Event | None = None,
    progress: Callable[[IndexReport], None] | None = None,
) -> IndexReport:
    """Embed files and append them to an archive, which is made where there is none.

    Args:
        archive: The archive's folder.
        sources: Images, rasters, folders of them, and STAC items, collections of items or catalogues.
        model: What embeds them; the archive must hold rows of the same model.
        options: How to tile and read.
        stamps: Hashes of file versions that were seen before, closed at the end; None hashes every file.
        rehash: Hash every file all the same.
        base: The archive that this one is to be merged into; what it holds is not embedded again.
        stop: Ends the run after the batch at hand when it is set; what has arrived is committed.
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
        inputs = [source if isinstance(source, InputFile) else Path(source) for source in sources]
        reader = SourceReader(
            Path(archive),
            inputs,
            chosen,
            stamps=stamps,
            rehash=rehash,
            base=None if base is None else Path(base),
        )
        recorder = _Recorder(writer, reader, chosen)
        ahead = run_ahead(
            reader.items(),
            depth=READ_AHEAD_BATCHES * chosen.batch_size,
            weigh=_pixel_bytes,
            most=READ_AHEAD_BYTES,
        )
        # The model's own thread: it works on while the database and the disk are waited for.
        embedded = run_ahead(
            model.stream_images(ahead, batch_size=chosen.batch_size), depth=1, name="lrsclip-embed"
        )
        try:
            for batch in embedded:
                recorder.take(batch)
                recorder.report.seconds = time.monotonic() - started
                if progress is not None:
                    progress(recorder.report)
                if stop is not None and stop.is_set():
                    break
        except ArchiveError:
            raise
        except BaseException:
            # Ctrl-C or a failing model: what has arrived is good.
            recorder.finish()
            raise
        finally:
            embedded.close()
            ahead.close()
        recorder.settle()
        recorder.finish()
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
        self._former: set[int] = set()
        self._last_commit = time.monotonic()
        self._scene_ended = False

    def take(self, batch: EmbeddedBatch[Arrival]) -> None:
        """Append a batch, and commit where it is time to."""
        numbers: list[int] = []
        plans: list[SourcePlan] = []
        for plan, group in groupby(batch.keys, key=attrgetter("plan")):
            arrived = sum(1 for _ in group)
            numbers += [self._number(plan)] * arrived
            plan.arrived += arrived
            plans.append(plan)
        tiles = [arrival.tile for arrival in batch.keys]
        self.report.rows += self._writer.append(numbers, tiles, batch.embeddings)
        for plan in plans:
            self._count_bytes(plan, plan.done_bytes)
        for arrival, error in batch.failures:
            arrival.plan.broken = True
            arrival.plan.arrived += 1
            first = arrival.plan.sightings[0].location
            self.report.failures.append((str(first.absolute()), str(error)))
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
                self.report.failures.append((event.name, event.reason))
            elif isinstance(event, Known):
                self.report.known_sources += 1
                self._describe(self._writer.add_source(event.content), event.sighting)
            else:
                self._waiting.append(event)
        arrived = [plan for plan in self._waiting if plan.arrived == plan.emitted]
        self._waiting = [plan for plan in self._waiting if plan.arrived != plan.emitted]
        for plan in arrived:
            self._finish(plan)
        self.report.files = self._reader.files
        self.report.bytes_known = self._reader.bytes_known

    def commit(self) -> None:
        """Commit, and forget the plans that are safe now."""
        self._writer.commit()
        for plan in self._finished:
            self._retire(plan)
        self._finished = []
        self._last_commit = time.monotonic()
        self._scene_ended = False
        self.report.archive_rows = self._writer.rows

    def finish(self) -> None:
        """Commit, and delete what was replaced.

        Only now: a content that left one path may have turned up at another one meanwhile.
        """
        self.commit()
        gone = [number for number in sorted(self._former) if not self._writer.has_locations(number)]
        if self._options.replace and gone:
            self.report.deleted_rows = self._writer.delete_sources(gone)
            self.commit()

    def _retire(self, plan: SourcePlan) -> None:
        """Let go of a plan; other paths may have turned out to hold the same content meanwhile."""
        sightings = self._reader.retire(plan)
        if plan.number is not None:
            for sighting in sightings[plan.described :]:
                self._describe(plan.number, sighting)
            return
        first = sightings[0].location.absolute()
        for sighting in sightings[1:]:
            same = f"its content is that of {first}, which failed"
            self.report.failures.append((str(sighting.location.absolute()), same))

    def _number(self, plan: SourcePlan) -> int:
        """The source's number; it is recorded with its location at the latest with its first row."""
        if plan.number is None:
            plan.number = self._writer.add_source(plan.content)
        while plan.described < len(plan.sightings):
            self._describe(plan.number, plan.sightings[plan.described])
            plan.described += 1
        return plan.number

    def _count_bytes(self, plan: SourcePlan, done: int) -> None:
        """Counting never goes back: windows that were there already raise the share when the plan ends."""
        self.report.bytes_done += max(0, done - plan.counted_bytes)
        plan.counted_bytes = max(plan.counted_bytes, done)

    def _finish(self, plan: SourcePlan) -> None:
        self._finished.append(plan)
        self._count_bytes(plan, plan.content.size_bytes)
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

    def _describe(self, number: int, sighting: Sighting) -> None:
        former = self._writer.add_location(number, sighting.location)
        if former is not None:
            self.report.replaced.append(str(sighting.location.absolute()))
            self._former.add(former)
        metadata = {**sighting.metadata, **self._options.metadata}
        if metadata:
            self._writer.add_metadata(number, metadata)


def _pixel_bytes(item: tuple[Arrival, ImageSource]) -> int:
    """Memory of a window that waits; a path has none."""
    return int(getattr(item[1], "nbytes", 0))
