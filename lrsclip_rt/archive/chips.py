"""Pictures of hits, cut from their sources: PNG, and GeoTIFF where the source has a georeference."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lrsclip_rt.archive.hits import Hit
from lrsclip_rt.archive.inputs import sha256_and_size
from lrsclip_rt.archive.records import ContentRecord
from lrsclip_rt.archive.store import Archive
from lrsclip_rt.errors import ArchiveError, LrsclipError
from lrsclip_rt.tiles import Window

__all__ = ["write_chips"]


def write_chips(
    archive: Archive, hits: Iterable[Hit], folder: Path
) -> tuple[list[Path], list[tuple[str, str]]]:
    """Cut every hit from its source into ``folder``: ``RRR-ID.png``, and ``.tif`` with a georeference.

    Pixels are read as they were for the archive: same bands, nodata and stretch.

    Returns:
        The files written, and the sources that could not be read with the reason.
    """
    written: list[Path] = []
    failures: list[tuple[str, str]] = []
    paths: dict[int, Path] = {}
    folder.mkdir(parents=True, exist_ok=True)
    for hit in hits:
        try:
            number = archive.tile(hit.id).source
            content = archive.content(number)
            if number not in paths:
                paths[number] = _current_path(archive, number, content)
            written += _write_chip(paths[number], content, hit, folder / f"{hit.rank:03d}-{hit.id}")
        except (LrsclipError, OSError) as error:
            failures.append((hit.source, str(error)))
    return written, failures


def _write_chip(path: Path, content: ContentRecord, hit: Hit, stem: Path) -> list[Path]:
    from PIL import Image

    from lrsclip_rt.raster import open_scene

    bands, limits = content.reading.get("bands"), content.reading.get("stretch")
    with open_scene(
        path,
        bands=None if bands is None else tuple(bands),
        nodata=content.reading.get("nodata"),
        stretch="auto" if limits is None else (limits[0], limits[1]),
    ) as scene:
        pixels = scene.read(hit.window, fill=False)
    files = [stem.with_name(stem.name + ".png")]
    Image.fromarray(pixels).save(files[0])
    if content.crs is not None and content.transform is not None:
        files.append(stem.with_name(stem.name + ".tif"))
        _write_geotiff(files[1], pixels, content.crs, _window_transform(content.transform, hit.window))
    return files


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
