"""Scenes: every kind of raster read in windows as the same 8-bit picture."""

from __future__ import annotations

import hashlib
import itertools
import math
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from lrsclip_rt.errors import DependencyError, RasterError
from lrsclip_rt.raster import Scene, open_scene, scene_from_array
from lrsclip_rt.tiles import Window

rasterio = pytest.importorskip("rasterio")

NORTH_UP = (2.0, 0.0, 500000.0, 0.0, -2.0, 4000000.0)


def noise(*shape: int, low: int = 20, high: int = 236, dtype: Any = np.uint8, seed: int = 0) -> NDArray[Any]:
    return np.random.default_rng(seed).integers(low, high, shape).astype(dtype)


def write_tif(
    path: Path,
    bands: NDArray[Any],
    *,
    crs: str | None = "EPSG:32650",
    transform: tuple[float, ...] | None = NORTH_UP,
    nodata: float | None = None,
    colours: tuple[str, ...] | None = None,
    mask: NDArray[np.bool_] | None = None,
    colormap: dict[int, tuple[int, ...]] | None = None,
    tags: dict[str, str] | None = None,
    overviews: tuple[int, ...] = (),
    **extra: Any,
) -> Path:
    """Write (n, h, w) bands with rasterio."""
    import warnings

    if colours is not None and len(colours) > 3 and "alpha" not in colours:
        extra.setdefault("photometric", "MINISBLACK")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)
        with rasterio.open(
            path,
            "w",
            driver="GTiff",
            count=bands.shape[0],
            height=bands.shape[1],
            width=bands.shape[2],
            dtype=bands.dtype,
            crs=crs,
            transform=None if transform is None else rasterio.Affine(*transform),
            nodata=nodata,
            **extra,
        ) as target:
            if colours is not None:
                target.colorinterp = [rasterio.enums.ColorInterp[name] for name in colours]
            target.write(bands)
            if mask is not None:
                target.write_mask(mask)
            if colormap is not None:
                target.write_colormap(1, colormap)
            if tags:
                target.update_tags(**tags)
            if overviews:
                target.build_overviews(list(overviews), rasterio.enums.Resampling.average)
    return path


def rgb(bands: NDArray[Any]) -> NDArray[Any]:
    return bands.transpose(1, 2, 0)


# Windows and bands


def test_a_window_holds_the_files_own_bytes(tmp_path: Path) -> None:
    bands = noise(3, 60, 80)
    with open_scene(write_tif(tmp_path / "a.tif", bands)) as scene:
        assert (scene.height, scene.width) == (60, 80)
        window = scene.read(Window(10, 20, 30, 25))
        assert window.dtype == np.uint8
        assert window.flags.c_contiguous
        np.testing.assert_array_equal(window, rgb(bands)[20:45, 10:40])


@pytest.mark.parametrize(
    "window", [Window(-1, 0, 5, 5), Window(0, -1, 5, 5), Window(76, 0, 5, 5), Window(0, 56, 5, 5)]
)
def test_a_window_outside_the_scene_is_refused_with_both_sizes(tmp_path: Path, window: Window) -> None:
    with open_scene(write_tif(tmp_path / "a.tif", noise(3, 60, 80))) as scene:
        for call in (scene.read, scene.valid_fraction, scene.footprint, scene.bounds):
            with pytest.raises(RasterError, match="80 x 60 px"):
                call(window)


def test_three_untagged_bands_are_read_in_their_order(tmp_path: Path) -> None:
    bands = noise(4, 10, 12)
    path = write_tif(tmp_path / "a.tif", bands, colours=("gray", "undefined", "undefined", "undefined"))
    with open_scene(path) as scene:
        np.testing.assert_array_equal(scene.read(scene.extent), rgb(bands[:3]))


def test_bands_follow_their_colours_where_all_three_are_tagged(tmp_path: Path) -> None:
    bands = noise(4, 10, 12)
    path = write_tif(tmp_path / "a.tif", bands, colours=("undefined", "blue", "green", "red"))
    with open_scene(path) as scene:
        np.testing.assert_array_equal(scene.read(scene.extent), rgb(bands[[3, 2, 1]]))


def test_two_colour_tags_are_not_enough(tmp_path: Path) -> None:
    bands = noise(4, 10, 12)
    path = write_tif(tmp_path / "a.tif", bands, colours=("undefined", "blue", "undefined", "red"))
    with open_scene(path) as scene:
        np.testing.assert_array_equal(scene.read(scene.extent), rgb(bands[:3]))


@pytest.mark.parametrize("count", [1, 2])
def test_with_fewer_than_three_bands_the_first_is_replicated(tmp_path: Path, count: int) -> None:
    bands = noise(count, 10, 12)
    with open_scene(write_tif(tmp_path / "a.tif", bands)) as scene:
        np.testing.assert_array_equal(scene.read(scene.extent), rgb(bands[[0, 0, 0]]))


