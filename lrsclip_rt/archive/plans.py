"""What has to be embedded of a file: its grids of windows, less what the archive has."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from lrsclip_rt.archive.footprints import Bbox, Rings, simplified
from lrsclip_rt.archive.ids import WHOLE_IMAGE, tile_id
from lrsclip_rt.archive.inputs import InputFile, Shard
from lrsclip_rt.archive.records import ContentRecord, Location, NewTile
from lrsclip_rt.archive.times import time_us_from_text
from lrsclip_rt.errors import InputError
from lrsclip_rt.localization.strips import windows_from_strips
from lrsclip_rt.tiles import Window, tile_grid

if TYPE_CHECKING:
    from lrsclip_rt.raster import Scene

__all__ = [
    "DEFAULT_TILE_PX",
    "Grid",
    "IndexOptions",
    "Sighting",
    "SourcePlan",
    "content_of_scene",
    "grids_of",
    "read_window",
    "tiles_of_scene",
    "whole_image",
]

DEFAULT_TILE_PX = 256
"""Tile edge where none is asked for."""

LARGEST_READ_PX = 2_048
"""Windows longer than this are read at reduced resolution: the model sees far fewer pixels anyway."""

_LARGEST_CUT_PX = 512
"""Windows no higher than this are cut from rows that are read once; as many rows stay in memory."""

_PLACED_AT_ONCE = 256
"""Windows whose footprints are reprojected together: most of the cost is that of a call."""

_PIXEL_SHARE = 0.05
"""Footprints keep their shape to this share of a pixel."""


@dataclass(frozen=True, slots=True)
class IndexOptions:
    """How to index.

    Attributes:
        tiles: Tile edges [px], one level each; empty: 256 for georeferenced rasters, none for other images.
        overlap: Shared fraction of neighbouring tiles, in ``[0, 1)``.
        bands: One or three 1-based bands; None: by colour interpretation, else 1, 2, 3.
        nodata: Value of missing pixels in place of the file's own.
        stretch: Fixed limits of the 8-bit stretch; None: 2-98 % of the whole raster where it is needed.
        metadata: Keys and values for every source; they win over those of a STAC item.
        asset: Key of the asset that is taken of STAC items; None: ``visual``, else the one with data.
        replace: Whether what lay at a path before its file changed is deleted at the end.
        shard: The part of the files that is taken; None for all.
        least_valid: Windows with a smaller share of valid pixels are skipped.
        batch_size: Images of one run of the model.
        commit_rows: Rows after which to commit.
        commit_seconds: Time after which to commit [s].

    Raises:
        InputError: If a value is out of range.
    """

    tiles: tuple[int, ...] = ()
    overlap: float = 0.25
    bands: tuple[int, ...] | None = None
    nodata: float | None = None
    stretch: tuple[float, float] | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)
    asset: str | None = None
    replace: bool = False
    shard: Shard | None = None
    least_valid: float = 0.5
    batch_size: int = 32
    commit_rows: int = 4_096
    commit_seconds: float = 30.0

    def __post_init__(self) -> None:
        if any(tile < 1 for tile in self.tiles):
            raise InputError(f"tile edges must be positive, got {self.tiles}")
        if not 0.0 <= self.overlap < 1.0:
            raise InputError(f"overlap must be in [0, 1), got {self.overlap}")

    @property
    def reading(self) -> dict[str, Any]:
        """What differs from the defaults in how pixels are read, as JSON values."""
        chosen = {"bands": self.bands, "nodata": self.nodata, "stretch": self.stretch}
        return {
            key: list(value) if isinstance(value, tuple) else value
            for key, value in chosen.items()
            if value is not None
        }


@dataclass(frozen=True, slots=True)
class Grid:
    """One level of a source: its number, the overlap and the windows."""

    level: int
    overlap: float
    windows: tuple[Window, ...]


@dataclass(frozen=True, slots=True)
class Sighting:
    """Where a source was found, and what a STAC item says of it there."""

    location: Location
    metadata: Mapping[str, str]

    @classmethod
    def of(cls, file: InputFile) -> Sighting:
        """The sighting of a file.

        Raises:
            InputError: If its name is not UTF-8.
        """
        return cls(file.location(), file.facts.metadata)


@dataclass(slots=True, eq=False)
class SourcePlan:
    """A source on its way into the archive.

    The reading side counts ``emitted`` and ``skipped`` and hands the plan over when these are final; the
    writing side counts the rest.

    Attributes:
        content: What will be recorded.
        grids: Levels that are not complete yet.
        sightings: Where it lies; may grow while it is on its way.
        emitted: Windows handed to the model.
        skipped: Per level, windows that are mostly nodata.
        broken: Whether a window could not be read or decoded.
        arrived: Windows that came back from the model.
        number: In the archive, once it is there.
        described: Sightings that are recorded.
        counted_bytes: Bytes of the file that the report counts as done.
    """

    content: ContentRecord
    grids: tuple[Grid, ...]
    sightings: list[Sighting]
    emitted: int = 0
    skipped: dict[int, int] = field(default_factory=dict)
    broken: bool = False
    arrived: int = 0
    number: int | None = None
    described: int = 0
    counted_bytes: int = 0

    @property
    def done_bytes(self) -> int:
        """Bytes of the file in proportion to the windows that arrived or were skipped."""
        windows = sum(len(grid.windows) for grid in self.grids)
        done = min(windows, self.arrived + sum(self.skipped.values()))
        return self.content.size_bytes * done // max(1, windows)


def grids_of(content: ContentRecord, options: IndexOptions) -> tuple[Grid, ...]:
    """The grids that a source should have: tiles where it has a place or they are asked for, else one window.

    Example:
        >>> photo = ContentRecord("00" * 32, 1, width=400, height=300)
        >>> [(grid.level, len(grid.windows)) for grid in grids_of(photo, IndexOptions())]
        [(0, 1)]
        >>> [(grid.level, len(grid.windows)) for grid in grids_of(photo, IndexOptions(tiles=(256, 1024)))]
        [(256, 4), (1024, 1)]
    """
    placed = content.crs is not None and content.transform is not None
    edges: Sequence[int] = options.tiles or ((DEFAULT_TILE_PX,) if placed else ())
    if not edges:
        return (Grid(WHOLE_IMAGE, 0.0, (Window(0, 0, content.width, content.height),)),)
    return tuple(
        Grid(
            edge,
            options.overlap,
            tuple(tile_grid(content.height, content.width, size=edge, overlap=options.overlap)),
        )
        for edge in sorted(set(edges))
    )


def tiles_of_scene(
    scene: Scene, plan: SourcePlan, known: set[str], options: IndexOptions
) -> Iterator[tuple[NewTile, NDArray[np.uint8]]]:
    """Read every window of a plan that is not in ``known``: tiles and their ``(h, w, 3)`` uint8 pixels.

    Raises:
        RasterError: If the file is damaged.
    """
    plan.skipped = {grid.level: 0 for grid in plan.grids}  # whole, since the writing side looks at it
    for grid in plan.grids:
        content = plan.content.content_sha256
        fresh = [window for window in grid.windows if tile_id(content, grid.level, window) not in known]
        seen = _pixels_and_valid(scene, fresh)
        for start in range(0, len(fresh), _PLACED_AT_ONCE):
            windows = fresh[start : start + _PLACED_AT_ONCE]
            for window, place in zip(windows, scene.places(windows), strict=True):
                pixels, valid = next(seen)
                if valid < options.least_valid and grid.level != WHOLE_IMAGE:
                    plan.skipped[grid.level] += 1
                    continue
                bbox, rings = _place(place, window)
                time_us = plan.content.time_us
                yield NewTile(grid.level, window, bbox, rings, time_us, 1.0 - valid), pixels


def whole_image(content: ContentRecord) -> NewTile:
    """The one row of an image without a place."""
    window = Window(0, 0, content.width, content.height)
    return NewTile(WHOLE_IMAGE, window, time_us=content.time_us)


def content_of_scene(
    scene: Scene, sha256: str, size_bytes: int, options: IndexOptions, *, time_us: int | None = None
) -> ContentRecord:
    """What is recorded about an open scene; a ``time_us`` from elsewhere wins over the file's own."""
    if time_us is None and scene.datetime is not None:
        time_us = time_us_from_text(scene.datetime)
    return ContentRecord(
        content_sha256=sha256,
        size_bytes=size_bytes,
        width=scene.width,
        height=scene.height,
        crs=scene.crs,
        transform=scene.transform,
        gsd_m=scene.gsd_m,
        time_us=time_us,
        reading=options.reading,
    )


