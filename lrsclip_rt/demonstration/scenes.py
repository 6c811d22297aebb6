"""The demonstration's scenes: rendered, and written as GeoTIFFs at an invented place."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lrsclip_rt.demonstration.results import DemoScene
from lrsclip_rt.errors import InputError
from lrsclip_rt.rendering import RenderedScene, render_scene

__all__ = ["ABSENT_CLASS", "PLACE", "SCENE_SEEDS", "SCENE_SIDE", "write_scene", "write_scenes"]

SCENE_SEEDS = (2_000_023, 2_000_033, 2_000_056, 2_000_057)
"""Of ``DEMO_SEEDS``: together they show every class but one. Chosen before any model had seen them."""

ABSENT_CLASS = "mountain"
"""The class that none of the scenes shows."""

SCENE_SIDE = 1024
"""Edge of a scene [px]."""

PLACE = "an invented place in the open Atlantic, where there is no land"

CRS = "EPSG:32625"
WEST_M, NORTH_M = 500_000.0, 4_983_000.0
SPACING_M = 2_000.0
"""Scenes stand in a row, this far from corner to corner."""


def write_scenes(
    folder: Path, *, seeds: Sequence[int] = SCENE_SEEDS, side: int = SCENE_SIDE
) -> tuple[DemoScene, ...]:
    """Render scenes into ``folder``: ``scene-N.tif`` each, and ``truth.json`` with what they show.

    Args:
        folder: An existing folder.
        seeds: One a scene.
        side: Edge of a scene [px].

    Raises:
        InputError: If there is no seed, or a file cannot be written.
        DependencyError: If rasterio is not installed.
    """
    if not seeds:
        raise InputError("got no seeds; a demonstration needs at least one scene")
    scenes = []
    for number, seed in enumerate(seeds, start=1):
        truth = render_scene(seed, height=side, width=side)
        path = folder / f"scene-{number}.tif"
        write_scene(path, truth, west_m=WEST_M + (number - 1) * SPACING_M)
        scenes.append(DemoScene(f"Scene {number}", path, side, side, truth.gsd_m, truth))
    truths = [_truth_record(scene.path, scene.truth) for scene in scenes if scene.truth is not None]
    listing = json.dumps({"place": PLACE, "scenes": truths}, indent=1)
    (folder / "truth.json").write_text(listing + "\n", encoding="utf-8")
    return tuple(scenes)


def write_scene(path: Path, truth: RenderedScene, *, west_m: float = WEST_M) -> None:
    """Write one scene as a tiled, compressed GeoTIFF that says that its place is invented.

    Args:
        path: File to write.
        truth: The scene.
        west_m: Easting of its left edge in UTM zone 25 N [m].

    Raises:
        InputError: If the file cannot be written.
        DependencyError: If rasterio is not installed.
    """
    from lrsclip_rt.raster_gdal import import_rasterio

    rasterio = import_rasterio()
    height, width = truth.pixels.shape[:2]
    transform = rasterio.Affine(truth.gsd_m, 0.0, west_m, 0.0, -truth.gsd_m, NORTH_M)
    options = {
        "crs": CRS,
        "transform": transform,
        "photometric": "RGB",
        "compress": "deflate",
        "predictor": 2,
    }
    tiling = {"tiled": True, "blockxsize": 256, "blockysize": 256} if min(height, width) >= 256 else {}
    try:
        with rasterio.open(
            path, "w", driver="GTiff", dtype="uint8", count=3, height=height, width=width, **options, **tiling
        ) as dataset:
            dataset.write(truth.pixels.transpose(2, 0, 1))
            dataset.update_tags(
                TIFFTAG_IMAGEDESCRIPTION=f"Rendered scene, seed {truth.seed}; it lies at {PLACE}.",
                TIFFTAG_SOFTWARE="lrsclip-rt",
            )
    except (OSError, rasterio.errors.RasterioError) as error:
        raise InputError(f"{path} cannot be written: {error}. Make room or choose another folder") from error


def _truth_record(path: Path, truth: RenderedScene) -> dict[str, Any]:
    objects = [
        {
            "class": thing.name,
            "window": [thing.col_off, thing.row_off, thing.width, thing.height],
            "outline": [list(point) for point in thing.polygon],
        }
        for thing in truth.objects
    ]
    return {
        "file": path.name,
        "seed": truth.seed,
        "gsd_m": truth.gsd_m,
        "long": truth.long,
        "objects": objects,
    }