def test_bands_can_be_chosen(tmp_path: Path) -> None:
    bands = noise(5, 10, 12)
    path = write_tif(tmp_path / "a.tif", bands)
    with open_scene(path, bands=(4, 3, 2)) as scene:
        np.testing.assert_array_equal(scene.read(scene.extent), rgb(bands[[3, 2, 1]]))
    with open_scene(path, bands=(5,)) as scene:
        np.testing.assert_array_equal(scene.read(scene.extent), rgb(bands[[4, 4, 4]]))


@pytest.mark.parametrize("bands", [(6,), (0, 1, 2), (1, 2), (1, 2, 3, 4)])
def test_bands_that_do_not_exist_are_refused(tmp_path: Path, bands: tuple[int, ...]) -> None:
    with pytest.raises(RasterError, match=r"band"):
        open_scene(write_tif(tmp_path / "a.tif", noise(5, 10, 12)), bands=bands)


def test_a_palette_is_expanded_to_its_colours(tmp_path: Path) -> None:
    numbers = noise(1, 16, 16, low=0, high=3)
    palette = {0: (10, 20, 30, 255), 1: (200, 100, 50, 255), 2: (0, 255, 7, 255)}
    path = write_tif(tmp_path / "a.tif", numbers, colormap=palette, photometric="palette")
    table = np.array([palette[n][:3] for n in range(3)], dtype=np.uint8)
    with open_scene(path) as scene:
        np.testing.assert_array_equal(scene.read(scene.extent), table[numbers[0]])
        coarse = scene.read(scene.extent, out_height=4)
        cells = table[numbers[0]].reshape(4, 4, 4, 4, 3).astype(float).mean(axis=(1, 3))
        np.testing.assert_allclose(coarse, cells, atol=0.5)


# Coarser and finer reads


def test_a_coarse_read_averages_the_pixels_below(tmp_path: Path) -> None:
    bands = noise(3, 64, 96)
    with open_scene(write_tif(tmp_path / "a.tif", bands)) as scene:
        coarse = scene.read(scene.extent, out_height=16, out_width=24)
        cells = bands.reshape(3, 16, 4, 24, 4).mean(axis=(2, 4))
        np.testing.assert_allclose(rgb(coarse.transpose(2, 0, 1)), rgb(cells), atol=0.5001)


def test_one_given_side_keeps_the_shape(tmp_path: Path) -> None:
    with open_scene(write_tif(tmp_path / "a.tif", noise(3, 60, 90))) as scene:
        assert scene.read(scene.extent, out_width=30).shape == (20, 30, 3)
        assert scene.read(scene.extent, out_height=120).shape == (120, 180, 3)


def test_an_array_scene_reads_like_a_file(tmp_path: Path) -> None:
    bands = noise(3, 64, 96)
    array = np.ascontiguousarray(rgb(bands))
    with open_scene(write_tif(tmp_path / "a.tif", bands)) as scene, scene_from_array(array) as plain:
        window = Window(8, 16, 40, 32)
        np.testing.assert_array_equal(scene.read(window), plain.read(window))
        coarse = scene.read(window, out_height=8).astype(int) - plain.read(window, out_height=8)
        assert np.abs(coarse).max() <= 1


def test_an_array_of_another_shape_is_refused() -> None:
    for array in (np.zeros((4, 5), np.uint8), np.zeros((4, 5, 4), np.uint8), np.zeros((4, 5, 3))):
        with pytest.raises(RasterError, match=r"expected \(H, W, 3\) uint8"):
            scene_from_array(array)


# Number types


def test_sixteen_bits_are_stretched_over_the_whole_raster_not_the_window(tmp_path: Path) -> None:
    bands = np.zeros((3, 200, 200), dtype=np.uint16)
    bands[:] = np.linspace(1000, 9000, 200).astype(np.uint16)
    with open_scene(write_tif(tmp_path / "a.tif", bands)) as scene:
        whole = scene.read(scene.extent)
        low, high = np.percentile(bands[0], [2, 98])
        expected = np.clip(np.floor((bands[0] - low) * 255 / (high - low) + 0.5), 0, 255)
        np.testing.assert_array_equal(whole[..., 0], expected)
        np.testing.assert_array_equal(scene.read(Window(50, 0, 20, 200)), whole[:, 50:70])


def test_each_band_has_its_own_limits(tmp_path: Path) -> None:
    bands = noise(3, 80, 80, low=100, high=4000, dtype=np.uint16)
    bands[1] += 20000
    with open_scene(write_tif(tmp_path / "a.tif", bands)) as scene:
        picture = scene.read(scene.extent)
        for band in range(3):
            assert (picture[..., band] == 0).mean() < 0.03
            assert (picture[..., band] == 255).mean() < 0.03


def test_nodata_does_not_move_the_stretch(tmp_path: Path) -> None:
    bands = noise(3, 80, 80, low=5000, high=6000, dtype=np.uint16)
    bands[:, :40] = 0
    with open_scene(write_tif(tmp_path / "a.tif", bands, nodata=0)) as scene:
        assert scene.look.stretch is not None
        assert min(scene.look.stretch.low) > 4900


