"""Regions of made-up score maps: what stands out, where, how large, and on which coordinates."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np
import pytest
from numpy.typing import NDArray

from lrsclip_rt.localization.box_filter import box_sums, smoothed, without_slivers
from lrsclip_rt.localization.heatmap import Region
from lrsclip_rt.localization.outlines import outlines_from_mask
from lrsclip_rt.localization.regions import regions_from_scores
from lrsclip_rt.localization.statistics import peak_cell, score_statistics
from lrsclip_rt.raster import Scene, scene_from_array

UTM = (2.0, 0.0, 500000.0, 0.0, -2.0, 4000000.0)


def blank(height: int, width: int, **place: object) -> Scene:
    return scene_from_array(np.zeros((height, width, 3), np.uint8), **place)  # type: ignore[arg-type]


def background(rows: int, cols: int) -> NDArray[np.float32]:
    return np.random.default_rng(0).normal(0.2, 0.01, (rows, cols)).astype(np.float32)


def found(scores: NDArray[np.float32], scene: Scene) -> tuple[Region, ...]:
    return regions_from_scores(scores, score_statistics(scores), scene)


def signed_area(ring: Sequence[tuple[float, float]]) -> float:
    return sum(x0 * y1 - x1 * y0 for (x0, y0), (x1, y1) in itertools.pairwise(ring)) / 2


def test_a_raised_block_becomes_one_region_in_source_pixels() -> None:
    scores = background(60, 80)
    scores[20:30, 40:60] = 0.5
    scores[24:26, 50:52] = 0.6
    (region,) = found(scores, blank(600, 800))
    assert region.rank == 1
    assert region.score == pytest.approx(0.6)
    assert region.z > 20
    assert region.window.as_list() == [400, 200, 200, 100]
    assert region.peak == (505.0, 245.0)
    assert region.area_px == pytest.approx(20_000)
    assert region.lonlat is None
    assert region.area_m2 is None
    assert region.polygons_lonlat is None
    assert signed_area(region.polygon[0]) == pytest.approx(-20_000)  # rows point down


def test_regions_are_ranked_by_their_best_score() -> None:
    scores = background(60, 80)
    scores[5:15, 5:15] = 0.5
    scores[40:50, 60:70] = 0.7
    scores[40:50, 10:20] = 0.6
    regions = found(scores, blank(600, 800))
    assert [region.rank for region in regions] == [1, 2, 3]
    assert [round(region.score, 3) for region in regions] == [0.7, 0.6, 0.5]


def test_noise_alone_gives_no_region() -> None:
    scores = np.random.default_rng(1).uniform(0.2, 0.21, (60, 80)).astype(np.float32)
    assert found(scores, blank(600, 800)) == ()


def test_a_flat_map_gives_no_region() -> None:
    assert found(np.full((60, 80), 0.3, np.float32), blank(600, 800)) == ()


def test_rounding_noise_is_flat() -> None:
    scores = background(60, 80) * np.float32(2e-4)
    scores[20:30, 40:60] += np.float32(1e-5)
    assert found(scores, blank(600, 800)) == ()


def test_an_empty_map_gives_no_region() -> None:
    scores = np.full((6, 8), np.nan, np.float32)
    assert found(scores, blank(60, 80)) == ()
    assert peak_cell(scores) is None


def test_missing_cells_belong_to_no_region_and_do_not_count() -> None:
    scores = background(60, 80)
    scores[20:30, 40:60] = 0.5
    scores[20:30, 50:52] = np.nan
    scores[:10] = np.nan
    regions = found(scores, blank(600, 800))
    assert sum(region.area_px for region in regions) == pytest.approx(18_000)


def test_a_large_object_does_not_raise_its_own_bar() -> None:
    scores = background(60, 80)
    scores[:, 50:] = 0.5  # over a third of the scene
    (region,) = found(scores, blank(600, 800))
    assert region.window.as_list() == [500, 0, 300, 600]


def test_cells_that_do_not_divide_the_scene_still_end_at_its_edge() -> None:
    scores = background(58, 77)
    scores[50:, 70:] = 0.5
    (region,) = found(scores, blank(463, 611))
    window = region.window
    assert window.col_off + window.width == 611
    assert window.row_off + window.height == 463
    assert max(col for col, _ in region.polygon[0]) == pytest.approx(611)


def test_a_region_has_its_place_and_ground_area() -> None:
    pyproj = pytest.importorskip("pyproj")
    pytest.importorskip("rasterio")
    scores = background(60, 80)
    scores[20:30, 40:60] = 0.5
    scene = blank(600, 800, transform=UTM, crs="EPSG:32650")
    (region,) = found(scores, scene)
    assert region.area_m2 == pytest.approx(20_000 * 4)
    assert region.polygons_lonlat is not None
    (polygon,) = region.polygons_lonlat
    assert signed_area(polygon[0]) > 0
    back = pyproj.Transformer.from_crs("EPSG:4326", "EPSG:32650", always_xy=True)
    xs, ys = back.transform(*np.array(polygon[0]).T)
    assert (min(xs), max(xs)) == pytest.approx((500800, 501200), abs=0.01)
    assert (min(ys), max(ys)) == pytest.approx((3999400, 3999600), abs=0.01)
    assert region.lonlat is not None
    assert back.transform(*region.lonlat) == pytest.approx(
        (500000 + 2 * region.peak[0], 4000000 - 2 * region.peak[1]), abs=0.01
    )


def test_areas_in_degrees_follow_the_ellipsoid() -> None:
    pyproj = pytest.importorskip("pyproj")
    pytest.importorskip("rasterio")
    scores = background(60, 80)
    scores[5:55, 10:40] = 0.5
    scene = blank(600, 800, transform=(0.05, 0, 10, 0, -0.05, 70), crs="EPSG:4326")
    (region,) = found(scores, scene)
    assert region.polygons_lonlat is not None
    ring = np.array(region.polygons_lonlat[0][0])
    area, _ = pyproj.Geod(ellps="WGS84").polygon_area_perimeter(ring[:, 0], ring[:, 1])
    assert region.area_m2 == pytest.approx(area, rel=2e-3)


def test_a_region_over_the_antimeridian_has_two_polygons() -> None:
    pytest.importorskip("rasterio")
    scores = background(60, 80)
    scores[20:40, 20:60] = 0.5
    scores[27:33, 50:56] = 0.2  # a hole on the eastern side
    scene = blank(600, 800, transform=(0.01, 0, 176, 0, -0.01, 10), crs="EPSG:4326")
    (region,) = found(scores, scene)
    assert region.polygons_lonlat is not None
    assert len(region.polygons_lonlat) == 2
    longitudes = [[lon for ring in polygon for lon, _ in ring] for polygon in region.polygons_lonlat]
    assert sorted(round(max(part)) for part in longitudes) == [-178, 180]
    with_hole = [polygon for polygon in region.polygons_lonlat if len(polygon) == 2]
    assert len(with_hole) == 1
    outer, hole = with_hole[0]
    assert max(lon for lon, _ in outer) < 0
    assert signed_area(outer) > 0 > signed_area(hole)


# Parts


def test_outlines_enclose_exactly_the_cells_of_random_areas() -> None:
    from lrsclip_rt.components import label_components

    rng = np.random.default_rng(7)
    for _ in range(6):
        labels, count = label_components(rng.random((30, 40)) < 0.6)
        for label in range(1, count + 1):
            mask = labels == label
            rings = outlines_from_mask(mask)
            assert -sum(signed_area(ring) for ring in rings) == mask.sum()
            assert signed_area(rings[0]) < 0
            assert all(signed_area(ring) > 0 for ring in rings[1:])
            assert all(ring[0] == ring[-1] and len(set(ring)) == len(ring) - 1 for ring in rings)
            np.testing.assert_array_equal(filled(rings, mask.shape), mask)


def filled(rings: list[list[tuple[int, int]]], shape: tuple[int, ...]) -> NDArray[np.bool_]:
    """Cells whose centre lies inside an odd number of rings: crossings of a ray to the left."""
    crossings = np.zeros(shape, dtype=int)
    for ring in rings:
        for (col0, row0), (col1, row1) in itertools.pairwise(ring):
            if col0 == col1:
                crossings[min(row0, row1) : max(row0, row1), col0:] += 1
    return crossings % 2 == 1


def test_a_hole_that_touches_the_outside_at_a_corner_is_a_ring_of_its_own() -> None:
    mask = np.array([[1, 1, 1], [1, 0, 1], [1, 1, 0]], dtype=bool)
    rings = outlines_from_mask(mask)
    assert len(rings) == 2
    assert rings[1] == [(1, 1), (2, 1), (2, 2), (1, 2), (1, 1)]


def test_the_peak_lies_inside_a_bent_plateau() -> None:
    scores = np.zeros((9, 9), np.float32)
    scores[0, :] = 1
    scores[:, 0] = 1
    col, row = peak_cell(scores) or (0, 0)
    assert scores[int(row), int(col)] == 1


def test_the_first_of_two_equal_peaks_counts() -> None:
    scores = np.zeros((5, 9), np.float32)
    scores[3, 1] = scores[1, 6] = 1
    assert peak_cell(scores) == (6.5, 1.5)


def test_z_is_robust_standard_deviations_above_the_median() -> None:
    scores = np.random.default_rng(0).normal(0.2, 0.05, (300, 300)).astype(np.float32)
    statistics = score_statistics(scores)
    assert statistics.middle == pytest.approx(0.2, abs=0.001)
    assert statistics.spread == pytest.approx(0.05, rel=0.02)
    assert statistics.z(0.45) == pytest.approx(5.0, rel=0.03)


def test_missing_cells_do_not_move_the_statistics() -> None:
    scores = background(60, 80)
    framed = np.full((120, 80), np.nan, np.float32)
    framed[:60] = scores
    assert score_statistics(framed) == score_statistics(scores)


def test_a_map_with_one_score_almost_everywhere_still_has_a_spread() -> None:
    scores = np.full((100, 100), 0.1, np.float32)
    scores[:10, :10] = 0.3
    statistics = score_statistics(scores)
    assert math.isfinite(statistics.z(0.3))
    assert statistics.z(0.3) > 5


def test_box_sums_equal_a_sum_over_each_square() -> None:
    values = np.random.default_rng(0).random((12, 17))
    padded = np.pad(values, ((2, 2), (3, 3)), mode="edge")
    slow = [[padded[row : row + 5, col : col + 7].sum() for col in range(17)] for row in range(12)]
    np.testing.assert_allclose(box_sums(values, 5, 7), slow)


def test_smoothing_counts_only_cells_that_hold_a_value() -> None:
    values = np.array([[1.0, np.nan, 3.0, 5.0, np.nan, np.nan, np.nan]], np.float32)
    expected = np.array([[1.0, 2.0, 4.0, 4.0, 5.0, np.nan, np.nan]], np.float32)
    np.testing.assert_allclose(smoothed(values, 1, 3), expected)


def test_the_peak_is_that_of_the_smoothed_map_inside_the_region() -> None:
    scores = background(60, 80)
    scores[20:40, 20:60] = 0.5
    scores[20, 20] = 0.6  # one cell, in a corner
    smooth = scores.copy()
    smooth[20, 20] = 0.9
    smooth[30, 50] = 0.8
    smooth[5, 5] = 1.0
    (region,) = regions_from_scores(scores, score_statistics(scores), blank(600, 800), smooth=smooth)
    assert region.score == pytest.approx(0.6)
    assert region.peak == (205.0, 205.0)
    smooth[20, 20] = 0.4
    (region,) = regions_from_scores(scores, score_statistics(scores), blank(600, 800), smooth=smooth)
    assert region.peak == (505.0, 305.0)


def test_slivers_go_and_the_rest_stays() -> None:
    mask = np.zeros((40, 60), dtype=bool)
    mask[10:30, 10:30] = True
    mask[20, 30:55] = True  # a spur one cell wide
    mask[15, 10:30] = False  # a gap one cell wide
    expected = np.zeros_like(mask)
    expected[10:30, 10:30] = True
    np.testing.assert_array_equal(without_slivers(mask, 5, 5), expected)
    thin = np.zeros_like(mask)
    thin[20, 5:50] = True
    np.testing.assert_array_equal(without_slivers(thin, 5, 5), thin)
