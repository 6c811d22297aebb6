"""A scene of an archive: its stored tile vectors stand for the windows, and scoring reads no image."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from lrsclip_rt.errors import InputError
from lrsclip_rt.localization.scene_embedding import SceneEmbedding
from lrsclip_rt.raster import Look, Scene, open_scene
from lrsclip_rt.raster_georeference import Georeference
from lrsclip_rt.raster_pixels import Block
from lrsclip_rt.tiles import Window

if TYPE_CHECKING:
    from lrsclip_rt.archive import Archive

__all__ = [
    "SCHEME",
    "ArchiveAddress",
    "address_from_text",
    "embedding_from_archive",
    "scene_from_archive",
    "source_number",
]

SCHEME = "archive:"

GREY = 110
"""What stands for the picture of a scene whose file is not there any more."""

SHOWN_SOURCES = 5


@dataclass(frozen=True, slots=True)
class ArchiveAddress:
    """A source of an archive: ``archive:PATH#SOURCE``."""

    archive: Path
    source: str


def address_from_text(text: str) -> ArchiveAddress | None:
    """Read ``archive:PATH#SOURCE``; None for any other text.

    Raises:
        InputError: If the scheme is there and the rest is not.

    Example:
        >>> address_from_text("archive:/data/archive#port.tif")
        ArchiveAddress(archive=PosixPath('/data/archive'), source='port.tif')
        >>> address_from_text("port.tif") is None
        True
    """
    if not text.startswith(SCHEME):
        return None
    path, mark, source = text[len(SCHEME) :].partition("#")
    if not path or not mark or not source:
        raise InputError(f"got {text!r}; expected archive:PATH#SOURCE, e.g. archive:archive/#port.tif")
    return ArchiveAddress(Path(path), source)


def source_number(archive: Archive, source: str) -> int:
    """The one source of this path; whole, relative to its root, or with ``*``.

    Raises:
        InputError: If none or several match.
    """
    by_path = archive.catalog.sources_by_path
    found = sorted(by_path([source]) or by_path(["*/" + source]))
    if len(found) == 1:
        return found[0]
    if not found:
        raise InputError(f"{archive.path} has no source {source!r}; give its path as search prints it")
    names = ", ".join(archive.catalog.path_text(number) for number in found[:SHOWN_SOURCES])
    raise InputError(f"{len(found)} sources of {archive.path} match {source!r}: {names}; name one of them")


def embedding_from_archive(archive: Archive, number: int) -> SceneEmbedding:
    """The stored tiles of all levels of a source.

    Args:
        archive: Open archive.
        number: Of the source.

    Raises:
        InputError: If the archive holds the source as one whole image.
    """
    content = archive.content(number)
    tiles = [
        tile
        for tile in archive.tiles_of_source(number)
        if tile.tile.nodata_fraction is None or tile.tile.nodata_fraction < 1.0
    ]
    if len(tiles) < 2:
        name = archive.catalog.path_text(number)
        raise InputError(
            f"{name} has {len(tiles)} tile in {archive.path}, and a map needs more: index it with --tile, "
            "or localize in the file"
        )
    shares = np.array([1.0 - (tile.tile.nodata_fraction or 0.0) for tile in tiles], np.float32)
    return SceneEmbedding(
        tuple(tile.tile.window for tile in tiles),
        archive.vectors(tiles),
        content.height,
        content.width,
        "archive",
        tuple(sorted({tile.tile.level for tile in tiles}, reverse=True)),
        shares,
    )


def scene_from_archive(archive: Archive, number: int) -> Scene:
    """The source as a scene whose pixels are read only for a picture, and grey where the file is gone."""
    content = archive.content(number)
    georeference = None
    if content.transform is not None:
        a, b, c, d, e, f = content.transform
        georeference = Georeference((a, b, c, d, e, f), content.crs)
    there = next((path for path in archive.locations(number) if path.is_file()), None)
    pixels = StoredPixels(content.height, content.width, there)
    path = Path(archive.catalog.path_text(number))
    scene = Scene(pixels, path=path, georeference=georeference, datetime=_utc(content.time_us))
    # Contrast and missing pixels are those of the file; finding them here would read it.
    scene.__dict__["look"] = Look(None, None, (GREY, GREY, GREY))
    return scene


class StoredPixels:
    """Pixels of a file that may not be there any more."""

    tagged = False
    lossy = False

    def __init__(self, height: int, width: int, path: Path | None) -> None:
        self.height = height
        self.width = width
        self._path = path

    def read(self, window: Window, height: int, width: int, *, smooth: bool = True) -> Block:
        """Read ``window`` as ``height x width`` pixels; grey without a file of this size."""
        rgb: NDArray[np.uint8] = np.full((height, width, 3), GREY, np.uint8)
        if self._path is not None:
            with open_scene(self._path) as scene:
                if (scene.height, scene.width) == (self.height, self.width):
                    rgb = scene.read(window, out_height=height, out_width=width)
        return Block(np.ascontiguousarray(rgb.transpose(2, 0, 1)), None)

    def close(self) -> None:
        """Nothing to release."""


def _utc(time_us: int | None) -> str | None:
    return None if time_us is None else f"{np.datetime64(time_us, 'us').astype('datetime64[s]')}Z"