def test_fixed_limits_make_scenes_comparable(tmp_path: Path) -> None:
    bands = noise(3, 20, 20, low=0, high=3000, dtype=np.uint16)
    with open_scene(write_tif(tmp_path / "a.tif", bands), stretch=(500, 2500)) as scene:
        expected = np.clip(np.floor((bands.astype(float) - 500) * 255 / 2000 + 0.5), 0, 255)
        np.testing.assert_array_equal(scene.read(scene.extent), rgb(expected))


def test_without_a_stretch_values_are_only_clipped(tmp_path: Path) -> None:
    bands = noise(3, 20, 20, low=0, high=600, dtype=np.uint16)
    with open_scene(write_tif(tmp_path / "a.tif", bands), stretch=None) as scene:
        np.testing.assert_array_equal(scene.read(scene.extent), rgb(np.minimum(bands, 255)))


@pytest.mark.parametrize("stretch", [(5, 5), (9, 2), (1, 2, 3), "linear", [0, 255]])
def test_a_stretch_that_says_nothing_is_refused(tmp_path: Path, stretch: Any) -> None:
    with pytest.raises(RasterError, match="low < high"):
        open_scene(write_tif(tmp_path / "a.tif", noise(3, 9, 9)), stretch=stretch)


@pytest.mark.parametrize("dtype", [np.int16, np.int32, np.float32, np.float64, np.uint32])
def test_every_number_type_becomes_a_full_picture(tmp_path: Path, dtype: Any) -> None:
    values = noise(3, 50, 50, low=100, high=1100).astype(np.float64)
    values = values - 300 if np.dtype(dtype).kind in "if" else values
    with open_scene(write_tif(tmp_path / "a.tif", values.astype(dtype))) as scene:
        picture = scene.read(scene.extent)
        assert picture.min() == 0
        assert picture.max() == 255
        assert 100 < picture.mean() < 155


def test_values_that_are_not_numbers_count_as_missing(tmp_path: Path) -> None:
    bands = np.random.default_rng(3).normal(0.3, 0.1, (3, 40, 40)).astype(np.float32)
    bands[:, 10:20, 10:30] = np.nan
    bands[1, 0, 0] = np.inf
    with open_scene(write_tif(tmp_path / "a.tif", bands)) as scene:
        assert scene.valid_fraction(scene.extent) == pytest.approx(1 - 201 / 1600)
        assert (scene.read(scene.extent)[12, 12] == scene.look.fill).all()
        assert np.isfinite(np.array(scene.look.stretch.high)).all()  # type: ignore[union-attr]
        coarse = scene.read_masked(scene.extent, out_height=4, out_width=4)[1]
        assert coarse is None or coarse.sum() == 14


def test_one_bit_rasters_are_black_and_white(tmp_path: Path) -> None:
    bits = noise(1, 30, 30, low=0, high=2)
    with open_scene(write_tif(tmp_path / "a.tif", bits, nbits=1)) as scene:
        assert set(np.unique(scene.read(scene.extent))) == {0, 255}


def test_complex_rasters_are_refused(tmp_path: Path) -> None:
    path = write_tif(tmp_path / "a.tif", np.ones((1, 8, 8), dtype=np.complex64))
    with pytest.raises(RasterError, match="complex64 values; expected integers or floats"):
        open_scene(path)


# Missing pixels


def test_nodata_is_counted_and_filled_with_the_scenes_mean(tmp_path: Path) -> None:
    bands = noise(3, 40, 40, low=90, high=110)
    bands[:, :10] = 0
    with open_scene(write_tif(tmp_path / "a.tif", bands, nodata=0)) as scene:
        assert scene.valid_fraction(scene.extent) == 0.75
        assert scene.valid_fraction(Window(0, 0, 40, 10)) == 0.0
        assert scene.valid_fraction(Window(0, 10, 40, 10)) == 1.0
        assert scene.look.fill == tuple(round(float(band[10:].mean())) for band in bands)
        filled = scene.read(scene.extent)
        assert (filled[:10] == scene.look.fill).all()
        np.testing.assert_array_equal(filled[10:], rgb(bands)[10:])
        np.testing.assert_array_equal(scene.read(scene.extent, fill=False), rgb(bands))


def test_a_pixel_is_missing_only_where_all_bands_are(tmp_path: Path) -> None:
    bands = noise(3, 10, 10)
    bands[0, 0] = 0
    bands[:, 1] = 0
    with open_scene(write_tif(tmp_path / "a.tif", bands, nodata=0)) as scene:
        assert scene.valid_fraction(Window(0, 0, 10, 1)) == 1.0
        assert scene.valid_fraction(Window(0, 1, 10, 1)) == 0.0


