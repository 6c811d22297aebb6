"""What has to be embedded of a file: its grids of windows, less what the archive has."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from lrsclip_rt.archive.footprints import simplified
from lrsclip_rt.archive.ids import WHOLE_IMAGE, tile_id
from lrsclip_rt.archive.records import ContentRecord, Location, NewTile
from lrsclip_rt.archive.times import time_us_from_text
from lrsclip_rt.errors import InputError
from lrsclip_rt.tiles import Window, tile_grid

if TYPE_CHECKING:
    from lrsclip_rt.raster import Scene

__all__ = ["DEFAULT_TILE_PX", "Grid", "IndexOptions", "SourcePlan", "grids_of", "tiles_of_scene"]

DEFAULT_TILE_PX = 256
"""Tile edge where none is asked for."""

LARGEST_READ_PX = 2_048
"""Windows longer than this are read at reduced resolution: the model sees far fewer pixels anyway."""

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
        metadata: Keys and values for every source.
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


@dataclass(slots=True, eq=False)
class SourcePlan:
    """A source on its way into the archive.

    The reading side counts ``emitted`` and ``skipped`` and hands the plan over when these are final; the
    writing side counts the rest.

    Attributes:
        content: What will be recorded.
        grids: Levels that are not complete yet.
        locations: Where it lies; may grow while it is on its way.
        emitted: Windows handed to the model.
        skipped: Per level, windows that are mostly nodata.
        broken: Whether a window could not be read or decoded.
        arrived: Windows that came back from the model.
        number: In the archive, once it is there.
        described: Locations that are recorded.
    """

    content: ContentRecord
    grids: tuple[Grid, ...]
    locations: list[Location]
    emitted: int = 0
    skipped: dict[int, int] = field(default_factory=dict)
    broken: bool = False
    arrived: int = 0
    number: int | None = None
    described: int = 0


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
    for grid in plan.grids:
        plan.skipped[grid.level] = 0
        for window in grid.windows:
            if tile_id(plan.content.content_sha256, grid.level, window) in known:
                continue
            valid = scene.valid_fraction(window)
            if valid < options.least_valid and grid.level != WHOLE_IMAGE:
                plan.skipped[grid.level] += 1
                continue
            tile = _tile_of_window(scene, plan.content, grid.level, window, 1.0 - valid)
            yield tile, _pixels(scene, window)


def whole_image(content: ContentRecord) -> NewTile:
    """The one row of an image without a place."""
    window = Window(0, 0, content.width, content.height)
    return NewTile(WHOLE_IMAGE, window, time_us=content.time_us)


def content_of_scene(scene: Scene, sha256: str, size_bytes: int, options: IndexOptions) -> ContentRecord:
    """What is recorded about an open scene."""
    return ContentRecord(
        content_sha256=sha256,
        size_bytes=size_bytes,
        width=scene.width,
        height=scene.height,
        crs=scene.crs,
        transform=scene.transform,
        gsd_m=scene.gsd_m,
        time_us=None if scene.datetime is None else time_us_from_text(scene.datetime),
        reading=options.reading,
    )


def _tile_of_window(
    scene: Scene, content: ContentRecord, level: int, window: Window, nodata_fraction: float
) -> NewTile:
    bbox, rings = scene.bounds(window), scene.footprints(window) or ()
    if bbox is not None:
        pixel_deg = (bbox[3] - bbox[1]) / window.height
        rings = simplified(rings, _PIXEL_SHARE * pixel_deg)
    return NewTile(level, window, bbox, rings, content.time_us, nodata_fraction)


def _pixels(scene: Scene, window: Window) -> NDArray[np.uint8]:
    longest = max(window.width, window.height)
    if longest <= LARGEST_READ_PX:
        return scene.read(window)
    scale = LARGEST_READ_PX / longest
    return scene.read(
        window,
        out_height=max(1, round(window.height * scale)),
        out_width=max(1, round(window.width * scale)),
    )
