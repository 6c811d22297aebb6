"""The files of one localization: heat map, overlay and regions a text, and the protocol's uint8 map."""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from lrsclip_rt.errors import InputError, OutputExistsError
from lrsclip_rt.localization.geojson import feature_collection
from lrsclip_rt.localization.geopackage import import_pyogrio, write_geopackage
from lrsclip_rt.localization.heat_tif import write_full_heats, write_heat
from lrsclip_rt.localization.overlay import render_overlay, scene_thumbnail
from lrsclip_rt.localization.pipeline import Localization
from lrsclip_rt.localization.png import write_grey_png
from lrsclip_rt.localization.selo_map import selo_map_strips
from lrsclip_rt.raster import Scene
from lrsclip_rt.raster_gdal import import_rasterio

__all__ = ["OutputPaths", "output_paths", "refuse_existing_outputs", "write_outputs"]


@dataclass(frozen=True, slots=True)
class OutputPaths:
    """Files of one text.

    Attributes:
        heat: NN-heat.tif, float32 mean cosine.
        overlay: NN-overlay.png, the picture.
        regions: NN-regions.geojson.
        selo: NN-selo.png, the protocol's uint8 map at source resolution; None in other modes.
        geopackage: NN-regions.gpkg, the regions in the scene's CRS; None where not asked for.
    """

    heat: Path
    overlay: Path
    regions: Path
    selo: Path | None
    geopackage: Path | None = None

    def all(self) -> tuple[Path, ...]:
        """Every file of this text."""
        files = (self.heat, self.overlay, self.regions, self.selo, self.geopackage)
        return tuple(path for path in files if path is not None)


def output_paths(folder: Path, count: int, *, mode: str, geopackage: bool = False) -> tuple[OutputPaths, ...]:
    """Name the files of ``count`` texts, numbered from 01.

    Example:
        >>> [path.name for path in output_paths(Path("out"), 1, mode="selo")[0].all()]
        ['01-heat.tif', '01-overlay.png', '01-regions.geojson', '01-selo.png']
    """
    digits = max(2, len(str(count)))
    return tuple(
        OutputPaths(
            heat=folder / f"{number:0{digits}}-heat.tif",
            overlay=folder / f"{number:0{digits}}-overlay.png",
            regions=folder / f"{number:0{digits}}-regions.geojson",
            selo=folder / f"{number:0{digits}}-selo.png" if mode == "selo" else None,
            geopackage=folder / f"{number:0{digits}}-regions.gpkg" if geopackage else None,
        )
        for number in range(1, count + 1)
    )


def refuse_existing_outputs(paths: Sequence[OutputPaths]) -> None:
    """Check before any work that no file would be overwritten.

    Raises:
        OutputExistsError: Naming the first file that exists.
    """
    for path in (file for group in paths for file in group.all()):
        if path.exists():
            raise OutputExistsError(f"{path} exists. Choose another folder, or pass --overwrite")


def write_outputs(
    folder: Path,
    localization: Localization,
    scene: Scene,
    *,
    full: bool = False,
    geopackage: bool = False,
    overwrite: bool = False,
) -> tuple[OutputPaths, ...]:
    """Write the files of every text.

    All are written under temporary names first, so an interrupted run leaves no half file.

    Args:
        folder: Made if it does not exist.
        localization: From ``localize_scene``.
        scene: The same scene, still open.
        full: Write heat maps at source resolution instead of the fusion grid.
        geopackage: Write the regions as GeoPackage too.
        overwrite: Replace files that exist.

    Raises:
        OutputExistsError: If a file exists and ``overwrite`` is off; nothing is written then.
        DependencyError: If rasterio is not installed, or pyogrio where GeoPackages are asked for.
        InputError: If the folder cannot be written.
        RasterError: If a heat map cannot be written or the scene is damaged.
    """
    import_rasterio()  # before any file is written
    if geopackage:
        import_pyogrio()
    paths = output_paths(folder, len(localization), mode=localization.embedding.mode, geopackage=geopackage)
    if not overwrite:
        refuse_existing_outputs(paths)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with ExitStack() as stack:
            parts = [_parts(group, stack) for group in paths]
            _write_all(parts, localization, scene, full=full)
            for part, final in zip(parts, paths, strict=True):
                for source, target in zip(part.all(), final.all(), strict=True):
                    source.replace(target)
    except OSError as error:
        if isinstance(error, OutputExistsError):
            raise
        raise InputError(f"{folder} cannot be written: {error.strerror or error}") from error
    return paths


def _parts(group: OutputPaths, stack: ExitStack) -> OutputPaths:
    """Temporary names beside the final ones, removed in the end if they are still there."""
    token = f"{os.getpid():x}{secrets.token_hex(2)}"

    def part(path: Path) -> Path:
        named = path.with_name(f".{path.stem}.{token}.part{path.suffix}")
        stack.callback(named.unlink, missing_ok=True)
        return named

    selo = None if group.selo is None else part(group.selo)
    packed = None if group.geopackage is None else part(group.geopackage)
    return OutputPaths(part(group.heat), part(group.overlay), part(group.regions), selo, packed)


def _write_all(
    parts: Sequence[OutputPaths],
    localization: Localization,
    scene: Scene,
    *,
    full: bool,
) -> None:
    if full:
        write_full_heats([part.heat for part in parts], localization, scene)
    thumbnail = scene_thumbnail(scene)
    for text, (part, heatmap) in enumerate(zip(parts, localization.heatmaps, strict=True)):
        if not full:
            write_heat(part.heat, heatmap)
        overlay = render_overlay(heatmap, thumbnail, subtitle=scene.name, gsd_m=scene.gsd_m)
        overlay.save(part.overlay, compress_level=2)  # a third of the time, a tenth more bytes
        collection = feature_collection(heatmap)
        part.regions.write_text(json.dumps(collection, ensure_ascii=False) + "\n", encoding="utf-8")
        if part.geopackage is not None:
            write_geopackage(part.geopackage, heatmap, None if scene.crs is None else scene.transform)
        if part.selo is not None:
            assert localization.cells is not None, "selo mode has cells"
            strips = selo_map_strips(localization.cells, text)
            write_grey_png(part.selo, strips, height=scene.height, width=scene.width)