def test_a_given_nodata_value_replaces_the_files_own(tmp_path: Path) -> None:
    bands = noise(3, 20, 20, low=100, high=200)
    bands[:, :5] = 7
    bands[:, 5:10] = 0
    path = write_tif(tmp_path / "a.tif", bands, nodata=0)
    with open_scene(path, nodata=7) as scene:
        assert scene.valid_fraction(Window(0, 0, 20, 5)) == 0.0
        assert scene.valid_fraction(Window(0, 5, 20, 5)) == 1.0
        # A coarse cell that holds both is the mean of its valid pixels alone.
        coarse = scene.read(Window(0, 3, 20, 4), out_height=1, out_width=5)
        assert coarse.max() == 0


def test_float_nodata_is_compared_in_the_rasters_own_type(tmp_path: Path) -> None:
    bands = np.random.default_rng(1).normal(size=(3, 20, 20)).astype(np.float32)
    bands[:, 3] = np.float32(-3.4e38)
    with open_scene(write_tif(tmp_path / "a.tif", bands, nodata=-3.4e38)) as scene:
        assert scene.valid_fraction(scene.extent) == 0.95
    with open_scene(write_tif(tmp_path / "b.tif", bands), nodata=-3.4e38) as scene:
        assert scene.valid_fraction(scene.extent) == 0.95


def test_alpha_marks_missing_pixels(tmp_path: Path) -> None:
    bands = noise(4, 20, 20)
    bands[3] = 255
    bands[3, :, :5] = 0
    path = write_tif(tmp_path / "a.tif", bands, colours=("red", "green", "blue", "alpha"))
    with open_scene(path) as scene:
        assert scene.valid_fraction(scene.extent) == 0.75
        assert (scene.read(scene.extent)[:, :5] == scene.look.fill).all()


def test_a_mask_band_marks_missing_pixels(tmp_path: Path) -> None:
    mask = np.ones((20, 20), dtype=bool)
    mask[15:] = False
    with open_scene(write_tif(tmp_path / "a.tif", noise(3, 20, 20), mask=mask)) as scene:
        assert scene.valid_fraction(scene.extent) == 0.75