def _place(place: tuple[Bbox, Rings] | None, window: Window) -> tuple[Bbox | None, Rings]:
    if place is None:
        return None, ()
    bbox, rings = place
    pixel_deg = (bbox[3] - bbox[1]) / window.height
    return bbox, simplified(rings, _PIXEL_SHARE * pixel_deg)


def _pixels_and_valid(scene: Scene, windows: Sequence[Window]) -> Iterator[tuple[NDArray[np.uint8], float]]:
    """The ``(h, w, 3)`` uint8 pixels of each window and the share of it that shows something."""
    # Overlapping windows are cut from the same rows; where pixels may be missing, each is read with its mask.
    corners = [(window.row_off, window.col_off) for window in windows]
    small = all(window.height <= _LARGEST_CUT_PX for window in windows)
    if small and corners == sorted(corners) and scene.shows_all:
        for _, pixels in windows_from_strips(scene, windows, fill=True):
            yield pixels, 1.0
        return
    for window in windows:
        if max(window.width, window.height) > LARGEST_READ_PX:
            yield read_window(scene, window), scene.valid_fraction(window)
        else:
            pixels, valid = scene.read_masked(window)
            yield pixels, 1.0 if valid is None else float(valid.mean())


def read_window(scene: Scene, window: Window) -> NDArray[np.uint8]:
    """The pixels of a window as the model gets them: ``(h, w, 3)`` uint8, at most 2,048 px a side.

    Raises:
        RasterError: If the file is damaged there.
    """
    longest = max(window.width, window.height)
    if longest <= LARGEST_READ_PX:
        return scene.read(window)
    scale = LARGEST_READ_PX / longest
    height, width = max(1, round(window.height * scale)), max(1, round(window.width * scale))
    return scene.read(window, out_height=height, out_width=width)
