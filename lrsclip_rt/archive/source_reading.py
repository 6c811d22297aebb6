"""The reading side of indexing: files to windows, less what the archive has already."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING

from lrsclip_rt.archive.content_stamps import ContentStamps
from lrsclip_rt.archive.held_sources import HeldSource, HeldSources
from lrsclip_rt.archive.inputs import InputFile, header_from_image, is_raster, list_inputs, sha256_and_size
from lrsclip_rt.archive.plans import (
    IndexOptions,
    Sighting,
    SourcePlan,
    content_of_scene,
    grids_of,
    tiles_of_scene,
    whole_image,
)
from lrsclip_rt.archive.read_ahead import run_ahead
from lrsclip_rt.archive.records import ContentRecord, NewTile
from lrsclip_rt.archive.schema import is_created
from lrsclip_rt.archive.stac.reading import RefusedItem
from lrsclip_rt.archive.times import time_us_from_text
from lrsclip_rt.errors import LrsclipError, RasterError

if TYPE_CHECKING:
    from lrsclip_rt.images import ImageSource
    from lrsclip_rt.raster import Scene

__all__ = ["Arrival", "Event", "Failed", "Known", "SourceReader", "open_input"]

HASH_AHEAD = 32
"""Files that are hashed before their turn."""

HASH_AHEAD_BYTES = 2**30
"""Most bytes of them: what lies in the system's cache when it is read again."""


@dataclass(frozen=True, slots=True, eq=False)
class Arrival:
    """What an image on its way through the model is: a tile of a source."""

    plan: SourcePlan
    tile: NewTile


@dataclass(frozen=True, slots=True)
class Failed:
    """A file that could not be used, wholly or from some window on."""

    name: str
    reason: str


@dataclass(frozen=True, slots=True)
class Known:
    """A file whose content the archive, or the one that this is a part for, holds completely."""

    content: ContentRecord
    sighting: Sighting


Event = Failed | Known | SourcePlan
"""What the reading side tells the writing side; a plan, when all its windows are handed out."""


@dataclass(frozen=True, slots=True)
class _Hashed:
    """A file and its content hash."""

    file: InputFile
    sha256: str
    size_bytes: int


