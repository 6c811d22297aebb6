"""Archives of one model into one: rows are appended as they are, nothing is embedded again."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from lrsclip_rt.archive.records import Producer, TileRecord
from lrsclip_rt.archive.schema import MODEL, is_created
from lrsclip_rt.archive.segments import Segment
from lrsclip_rt.archive.source_copying import SourceCopy, copy_source, sources_of
from lrsclip_rt.archive.store import Archive
from lrsclip_rt.archive.writing import ArchiveWriter
from lrsclip_rt.errors import ArchiveError, ArchiveModelError, InputError

if TYPE_CHECKING:
    from lrsclip_rt.bundle import Bundle

__all__ = ["MergeReport", "merge_archives"]

_ROWS_AT_ONCE = 4_096
_COMMIT_ROWS = 65_536


@dataclass(slots=True)
class MergeReport:
    """What a merge did.

    Attributes:
        rows: Living rows of the target afterwards.
        added_rows: Rows that were appended.
        known_rows: Rows that it had already.
        sources: Sources of the parts.
        failures: Sources that could not be taken, with the reason.
    """

    rows: int = 0
    added_rows: int = 0
    known_rows: int = 0
    sources: int = 0
    failures: list[tuple[str, str]] = field(default_factory=list)


def merge_archives(
    target: str | Path,
    parts: Sequence[str | Path],
    *,
    progress: Callable[[int], None] | None = None,
) -> MergeReport:
    """Append the living rows of ``parts``; the target is made where there is none.

    Tiles that are there already are left out, so that an interrupted merge goes on where it stopped. Of a
    path that two archives know with different content, the later part wins, as if it had been indexed later.

    Args:
        target: The archive to append to.
        parts: Archives of the same model; they are only read.
        progress: Called with the rows that were looked at.

    Raises:
        ArchiveError: If a part is no archive or the target itself, or the disk refuses.
        ArchiveModelError: If an archive is of another model, or precisions may not mix.
        ArchiveLockedError: If another writer is at work on the target.
    """
    if not parts:
        raise InputError("name at least one archive to merge")
    report = MergeReport()
    for part in parts:
        if Path(part).resolve() == Path(target).resolve():
            raise ArchiveError(f"{part} is the target itself; name the other archives")
        with Archive.open(part) as opened:
            sources = sources_of(opened.catalog)
            opened.refresh()
            report.sources += len(sources)
            _merge_part(Path(target), opened, sources, report, progress or (lambda _: None))
    return report


def _merge_part(
    target: Path,
    part: Archive,
    sources: Sequence[SourceCopy],
    report: MergeReport,
    progress: Callable[[int], None],
) -> None:
    from lrsclip_rt.bundle import Bundle

    bundle = Bundle.open(part.model_path) if (part.path / MODEL).is_dir() else None
    taken = _Taken({source.number: source for source in sources}, part, report)
    for producer, segments in groupby(part.mapped_segments, key=lambda segment: segment.record.producer):
        with ArchiveWriter(target, part.model, producer, bundle=bundle) as writer:
            for segment in segments:
                for tiles, rows in _runs(part, segment):
                    number = taken.number(writer, tiles[0].source)
                    if number is not None:
                        added = writer.append(number, [tile.tile for tile in tiles], rows)
                        report.added_rows += added
                        report.known_rows += len(tiles) - added
                    if writer.pending_rows >= _COMMIT_ROWS:
                        writer.commit()
                    progress(len(tiles))
    with _last_writer(target, part, bundle) as writer:
        for source in sources:
            if taken.number(writer, source.number) is not None:
                copy_source(writer, source)
        report.rows = writer.commit()


class _Taken:
    """Numbers in the target of the sources of a part, as they come up."""

    def __init__(self, sources: dict[int, SourceCopy], part: Archive, report: MergeReport) -> None:
        self._sources = sources
        self._part = part
        self._report = report
        self._numbers: dict[int, int | None] = {}

    def number(self, writer: ArchiveWriter, source: int) -> int | None:
        """The number in the target; None for a source that it refuses, or that came too late to be merged."""
        if source not in self._numbers:
            self._numbers[source] = self._add(writer, source)
        return self._numbers[source]

    def _add(self, writer: ArchiveWriter, source: int) -> int | None:
        if source not in self._sources:
            return None
        try:
            return copy_source(writer, self._sources[source], complete=False)
        except ArchiveError as error:
            if not writer.is_open:
                raise
            self._report.failures.append((self._part.catalog.path_text(source), str(error)))
            return None


def _runs(part: Archive, segment: Segment) -> Iterator[tuple[list[TileRecord], NDArray[np.float32]]]:
    """Living rows of a segment that follow each other and have one source, with their ``(n, D)`` vectors."""
    record = segment.record
    for start in range(0, record.rows, _ROWS_AT_ONCE):
        rows = np.arange(start, min(start + _ROWS_AT_ONCE, record.rows))
        if segment.alive is not None:
            rows = rows[segment.alive[rows]]
        tiles = part.catalog.tiles((record.base + rows).tolist(), part.segments)
        for _, group in groupby(
            sorted(tiles.values(), key=lambda tile: tile.row), key=lambda tile: tile.source
        ):
            run = list(group)
            yield run, segment.f16[[tile.row - record.base for tile in run]].astype(np.float32)


def _last_writer(target: Path, part: Archive, bundle: Bundle | None) -> ArchiveWriter:
    """A writer for what is not rows; a part without rows may not have made the target yet."""
    if not is_created(target):
        return ArchiveWriter(target, part.model, Producer("fp32", "none"), bundle=bundle)
    writer = ArchiveWriter.of_existing(target)
    if writer.model.identity != part.model.identity:
        writer.close()
        raise ArchiveModelError(f"{target} holds vectors of {writer.model}, {part.path} of {part.model}")
    return writer
