"""Pictures of hits, cut from their sources: PNG, and GeoTIFF where the source has a georeference."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import numpy as np
from numpy.typing import NDArray

from lrsclip_rt.archive.hits import Hit
from lrsclip_rt.archive.inputs import sha256_and_size
from lrsclip_rt.archive.records import ContentRecord
from lrsclip_rt.archive.store import Archive
from lrsclip_rt.errors import ArchiveError, InputError, LrsclipError
from lrsclip_rt.raster import Scene, open_scene
from lrsclip_rt.tiles import Window

__all__ = ["Chip", "ChipReader", "chip_name", "write_chips"]

_MOST_OPEN = 8
"""Scenes kept open: hits of one source need not come one after the other."""


@dataclass(frozen=True, slots=True, eq=False)
class Chip:
    """What a hit shows.

    Attributes:
        pixels: ``(H, W, 3) uint8``.
        crs: Of its source; None without.
        transform: Affine a, b, c, d, e, f from the chip's pixels at full resolution to the CRS; None without.
    """

    pixels: NDArray[np.uint8]
    crs: str | None
    transform: tuple[float, ...] | None


class ChipReader:
    """Reads hits of one archive as they were for the model: same bands, nodata and stretch.

    A file is read only while it is still the one that was indexed, byte by byte. A context manager.
    """

    def __init__(self, archive: Archive) -> None:
        self._archive = archive
        self._paths: dict[int, Path] = {}
        self._gone: dict[int, ArchiveError] = {}
        self._open: dict[int, tuple[Scene, ExitStack]] = {}

    def __enter__(self) -> ChipReader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        while self._open:
            self._open.popitem()[1][1].close()

    def read(self, hit: Hit, *, longest: int | None = None) -> Chip:
        """Cut a hit out.

        Args:
            hit: Of this archive.
            longest: No side is longer [px]; None for full resolution.

        Raises:
            ArchiveError: If the file is gone or was changed.
            RasterError: If it cannot be read.
        """
        number = self._archive.tile(hit.id).source
        content = self._archive.content(number)
        window = hit.window
        scale = 1.0 if longest is None else min(1.0, longest / max(window.width, window.height))
        pixels = self._scene(number, content).read(
            window,
            out_height=max(1, round(window.height * scale)),
            out_width=max(1, round(window.width * scale)),
            fill=False,
        )
        transform = None if content.transform is None else _window_transform(content.transform, window)
        return Chip(pixels, content.crs, transform)

    def _scene(self, number: int, content: ContentRecord) -> Scene:
        held = self._open.pop(number, None)
        if held is None:
            if len(self._open) >= _MOST_OPEN:
                self._open.pop(next(iter(self._open)))[1].close()
            if number not in self._paths:
                self._paths[number] = self._current_path(number, content)
            stack = ExitStack()
            held = stack.enter_context(_opened(self._paths[number], content)), stack
        self._open[number] = held  # the latest is last
        return held[0]

    def _current_path(self, number: int, content: ContentRecord) -> Path:
        """The file of a source; looked for, and read to compare its hash, once."""
        if number in self._gone:
            raise self._gone[number]
        try:
            return _current_path(self._archive, number, content)
        except ArchiveError as error:
            self._gone[number] = error
            raise


def chip_name(hit: Hit) -> str:
    """Name of a hit's files without suffix: rank and id, the same for the same answer.

    Example:
        >>> chip_name(Hit(3, 0.2, 1.0, "ab" * 16, "a.tif", Window(0, 0, 1, 1), None, None, 0))
        '003-abababababababababababababababab'
    """
    return f"{hit.rank:03d}-{hit.id}"


def write_chips(
    archive: Archive, hits: Iterable[Hit], folder: Path
) -> tuple[list[Path], list[tuple[str, str]]]:
    """Cut every hit from its source into ``folder``: ``RRR-ID.png``, and ``.tif`` with a georeference.

    Returns:
        The files written, and the sources that could not be read with the reason.

    Raises:
        InputError: If the folder cannot be written.
    """
    written: list[Path] = []
    failures: dict[str, str] = {}
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{folder} cannot be written: {error.strerror or error}") from error
    with ChipReader(archive) as reader:
        for hit in hits:
            try:
                written += _write_chip(reader.read(hit), folder / chip_name(hit))
            except (LrsclipError, OSError) as error:
                failures.setdefault(hit.source, str(error))
    return written, list(failures.items())


def _write_chip(chip: Chip, stem: Path) -> list[Path]:
    from PIL import Image

    files = [stem.with_name(stem.name + ".png")]
    Image.fromarray(chip.pixels).save(files[0])
    if chip.crs is not None and chip.transform is not None:
        files.append(stem.with_name(stem.name + ".tif"))
        _write_geotiff(files[1], chip.pixels, chip.crs, chip.transform)
    return files


def _opened(path: Path, content: ContentRecord) -> Scene:
    bands, limits = content.reading.get("bands"), content.reading.get("stretch")
    return open_scene(
        path,
        bands=None if bands is None else tuple(bands),
        nodata=content.reading.get("nodata"),
        stretch="auto" if limits is None else (limits[0], limits[1]),
    )


def _current_path(archive: Archive, number: int, content: ContentRecord) -> Path:
    """A location whose file is still the one that was indexed.

    Raises:
        ArchiveError: If there is none.
    """
    locations = archive.locations(number)
    for path in locations:
        if path.is_file() and sha256_and_size(path)[0] == content.content_sha256:
            return path
    where = ", ".join(str(path) for path in locations) or "any known path"
    raise ArchiveError(f"its file is not at {where}, or it changed since it was indexed; index it again")


def _window_transform(transform: tuple[float, ...], window: Window) -> tuple[float, ...]:
    """The affine transform of a window's own pixels.

    Example:
        >>> _window_transform((2.0, 0.0, 100.0, 0.0, -2.0, 500.0), Window(10, 5, 1, 1))
        (2.0, 0.0, 120.0, 0.0, -2.0, 490.0)
    """
    a, b, c, d, e, f = transform
    col, row = window.col_off, window.row_off
    return a, b, a * col + b * row + c, d, e, d * col + e * row + f


def _write_geotiff(path: Path, pixels: NDArray[np.uint8], crs: str, transform: tuple[float, ...]) -> None:
    from lrsclip_rt.raster_gdal import import_rasterio

    rasterio = import_rasterio()
    height, width = pixels.shape[:2]
    profile = {"driver": "GTiff", "dtype": "uint8", "count": 3, "height": height, "width": width}
    affine = rasterio.Affine(*transform)
    options = {"crs": crs, "transform": affine, "photometric": "RGB", "compress": "deflate"}
    with rasterio.open(path, "w", **profile, **options) as dataset:
        dataset.write(pixels.transpose(2, 0, 1))