class SourceReader:
    """Yields windows and leaves events; runs in a thread of its own, beside the writer.

    Args:
        folder: The archive.
        sources: Files and folders to index.
        options: How.
        stamps: What is known of file versions; None hashes every file. Closed with the reader.
        rehash: Hash every file all the same, and remember it.
        base: The archive that ``folder`` is to be merged into: what it holds is not embedded again.

    Attributes:
        events: What happened, oldest first.
        files: Files looked at.
        bytes_known: Bytes of files that the archive holds.
    """

    def __init__(
        self,
        folder: Path,
        sources: Sequence[Path | InputFile],
        options: IndexOptions,
        *,
        stamps: ContentStamps | None = None,
        rehash: bool = False,
        base: Path | None = None,
    ) -> None:
        self.events: deque[Event] = deque()
        self.files = 0
        self.bytes_known = 0
        self._sources = sources
        self._options = options
        self._stamps = ContentStamps(None) if stamps is None else stamps
        self._rehash = rehash
        self._held = HeldSources(folder)
        self._base = None if base is None or not is_created(base) else HeldSources(base)
        self._active: dict[str, SourcePlan] = {}
        self._lock = Lock()

    def items(self) -> Iterator[tuple[Arrival, ImageSource]]:
        """Every window that has to be embedded, with its pixels or the path to them."""
        ahead = run_ahead(
            self._hashed(), depth=HASH_AHEAD, weigh=_weight, most=HASH_AHEAD_BYTES, name="lrsclip-hash"
        )
        try:
            for found in ahead:
                if isinstance(found, Failed):
                    self.events.append(found)
                else:
                    try:
                        yield from self._items_of_file(found)
                    except (LrsclipError, OSError) as error:
                        self.events.append(Failed(str(found.file.path), str(error)))
                self.files += 1
        finally:
            ahead.close()
            self._stamps.close()
            self._held.close()
            if self._base is not None:
                self._base.close()

    def retire(self, plan: SourcePlan) -> list[Sighting]:
        """Forget a plan that is committed; the places that it was found at in all."""
        with self._lock:
            self._active.pop(plan.content.content_sha256, None)
            return list(plan.sightings)

    def _hashed(self) -> Iterator[_Hashed | Failed]:
        """Every file with its content hash, in a thread of its own: a large scene takes seconds."""
        shard = self._options.shard
        for file in list_inputs(self._sources, asset=self._options.asset):
            if isinstance(file, RefusedItem):
                if shard is None or shard.number == 1:
                    yield Failed(file.name, file.reason)
            elif shard is None or shard.holds(file):
                try:
                    yield _Hashed(file, *self._hash(file.path))
                except (LrsclipError, OSError) as error:
                    yield Failed(str(file.path), str(error))

    def _hash(self, path: Path) -> tuple[str, int]:
        if path.suffix.lower() == ".vrt":  # its hash depends on other files
            return sha256_and_size(path)
        return self._stamps.sha256_and_size(path, sha256_and_size, rehash=self._rehash)

    def _items_of_file(self, found: _Hashed) -> Iterator[tuple[Arrival, ImageSource]]:
        sighting = Sighting.of(found.file)
        if self._joined(found.sha256, sighting):
            self.bytes_known += found.size_bytes
            return
        held = self._held.source(found.sha256)
        for known in (held, None if self._base is None else self._base.source(found.sha256)):
            if known is not None:
                known.check_reading(self._options)
                if not known.missing_grids(self._options):
                    self.bytes_known += found.size_bytes
                    self.events.append(Known(known.content, sighting))
                    return
        path = found.file.path
        if self._options.tiles or is_raster(path) or found.file.facts.georeference is not None:
            yield from self._windows(found, held, sighting)
        else:
            content = self._content_of_image(found) if held is None else held.content
            plan = self._begin(content, held, sighting)
            plan.emitted = 1
            self.events.append(plan)
            yield Arrival(plan, whole_image(content)), path

    def _windows(
        self, found: _Hashed, held: HeldSource | None, sighting: Sighting
    ) -> Iterator[tuple[Arrival, ImageSource]]:
        options = self._options
        with open_input(found.file, options) as scene:
            time_us = found.file.facts.time_us
            content = content_of_scene(scene, found.sha256, found.size_bytes, options, time_us=time_us)
            plan = self._begin(content, held, sighting)
            known = set() if held is None else held.tile_ids()
            try:
                for tile, pixels in tiles_of_scene(scene, plan, known, options):
                    plan.emitted += 1
                    yield Arrival(plan, tile), pixels
            except RasterError:
                plan.broken = True
                raise
            finally:
                self.events.append(plan)

    def _joined(self, sha256: str, sighting: Sighting) -> bool:
        """Whether the same content is on its way; then only the place is new."""
        with self._lock:
            plan = self._active.get(sha256)
            if plan is not None and sighting not in plan.sightings:
                plan.sightings.append(sighting)
            return plan is not None

    def _begin(self, content: ContentRecord, held: HeldSource | None, sighting: Sighting) -> SourcePlan:
        grids = grids_of(content, self._options) if held is None else held.missing_grids(self._options)
        plan = SourcePlan(content, grids, [sighting])
        with self._lock:
            self._active[content.content_sha256] = plan
        return plan

    def _content_of_image(self, found: _Hashed) -> ContentRecord:
        header = header_from_image(found.file.path)
        time_us = found.file.facts.time_us
        if time_us is None and header.datetime is not None:
            time_us = time_us_from_text(header.datetime)
        return ContentRecord(
            found.sha256,
            found.size_bytes,
            header.width,
            header.height,
            time_us=time_us,
            reading=self._options.reading,
        )


def open_input(file: InputFile, options: IndexOptions) -> Scene:
    """Open a file as a scene, read as asked, at the place that a STAC item gives where it has none itself.

    Raises:
        RasterError: If it cannot be opened, or is not the raster that the item describes.
        ImageError: If a plain image cannot be decoded.
        DependencyError: If rasterio is needed and not installed.
    """
    from lrsclip_rt.raster import open_scene

    scene = open_scene(
        file.path,
        bands=options.bands,
        nodata=options.nodata,
        stretch="auto" if options.stretch is None else options.stretch,
    )
    place = file.facts.georeference
    if place is None or scene.transform is not None:
        return scene
    try:
        if (scene.height, scene.width) != (place.height, place.width):
            raise RasterError(
                f"{file.path} is {scene.width} x {scene.height} px, but proj:shape of its item says "
                f"{place.width} x {place.height}; correct the item, or name another asset with --asset"
            )
        scene.place_at(place.transform, place.crs)
    except RasterError:
        scene.close()
        raise
    return scene


def _weight(found: _Hashed | Failed) -> int:
    return found.size_bytes if isinstance(found, _Hashed) else 0
