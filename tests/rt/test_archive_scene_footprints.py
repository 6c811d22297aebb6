"""Where tiles of whole scenes lie, held against rasterio's transform and pyproj."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from large_scenes import write_cog
from numpy.typing import NDArray

from lrsclip_rt.archive import Archive
from lrsclip_rt.archive.ingest import IndexReport, index_sources
from lrsclip_rt.archive.records import TileRecord
from lrsclip_rt.embedder import load
from lrsclip_rt.errors import RasterError
from lrsclip_rt.raster import scene_from_array
from lrsclip_rt.raster_georeference import Affine6
from lrsclip_rt.tiles import Window, tile_grid

rasterio = pytest.importorskip("rasterio")
pyproj = pytest.importorskip("pyproj", reason="pyproj is the yardstick for footprints")

TOLERANCE_DEG = 1e-6
MOST_BYTES = 1.5e9
SAMPLED = 400

INDEX = """
import sys
from lrsclip_rt.archive.ingest import index_sources
from lrsclip_rt.embedder import load
archive, scene, bundle = sys.argv[1:]
report = index_sources(archive, [scene], load(bundle))
assert not report.failures, report.failures
status = open("/proc/self/status").read()
print(report.rows, int(status.split("VmHWM:")[1].split()[0]) * 1024)
"""


def corners(scene: Path, tiles: list[TileRecord]) -> NDArray[np.float64]:
    """(N, 4, 2) lon, lat of the tiles' corners by rasterio's transform and pyproj."""
    with rasterio.open(scene) as dataset:
        to_lonlat = pyproj.Transformer.from_crs(dataset.crs.to_wkt(), "EPSG:4326", always_xy=True)
        points = []
        for tile in tiles:
            w = tile.tile.window
            left, top, right, bottom = w.col_off, w.row_off, w.col_off + w.width, w.row_off + w.height
            ring = ((left, top), (right, top), (right, bottom), (left, bottom))
            points.append(
                [rasterio.transform.xy(dataset.transform, row, col, offset="ul") for col, row in ring]
            )
    xy = np.array(points)
    lon, lat = to_lonlat.transform(xy[..., 0].ravel(), xy[..., 1].ravel())
    return np.stack([lon, lat], axis=-1).reshape(xy.shape)


def check_footprints(archive: Path, scene: Path) -> int:
    """Four corners of sampled tiles; how many tiles the archive holds."""
    with Archive.open(archive) as opened:
        tiles = list(opened.tiles_of_source(1))
        chosen = np.random.default_rng(0).permutation(len(tiles))[:SAMPLED]
        sampled = [tiles[index] for index in chosen]
        for tile, expected in zip(sampled, corners(scene, sampled), strict=True):
            vertices = np.array([point for ring in tile.tile.footprint for point in ring])
            offsets = np.abs(vertices[None, :, :] - expected[:, None, :]).max(axis=2).min(axis=1)
            assert offsets.max() < TOLERANCE_DEG, (tile.tile.window, offsets)
            assert tile.tile.bbox is not None
            west, south, east, north = tile.tile.bbox
            box = (*expected.min(axis=0), *expected.max(axis=0))
            assert west <= box[0] + TOLERANCE_DEG
            assert south <= box[1] + TOLERANCE_DEG
            assert east >= box[2] - TOLERANCE_DEG
            assert north >= box[3] - TOLERANCE_DEG
        return len(tiles)


def index(scene: Path, folder: Path, bundle: Path) -> IndexReport:
    report = index_sources(folder, [scene], load(bundle))
    assert report.failures == []
    return report


def test_the_tiles_of_a_cog_lie_where_they_should(tmp_path: Path, made_bundle: Path) -> None:
    scene = write_cog(tmp_path / "scene.tif", height=3000, width=6000)
    report = index(scene, tmp_path / "archive", made_bundle)
    assert check_footprints(tmp_path / "archive", scene) == report.rows
    assert report.rows == len(tile_grid(3000, 6000, size=256, overlap=0.25))


@pytest.mark.parametrize(
    ("crs", "transform"),
    [
        ("EPSG:32633", (10.0, 0.0, 500_000.0, 0.0, -10.0, 5_000_000.0)),
        ("EPSG:32633", (7.0, 7.0, 500_000.0, 7.0, -7.0, 5_000_000.0)),
        ("EPSG:4326", (0.1, 0.0, 170.0, 0.0, -0.1, 40.0)),
        ("EPSG:3413", (5_000.0, 0.0, -500_000.0, 0.0, -5_000.0, 500_000.0)),
        ("EPSG:3857", (100_000.0, 0.0, -40_000_000.0, 0.0, -100_000.0, 9_000_000.0)),
        (None, (1.0, 0.0, 0.0, 0.0, -1.0, 0.0)),
    ],
    ids=["utm", "rotated", "antimeridian", "pole", "beyond the globe", "no crs"],
)
def test_places_of_many_windows_are_those_of_each(crs: str | None, transform: Affine6) -> None:
    scene = scene_from_array(np.zeros((300, 400, 3), np.uint8), transform=transform, crs=crs)
    windows = tile_grid(300, 400, size=100, overlap=0.25)
    for window, place in zip(windows, scene.places(windows), strict=True):
        bounds, rings = scene.bounds(window), scene.footprints(window)
        assert place == (None if bounds is None else (bounds, rings))
    assert scene.places([]) == []
    with pytest.raises(RasterError, match="leaves array"):
        scene.places([*windows, Window(350, 0, 100, 100)])


@pytest.mark.slow
def test_a_cog_of_36000_by_18000_px_is_indexed_in_bounded_memory(tmp_path: Path, made_bundle: Path) -> None:
    scene = write_cog(tmp_path / "scene.tif", height=18_000, width=36_000)
    rows, peak_bytes = indexed_alone(scene, tmp_path / "archive", made_bundle)
    assert rows == len(tile_grid(18_000, 36_000, size=256, overlap=0.25))
    assert check_footprints(tmp_path / "archive", scene) == rows
    assert peak_bytes < MOST_BYTES, peak_bytes


def indexed_alone(scene: Path, archive: Path, bundle: Path) -> tuple[int, int]:
    """Rows, and peak memory [bytes] of a process that indexes and does nothing else."""
    if not Path("/proc/self/status").exists():
        pytest.skip("this system does not tell a process its peak memory in /proc")
    command = [sys.executable, "-c", INDEX, str(archive), str(scene), str(bundle)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    rows, peak_bytes = map(int, done.stdout.split())
    return rows, peak_bytes


@pytest.mark.slow
def test_the_world_wide_mask_is_indexed_in_bounded_memory(
    data_dir: Path, tmp_path: Path, made_bundle: Path
) -> None:
    scene = data_dir / "scenes" / "rio_tiler_cog_world_36000x18000.tif"
    rows, peak_bytes = indexed_alone(scene, tmp_path / "archive", made_bundle)
    assert check_footprints(tmp_path / "archive", scene) == rows > 1000
    assert peak_bytes < MOST_BYTES, peak_bytes


@pytest.mark.parametrize(
    "name",
    [
        "aerial_nl_25cm_epsg28992.tif",
        "landsat_1990.tif",
        "landsat_2020.tif",
        "mosaic_val_1800.tif",
        "naip_m_4709963_se_14_1_20100629.tif",
        "naip_m_4709963_se_14_1_20200831.tif",
        "oam_5b90f92da0d7280005fab355_4310.tif",
        "pix4d_rgba_35cm.tif",
        "rio_tiler_cog_uint16_2658x2667.tif",
        "spacenet_vegas_pan_uint16_1300.tif",
    ],
)
def test_the_tiles_of_real_scenes_lie_where_they_should(
    data_dir: Path, tmp_path: Path, made_bundle: Path, name: str
) -> None:
    scene = data_dir / "scenes" / name
    report = index(scene, tmp_path / "archive", made_bundle)
    assert check_footprints(tmp_path / "archive", scene) == report.rows > 0
