"""Heat maps as cloud-optimised GeoTIFF: float32, with overviews, georeferenced as the scene is."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from lrsclip_rt.errors import RasterError
from lrsclip_rt.localization.heatmap import Heatmap
from lrsclip_rt.localization.pipeline import Localization, grid_transform
from lrsclip_rt.raster import Scene
from lrsclip_rt.raster_gdal import gdal_environment, gdal_errors, import_rasterio
from lrsclip_rt.raster_georeference import Affine6
from lrsclip_rt.tiles import Window

__all__ = ["write_full_heats", "write_heat"]

BLOCK = 256
"""Edge of the file's tiles, and rows of a strip at source resolution [px]."""

COG = {
    "BLOCKSIZE": BLOCK,
    "COMPRESS": "DEFLATE",
    "PREDICTOR": "YES",
    "OVERVIEW_RESAMPLING": "AVERAGE",
    "BIGTIFF": "IF_SAFER",
}
"""How GDAL arranges the file."""


def write_heat(path: Path, heatmap: Heatmap) -> None:
    """Write one map on the fusion grid.

    Raises:
        DependencyError: If rasterio is not installed.
        RasterError: If the file cannot be written.
    """
    height, width = heatmap.scores.shape
    with _created(path, heatmap, heatmap.transform, height, width) as dataset:
        dataset.write(heatmap.scores, 1)


def write_full_heats(paths: Sequence[Path], localization: Localization, scene: Scene) -> None:
    """Write all maps at source resolution, strip by strip: memory holds 256 rows a text.

    Raises:
        DependencyError: If rasterio is not installed.
        RasterError: If a file cannot be written or the scene is damaged.
    """
    height, width = scene.height, scene.width
    transform = grid_transform(scene, height, width)
    cols = np.arange(width)
    with ExitStack() as stack:
        files = [
            stack.enter_context(_created(path, heatmap, transform, height, width))
            for path, heatmap in zip(paths, localization.heatmaps, strict=True)
        ]
        for window in _strips(height, width):
            rows = np.arange(window.row_off, window.row_off + window.height)
            valid = scene.valid_mask(window)
            for text, dataset in enumerate(files):
                values = localization.at_pixels(text, rows, cols)
                if valid is not None:
                    values[~valid] = np.nan
                dataset.write(values, 1, window=((window.row_off, rows[-1] + 1), (0, width)))


def _strips(height: int, width: int) -> Iterator[Window]:
    for row_off in range(0, height, BLOCK):
        yield Window(0, row_off, width, min(BLOCK, height - row_off))


@contextmanager
def _created(
    path: Path,
    heatmap: Heatmap,
    transform: Affine6,
    height: int,
    width: int,
) -> Iterator[Any]:
    """Write a tiled file beside the final one, then arrange it as a COG with overviews."""
    rasterio = import_rasterio()
    profile = {
        "driver": "GTiff",
        "height": height,
        "width": width,
        "count": 1,
        "dtype": "float32",
        "nodata": float("nan"),
        "crs": heatmap.crs,
        "transform": rasterio.Affine(*transform),
        "tiled": True,
        "blockxsize": BLOCK,
        "blockysize": BLOCK,
        "compress": "lzw",
        "bigtiff": "if_safer",
    }
    draft = path.with_name(f"{path.stem}.draft.tif")
    try:
        with gdal_environment():
            with rasterio.open(draft, "w", **profile) as dataset:
                dataset.set_band_description(1, heatmap.text)
                dataset.update_tags(**_tags(heatmap))
                yield dataset
            import_module("rasterio.shutil").copy(draft, path, driver="COG", **COG)
    except gdal_errors() as error:
        raise RasterError(
            f"{path} cannot be written ({error}); check the folder and the free space"
        ) from error
    finally:
        draft.unlink(missing_ok=True)


def _tags(heatmap: Heatmap) -> dict[str, str]:
    tags = {
        "QUERY": heatmap.text,
        "SOURCE": heatmap.source,
        "MODEL_ID": heatmap.model_id,
        "MODE": heatmap.mode,
        "SCALES": ",".join(str(scale) for scale in heatmap.scales) or "whole scene",
        "SCORE": heatmap.measure,
        **presence_tags(heatmap),
        "COORDINATES": "crs" if heatmap.crs is not None else "pixels",
        "ACQUISITION_DATETIME": heatmap.datetime,
    }
    return {name: value for name, value in tags.items() if value is not None}


def presence_tags(heatmap: Heatmap) -> dict[str, str]:
    """Whether the scene shows the text at all, for a file's tags."""
    presence = heatmap.presence
    if presence is None:
        return {}
    return {
        "PRESENT": "yes" if presence.present else "no",
        "PRESENCE": f"{presence.score:.6f}",
        "PRESENCE_BAR": f"{presence.bar:.6f} (background)",
    }