def collared(height: int, width: int, value: int) -> NDArray[np.uint8]:
    """A tilted picture of 60 .. 200 in a frame of one value, and a spot of that value inside."""
    bands = noise(3, height, width, low=60, high=200)
    rows, cols = np.mgrid[:height, :width]
    bands[:, rows * 4 + cols < height] = value
    bands[:, (height - rows) * 4 + (width - cols) < height] = value
    bands[:, height // 2 : height // 2 + 60, width // 2 : width // 2 + 60] = value
    return bands


@pytest.mark.parametrize("value", [0, 255])
def test_an_untagged_frame_is_found_to_the_pixel_and_spots_inside_stay(tmp_path: Path, value: int) -> None:
    bands = collared(300, 400, value)
    expected = (bands != value).any(axis=0)
    expected[150:210, 200:260] = True
    with open_scene(write_tif(tmp_path / "a.tif", bands)) as scene:
        valid = scene.valid_mask(scene.extent)
        assert valid is not None
        np.testing.assert_array_equal(valid, expected)
        assert scene.valid_fraction(Window(150, 100, 100, 100)) == 1.0


def test_a_frame_is_found_in_a_scene_larger_than_its_overview(tmp_path: Path) -> None:
    bands = collared(1500, 2500, 0)
    expected = (bands != 0).any(axis=0)
    expected[750:810, 1250:1310] = True
    with open_scene(write_tif(tmp_path / "a.tif", bands, tiled=True)) as scene:
        assert scene.valid_fraction(scene.extent) == pytest.approx(expected.mean(), abs=1e-6)


def test_a_frame_survives_lossy_compression(tmp_path: Path) -> None:
    bands = np.full((3, 320, 320), 120, dtype=np.uint8)
    bands[:, :, :96] = 0
    path = write_tif(tmp_path / "a.tif", bands, compress="jpeg", photometric="ycbcr")
    with open_scene(path) as scene:
        assert scene.valid_fraction(scene.extent) == pytest.approx(0.7, abs=0.01)


def test_dark_water_at_the_border_is_not_a_frame(tmp_path: Path) -> None:
    bands = noise(3, 200, 200, low=60, high=200)
    bands[:, :80] = noise(3, 80, 200, low=1, high=12)
    with open_scene(write_tif(tmp_path / "a.tif", bands)) as scene:
        assert scene.valid_fraction(scene.extent) == 1.0


def test_a_small_shadow_at_the_border_is_not_a_frame(tmp_path: Path) -> None:
    bands = noise(3, 200, 200, low=60, high=200)
    bands[:, 0:7, 50:58] = 0
    with open_scene(write_tif(tmp_path / "a.tif", bands)) as scene:
        assert scene.valid_fraction(scene.extent) == 1.0


def test_a_black_scene_is_a_scene(tmp_path: Path) -> None:
    with open_scene(write_tif(tmp_path / "a.tif", np.zeros((3, 64, 64), np.uint8))) as scene:
        assert scene.valid_fraction(scene.extent) == 1.0
        assert scene.read(scene.extent).max() == 0


def test_a_frame_of_the_least_value_does_not_move_a_sixteen_bit_stretch(tmp_path: Path) -> None:
    bands = noise(3, 200, 200, low=3000, high=4000, dtype=np.uint16)
    bands[:, :, :60] = 1
    with open_scene(write_tif(tmp_path / "a.tif", bands)) as scene:
        assert scene.valid_fraction(scene.extent) == pytest.approx(0.7)
        assert min(scene.look.stretch.low) > 2900  # type: ignore[union-attr]


# Place


def test_corners_are_outer_corners_and_the_ring_runs_counter_clockwise(tmp_path: Path) -> None:
    pyproj = pytest.importorskip("pyproj")
    project = pyproj.Transformer.from_crs("EPSG:32650", "EPSG:4326", always_xy=True)
    with open_scene(write_tif(tmp_path / "a.tif", noise(3, 60, 80))) as scene:
        assert scene.crs == "EPSG:32650"
        assert scene.transform == NORTH_UP
        ring = scene.footprint(Window(10, 20, 30, 25))
        assert ring is not None
        assert ring[0] == ring[-1]
        for col, row in ((10, 20), (40, 20), (40, 45), (10, 45)):
            expected = project.transform(500000 + 2 * col, 4000000 - 2 * row)
            assert min(math.dist(expected, point) for point in ring) < 1e-9
        assert shoelace(ring) > 0
        west, south, east, north = scene.bounds(Window(10, 20, 30, 25)) or (0, 0, 0, 0)
        assert (west, east) == (min(lon for lon, _ in ring), max(lon for lon, _ in ring))
        assert (south, north) == (min(lat for _, lat in ring), max(lat for _, lat in ring))


def shoelace(ring: Any) -> float:
    return sum(x0 * y1 - x1 * y0 for (x0, y0), (x1, y1) in itertools.pairwise(ring))


def test_edges_are_densified_because_they_bend(tmp_path: Path) -> None:
    # A polar stereographic scene 2000 km wide: the middle of its lower edge bulges.
    path = write_tif(
        tmp_path / "a.tif",
        noise(1, 20, 20),
        crs="EPSG:3995",
        transform=(1e5, 0, -1e6, 0, -1e5, -5e5),
    )
    with open_scene(path) as scene:
        ring = scene.footprint(scene.extent)
        assert ring is not None
        assert len(ring) > 20
        corner_lat = max(lat for _, lat in ring[::8])
        assert max(lat for _, lat in ring) > corner_lat + 1.0


def test_a_rotated_raster_has_a_tilted_footprint(tmp_path: Path) -> None:
    angle = math.radians(30)
    cos, sin = 2 * math.cos(angle), 2 * math.sin(angle)
    transform = (cos, sin, 500000.0, sin, -cos, 4000000.0)
    with open_scene(write_tif(tmp_path / "a.tif", noise(3, 60, 80), transform=transform)) as scene:
        assert scene.gsd_m == pytest.approx(2.0)
        ring = scene.footprint(scene.extent)
        assert ring is not None
        assert shoelace(ring) > 0
        longitudes = sorted({round(point[0], 6) for point in ring[:-1:8]})
        assert len(longitudes) == 4


def test_a_raster_stored_bottom_up_has_a_counter_clockwise_ring_too(tmp_path: Path) -> None:
    transform = (2.0, 0.0, 500000.0, 0.0, 2.0, 3999880.0)
    with open_scene(write_tif(tmp_path / "a.tif", noise(3, 60, 80), transform=transform)) as scene:
        assert shoelace(scene.footprint(scene.extent)) > 0


def test_a_raster_without_crs_has_pixels_only(tmp_path: Path) -> None:
    path = write_tif(tmp_path / "a.tif", noise(3, 20, 20), crs=None, transform=None)
    with open_scene(path) as scene:
        assert (scene.crs, scene.transform, scene.gsd_m) == (None, None, None)
        assert scene.footprint(scene.extent) is None
        assert scene.bounds(scene.extent) is None
        assert scene.lonlat(1, 1) is None
        assert scene.read(scene.extent).shape == (20, 20, 3)


def test_a_transform_without_crs_gives_no_place(tmp_path: Path) -> None:
    with open_scene(write_tif(tmp_path / "a.tif", noise(3, 20, 20), crs=None)) as scene:
        assert scene.transform == NORTH_UP
        assert scene.footprint(scene.extent) is None
        assert scene.gsd_m is None


def test_a_crs_without_a_number_is_kept_as_wkt(tmp_path: Path) -> None:
    crs = "+proj=laea +lat_0=47.3 +lon_0=8.1 +datum=WGS84"
    with open_scene(write_tif(tmp_path / "a.tif", noise(3, 20, 20), crs=crs)) as scene:
        assert scene.crs is not None
        assert "Lambert" in scene.crs
        assert scene.bounds(scene.extent) is not None


def test_a_window_over_the_antimeridian_has_west_above_east_and_two_rings(tmp_path: Path) -> None:
    path = write_tif(
        tmp_path / "a.tif", noise(1, 10, 40), crs="EPSG:4326", transform=(0.1, 0, 178.0, 0, -0.1, 10.0)
    )
    with open_scene(path) as scene:
        assert scene.bounds(scene.extent) == pytest.approx((178.0, 9.0, -178.0, 10.0))
        rings = scene.footprints(scene.extent)
        assert rings is not None
        west, east = sorted(rings, key=lambda ring: -ring[0][0])
        assert (min(lon for lon, _ in west), max(lon for lon, _ in west)) == pytest.approx((178, 180))
        assert (min(lon for lon, _ in east), max(lon for lon, _ in east)) == pytest.approx((-180, -178))
        for ring in rings:
            assert shoelace(ring) == pytest.approx(2 * 2.0)
            assert ring[0] == ring[-1]
        assert scene.bounds(Window(0, 0, 20, 10)) == pytest.approx((178.0, 9.0, 180.0, 10.0))
        assert scene.bounds(Window(20, 0, 20, 10)) == pytest.approx((-180.0, 9.0, -178.0, 10.0))
        assert scene.lonlat(30, 0) == pytest.approx((-179.0, 10.0))


def test_a_utm_scene_over_the_antimeridian_is_split_too(tmp_path: Path) -> None:
    path = write_tif(
        tmp_path / "a.tif",
        noise(1, 20, 20),
        crs="EPSG:32660",  # 174 E to 180
        transform=(1000, 0, 820000, 0, -1000, 1000000),
    )
    with open_scene(path) as scene:
        west, _, east, _ = scene.bounds(scene.extent) or (0, 0, 0, 0)
        assert 179 < west <= 180
        assert -180 <= east < -179
        assert len(scene.footprints(scene.extent) or ()) == 2


def test_a_scene_around_the_pole_reaches_it(tmp_path: Path) -> None:
    path = write_tif(
        tmp_path / "a.tif", noise(1, 20, 20), crs="EPSG:3995", transform=(1e4, 0, -1e5, 0, -1e4, 1e5)
    )
    with open_scene(path) as scene:
        west, south, east, north = scene.bounds(scene.extent) or (0, 0, 0, 0)
        assert (west, east, north) == (-180.0, 180.0, 90.0)
        assert 88 < south < 90


def test_a_world_raster_spans_the_world(tmp_path: Path) -> None:
    path = write_tif(
        tmp_path / "a.tif", noise(1, 18, 36), crs="EPSG:4326", transform=(10, 0, -180, 0, -10, 90)
    )
    with open_scene(path) as scene:
        assert scene.bounds(scene.extent) == (-180.0, -90.0, 180.0, 90.0)


def test_longitudes_from_0_to_360_come_home(tmp_path: Path) -> None:
    path = write_tif(tmp_path / "a.tif", noise(1, 18, 36), crs="EPSG:4326", transform=(10, 0, 0, 0, -10, 90))
    with open_scene(path) as scene:
        assert scene.bounds(Window(20, 0, 2, 2)) == (-160.0, 70.0, -140.0, 90.0)
        assert scene.bounds(scene.extent) == (-180.0, -90.0, 180.0, 90.0)


@pytest.mark.parametrize(
    ("crs", "transform", "expected"),
    [
        ("EPSG:32650", NORTH_UP, 2.0),
        ("EPSG:2263", (3.0, 0, 980000, 0, -3.0, 200000), 3 * 0.3048006096),  # US survey feet
        ("EPSG:4326", (1e-5, 0, 10, 0, -1e-5, 60), None),
        ("EPSG:3857", (1.0, 0, 0, 0, -1.0, 8399738), None),  # 60 N
    ],
)
def test_the_pixel_size_is_on_the_ground(
    tmp_path: Path, crs: str, transform: tuple[float, ...], expected: float | None
) -> None:
    pyproj = pytest.importorskip("pyproj")
    with open_scene(write_tif(tmp_path / "a.tif", noise(1, 10, 10), crs=crs, transform=transform)) as scene:
        assert scene.gsd_m is not None
        if expected is None:
            ring = np.array(scene.footprint(scene.extent))
            area, _ = pyproj.Geod(ellps="WGS84").polygon_area_perimeter(ring[:, 0], ring[:, 1])
            expected = math.sqrt(abs(area) / 100)
        assert scene.gsd_m == pytest.approx(expected, rel=1e-4)


# Time, content, life


@pytest.mark.parametrize(
    ("name", "tags", "expected"),
    [
        ("a.tif", {}, None),
        ("a.tif", {"TIFFTAG_DATETIME": "2019:05:06 07:08:09"}, "2019-05-06T07:08:09Z"),
        ("a_20100629.tif", {"TIFFTAG_DATETIME": "2019:05:06 07:08:09"}, "2010-06-29T00:00:00Z"),
        ("a_20100629.tif", {"ACQUISITION_DATE": "2009-01-02"}, "2009-01-02T00:00:00Z"),
        ("a.tif", {"ACQUISITIONDATETIME": "2009-01-02T03:04:05+02:00"}, "2009-01-02T01:04:05Z"),
        ("20200831_173456_ssc.tif", {}, "2020-08-31T17:34:56Z"),
        ("x_2020-08-31.tif", {}, "2020-08-31T00:00:00Z"),
        ("x_20201331_19990101.tif", {}, "1999-01-01T00:00:00Z"),
        ("LC08_224078_20200127_20210830_T1.tif", {}, "2020-01-27T00:00:00Z"),
        ("m_4709963_se_14_1_120200831.tif", {}, None),
    ],
)
def test_the_time_comes_from_tags_then_the_name_then_the_files_date(
    tmp_path: Path, name: str, tags: dict[str, str], expected: str | None
) -> None:
    with open_scene(write_tif(tmp_path / name, noise(3, 8, 8), tags=tags)) as scene:
        assert scene.datetime == expected


def test_the_content_hash_is_that_of_the_files_bytes(tmp_path: Path) -> None:
    path = write_tif(tmp_path / "a.tif", noise(3, 30, 30))
    with open_scene(path) as scene:
        assert scene.content_sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
        path.unlink()
        assert len(scene.content_sha256) == 64  # kept, not read again


def test_a_vrt_opens_and_its_hash_follows_its_sources(tmp_path: Path) -> None:
    rasterio_shutil = pytest.importorskip("rasterio.shutil")
    source = write_tif(tmp_path / "a.tif", noise(3, 30, 40))
    vrt = tmp_path / "a.vrt"
    with rasterio.open(source) as dataset:
        rasterio_shutil.copy(dataset, vrt, driver="VRT")
    with open_scene(vrt) as scene, open_scene(source) as original:
        np.testing.assert_array_equal(scene.read(scene.extent), original.read(original.extent))
        before = scene.content_sha256
    write_tif(source, noise(3, 30, 40, seed=5))
    with open_scene(vrt) as scene:
        assert scene.content_sha256 != before


def test_reads_from_many_threads_agree(tmp_path: Path) -> None:
    bands = noise(3, 256, 256)
    with open_scene(write_tif(tmp_path / "a.tif", bands, tiled=True, blockxsize=64, blockysize=64)) as scene:
        wrong: list[Window] = []

        def work(seed: int) -> None:
            rng = np.random.default_rng(seed)
            for _ in range(40):
                col, row = (int(v) for v in rng.integers(0, 200, 2))
                window = Window(col, row, 50, 50)
                if not np.array_equal(scene.read(window), rgb(bands)[row : row + 50, col : col + 50]):
                    wrong.append(window)

        threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert wrong == []


def test_a_closed_scene_says_so(tmp_path: Path) -> None:
    with open_scene(write_tif(tmp_path / "a.tif", noise(3, 9, 9))) as scene:
        pass
    with pytest.raises(RasterError, match="is closed"):
        scene.read(Window(0, 0, 2, 2))


def test_opening_prints_nothing(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    # Four grey bands without extra-sample tags make GDAL remark on them.
    bands = noise(4, 20, 20)
    path = write_tif(tmp_path / "a.tif", bands, crs=None, transform=None, photometric="RGB")
    with open_scene(path) as scene:
        scene.read(scene.extent)
        scene.valid_fraction(scene.extent)
    assert capfd.readouterr() == ("", "")


# Plain images


def test_a_plain_image_is_a_scene_without_place(tmp_path: Path) -> None:
    array = noise(30, 40, 3)
    Image.fromarray(array).save(tmp_path / "a_20210203.png")
    with open_scene(tmp_path / "a_20210203.png") as scene:
        np.testing.assert_array_equal(scene.read(scene.extent), array)
        assert scene.crs is None
        assert scene.datetime == "2021-02-03T00:00:00Z"
        assert len(scene.content_sha256) == 64


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P", "I;16"])
@pytest.mark.parametrize("late", [False, True])
def test_a_png_is_dated_by_its_exif_wherever_that_stands(tmp_path: Path, mode: str, late: bool) -> None:
    exif = Image.Exif()
    exif[0x0131] = "made for a test"
    exif.get_ifd(0x8769)[0x9003] = "2018:01:02 03:04:05"
    path = tmp_path / "a.png"
    Image.new(mode, (8, 6)).save(path, exif=exif)
    if late:  # the chunk may follow the pixels
        data = path.read_bytes()
        start = data.index(b"eXIf") - 4
        end = start + 12 + int.from_bytes(data[start : start + 4], "big")
        rest = data[:start] + data[end:]
        last = rest.index(b"IEND") - 4
        path.write_bytes(rest[:last] + data[start:end] + rest[last:])
    with open_scene(path) as scene:
        assert scene.datetime == "2018-01-02T03:04:05Z"


def test_a_photo_is_upright_and_dated_by_its_exif(tmp_path: Path) -> None:
    array = noise(30, 40, 3)
    exif = Image.Exif()
    exif[0x0112] = 6  # rotate by 90 degrees to view
    exif.get_ifd(0x8769)[0x9003] = "2018:01:02 03:04:05"
    Image.fromarray(array).save(tmp_path / "a.jpg", exif=exif, quality=100, subsampling=0)
    with open_scene(tmp_path / "a.jpg") as scene:
        assert (scene.height, scene.width) == (40, 30)
        assert scene.datetime == "2018-01-02T03:04:05Z"


def test_transparent_pixels_of_an_image_are_missing(tmp_path: Path) -> None:
    array = noise(20, 20, 4)
    array[..., 3] = 255
    array[:5, :, 3] = 0
    Image.fromarray(array).save(tmp_path / "a.png")
    with open_scene(tmp_path / "a.png") as scene:
        assert scene.valid_fraction(scene.extent) == 0.75


def test_an_image_with_a_world_file_has_a_place_on_its_grid(tmp_path: Path) -> None:
    array = noise(30, 40, 3)
    Image.fromarray(array).save(tmp_path / "a.png")
    (tmp_path / "a.pgw").write_text("2\n0\n0\n-2\n500001\n3999999\n")
    with open_scene(tmp_path / "a.png") as scene:
        assert scene.transform == NORTH_UP
        np.testing.assert_array_equal(scene.read(scene.extent), array)


def test_band_options_reach_plain_images_too(tmp_path: Path) -> None:
    array = noise(30, 40, 3)
    Image.fromarray(array).save(tmp_path / "a.png")
    with open_scene(tmp_path / "a.png", bands=(3, 2, 1)) as scene:
        np.testing.assert_array_equal(scene.read(scene.extent), array[..., ::-1])


def test_without_rasterio_images_work_and_rasters_name_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_tif(tmp_path / "a.tif", noise(3, 9, 9))
    Image.fromarray(noise(30, 40, 3)).save(tmp_path / "a.png")
    monkeypatch.setitem(sys.modules, "rasterio", None)
    with pytest.raises(DependencyError, match=r"rasterio is not installed.*lrsclip-rt\[cpu\]"):
        open_scene(path)
    with open_scene(tmp_path / "a.png") as scene:
        assert scene.read(scene.extent).shape == (30, 40, 3)
        assert scene.bounds(scene.extent) is None


# Real files


def test_every_real_scene_opens_with_exact_corners(data_dir: Path) -> None:
    pyproj = pytest.importorskip("pyproj")
    paths = sorted(p for p in (data_dir / "scenes").iterdir() if p.suffix in (".tif", ".png", ".jpg"))
    assert len(paths) >= 16
    for path in paths:
        with open_scene(path) as scene:
            last = Window(scene.width - 64, scene.height - 64, 64, 64)
            assert scene.read(last).shape == (64, 64, 3)
            # The world raster is a mask of ones where it is not nodata.
            contrast = scene.read(scene.extent, out_height=100).std()
            assert contrast > 3 or "world" in path.name
            if path.suffix == ".tif":
                with rasterio.open(path) as dataset:
                    assert_corners_agree(scene, dataset, pyproj)


def assert_corners_agree(scene: Scene, dataset: Any, pyproj: Any) -> None:
    """Half a pixel at most between our corners, inverted by pyproj, and the pixel's own."""
    back = pyproj.Transformer.from_crs("EPSG:4326", dataset.crs, always_xy=True)
    rings = scene.footprints(scene.extent)
    assert rings is not None
    points = np.concatenate([np.array(ring) for ring in rings])
    x, y = back.transform(points[:, 0], points[:, 1])
    a, b, c, d, e, f = tuple(dataset.transform)[:6]
    cols, rows = np.linalg.solve([[a, b], [d, e]], [np.asarray(x) - c, np.asarray(y) - f])
    for col, row in ((0, 0), (scene.width, 0), (scene.width, scene.height), (0, scene.height)):
        assert np.hypot(cols - col, rows - row).min() < 0.5


def test_the_real_collar_is_a_fifth_of_its_scene(data_dir: Path) -> None:
    with open_scene(data_dir / "scenes" / "oam_5b90f92da0d7280005fab355_4310.tif") as scene:
        assert 1 - scene.valid_fraction(scene.extent) == pytest.approx(0.184, abs=0.01)


def test_a_window_of_a_world_raster_needs_no_more_than_the_window(data_dir: Path) -> None:
    resource = pytest.importorskip("resource")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with open_scene(data_dir / "scenes" / "rio_tiler_cog_world_36000x18000.tif") as scene:
        assert scene.read(Window(20000, 9000, 512, 512)).shape == (512, 512, 3)
        assert scene.read(scene.extent, out_width=1000).shape == (500, 1000, 3)
        assert scene.valid_fraction(Window(20000, 9000, 512, 512)) <= 1.0
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300 * 1024  # [KiB]
