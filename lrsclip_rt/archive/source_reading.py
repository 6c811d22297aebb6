"""The reading side of indexing: files to windows, less what the archive has already."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING

from lrsclip_rt.archive.catalog import Catalog
from lrsclip_rt.archive.inputs import InputFile, header_from_image, is_raster, list_inputs, sha256_and_size
from lrsclip_rt.archive.plans import (
    Grid,
    IndexOptions,
    SourcePlan,
    content_of_scene,
    grids_of,
    tiles_of_scene,
    whole_image,
)
from lrsclip_rt.archive.records import ContentRecord, Location, NewTile
from lrsclip_rt.archive.schema import DATABASE, connect_to_read
from lrsclip_rt.archive.times import time_us_from_text
from lrsclip_rt.errors import ArchiveError, LrsclipError, RasterError

if TYPE_CHECKING:
    from lrsclip_rt.images import ImageSource
    from lrsclip_rt.raster import StretchChoice

__all__ = ["Arrival", "Event", "Failed", "Known", "SourceReader"]


@dataclass(frozen=True, slots=True, eq=False)
class Arrival:
    """What an image on its way through the model is: a tile of a source."""

    plan: SourcePlan
    tile: NewTile


@dataclass(frozen=True, slots=True)
class Failed:
    """A file that could not be used, wholly or from some window on."""

    path: Path
    reason: str


@dataclass(frozen=True, slots=True)
class Known:
    """A file whose content the archive holds completely."""

    number: int
    location: Location


Event = Failed | Known | SourcePlan
"""What the reading side tells the writing side; a plan, when all its windows are handed out."""


class SourceReader:
    """Yields windows and leaves events; runs in a thread of its own, beside the writer.

    Args:
        folder: The archive.
        sources: Files and folders to index.
        options: How.
    """

    def __init__(self, folder: Path, sources: Sequence[Path], options: IndexOptions) -> None:
        self.events: deque[Event] = deque()
        self.files = 0
        self._sources = sources
        self._options = options
        self._database = connect_to_read(folder)
        self._catalog = Catalog(self._database, folder / DATABASE)
        self._active: dict[str, SourcePlan] = {}
        self._lock = Lock()

    def items(self) -> Iterator[tuple[Arrival, ImageSource]]:
        """Every window that has to be embedded, with its pixels or the path to them."""
        try:
            for file in list_inputs(self._sources):
                try:
                    yield from self._items_of_file(file)
                except (LrsclipError, OSError) as error:
                    self.events.append(Failed(file.path, str(error)))
                self.files += 1
        finally:
            self._database.close()

    def retire(self, plan: SourcePlan) -> list[Location]:
        """Forget a plan that is committed; the locations that it was found at in all."""
        with self._lock:
            self._active.pop(plan.content.content_sha256, None)
            return list(plan.locations)

    def _items_of_file(self, file: InputFile) -> Iterator[tuple[Arrival, ImageSource]]:
        sha256, size_bytes = sha256_and_size(file.path)
        location = file.location()
        if self._joined(sha256, location):
            return
        number = self._number(sha256)
        held = None if number is None else self._catalog.content(number)
        if held is not None and number is not None:
            self._check_reading(held)
            if not self._missing_grids(number, held):
                self.events.append(Known(number, location))
                return
        if self._options.tiles or is_raster(file.path):
            yield from self._windows(file, sha256, size_bytes, number, location)
        else:
            content = held or self._content_of_image(file.path, sha256, size_bytes)
            plan = self._begin(content, number, location)
            plan.emitted = 1
            self.events.append(plan)
            yield Arrival(plan, whole_image(content)), file.path

    def _windows(
        self, file: InputFile, sha256: str, size_bytes: int, number: int | None, location: Location
    ) -> Iterator[tuple[Arrival, ImageSource]]:
        from lrsclip_rt.raster import open_scene

        options = self._options
        stretch: StretchChoice = "auto" if options.stretch is None else options.stretch
        with open_scene(file.path, bands=options.bands, nodata=options.nodata, stretch=stretch) as scene:
            content = content_of_scene(scene, sha256, size_bytes, options)
            plan = self._begin(content, number, location)
            try:
                for tile, pixels in tiles_of_scene(scene, plan, self._known_ids(number), options):
                    plan.emitted += 1
                    yield Arrival(plan, tile), pixels
            except RasterError:
                plan.broken = True
                raise
            finally:
                self.events.append(plan)

    def _joined(self, sha256: str, location: Location) -> bool:
        """Whether the same content is on its way; then only the location is new."""
        with self._lock:
            plan = self._active.get(sha256)
            if plan is not None and location not in plan.locations:
                plan.locations.append(location)
            return plan is not None

    def _begin(self, content: ContentRecord, number: int | None, location: Location) -> SourcePlan:
        grids = grids_of(content, self._options) if number is None else self._missing_grids(number, content)
        plan = SourcePlan(content, grids, [location])
        with self._lock:
            self._active[content.content_sha256] = plan
        return plan

    def _number(self, sha256: str) -> int | None:
        found = self._catalog.rows("SELECT source FROM sources WHERE content_sha256 = ?", (sha256,))
        return int(found[0][0]) if found else None

    def _missing_grids(self, number: int, content: ContentRecord) -> tuple[Grid, ...]:
        done = set(self._catalog.rows("SELECT level, overlap FROM grids WHERE source = ?", (number,)))
        return tuple(g for g in grids_of(content, self._options) if (g.level, g.overlap) not in done)

    def _known_ids(self, number: int | None) -> set[str]:
        if number is None:
            return set()
        return {row[0] for row in self._catalog.rows("SELECT id FROM tiles WHERE source = ?", (number,))}

    def _check_reading(self, held: ContentRecord) -> None:
        if dict(held.reading) != self._options.reading:
            before, now = dict(held.reading) or "the defaults", self._options.reading or "the defaults"
            raise ArchiveError(
                f"its pixels were read with {before} when it was indexed, now with {now}. "
                "Index it with the same options, or into another archive"
            )

    def _content_of_image(self, path: Path, sha256: str, size_bytes: int) -> ContentRecord:
        header = header_from_image(path)
        time_us = None if header.datetime is None else time_us_from_text(header.datetime)
        return ContentRecord(
            sha256, size_bytes, header.width, header.height, time_us=time_us, reading=self._options.reading
        )
