"""Localization from a scene to files, with the hand-made model: its image tower is the mean colour."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from lrsclip_rt.embedder import Embedder, load
from lrsclip_rt.errors import InputError, OutputExistsError, RasterError
from lrsclip_rt.localization import Heatmap, Localization, localize, localize_scene
from lrsclip_rt.localization.asking import ask
from lrsclip_rt.localization.colours import colour_table
from lrsclip_rt.localization.furniture import draw_footer, draw_header
from lrsclip_rt.localization.outputs import output_paths, write_outputs
from lrsclip_rt.localization.overlay import render_overlay, scene_thumbnail
from lrsclip_rt.localization.pipeline import localize_embedding, peak_map
from lrsclip_rt.localization.png import write_grey_png
from lrsclip_rt.localization.scene_embedding import SceneEmbedding
from lrsclip_rt.localization.selo_map import selo_map
from lrsclip_rt.localization.statistics import peak_cell
from lrsclip_rt.localization.windows import selo_windows
from lrsclip_rt.raster import open_scene, scene_from_array
from lrsclip_rt.tiles import Window

rasterio = pytest.importorskip("rasterio")

TEXTS = ["a harbour with many ships", "white storage tanks"]
TRANSFORM = (0.5, 0.0, 500000.0, 0.0, -0.5, 4000000.0)


@pytest.fixture(scope="module")
def model(made_bundle: Path) -> Embedder:
    return load(made_bundle)


def patchwork(height: int = 700, width: int = 900) -> NDArray[np.uint8]:
    """Greys of 100 px, a red field and its opposite: whichever way a text points, one stands out."""
    rng = np.random.default_rng(3)
    blocks = rng.integers(112, 128, (-(-height // 100), -(-width // 100), 3), dtype=np.uint8)
    array = np.repeat(np.repeat(blocks, 100, axis=0), 100, axis=1)[:height, :width]
    array[:280, :280] = (250, 20, 20)
    array[420:, 620:] = (5, 235, 235)
    return array


@pytest.fixture
def tif(tmp_path: Path) -> Path:
    array = patchwork()
    path = tmp_path / "scene_20200831.tif"
    with rasterio.open(
        path,
        "w",
        driver="GTiff",
        count=3,
        height=700,
        width=900,
        dtype="uint8",
        crs="EPSG:32650",
        transform=rasterio.Affine(*TRANSFORM),
    ) as target:
        target.write(array.transpose(2, 0, 1))
    return path


@pytest.fixture
def located(tif: Path, model: Embedder) -> Iterator[tuple[Localization, Any]]:
    with open_scene(tif) as scene:
        yield localize_scene(model, scene, TEXTS, mode="selo"), scene


# From scene to heat maps


def test_scores_are_those_of_windows_embedded_one_by_one(model: Embedder) -> None:
    cv2 = pytest.importorskip("cv2")
    array = patchwork()
    with scene_from_array(array) as scene:
        found = localize_scene(model, scene, TEXTS, batch_size=5, mode="selo")
    windows = selo_windows(700, 900)
    assert list(found.embedding.windows) == windows
    crops = [
        cv2.resize(
            array[w.row_off : w.row_off + w.height, w.col_off : w.col_off + w.width],
            (256, 256),
            interpolation=cv2.INTER_CUBIC,
        )
        for w in windows
    ]
    expected = model.embed_images(crops)
    np.testing.assert_allclose(found.embedding.embeddings, expected, atol=1e-6)
    scores = expected @ model.embed_texts(TEXTS).T
    total, count = np.zeros((700, 900)), np.zeros((700, 900))
    for window, score in zip(windows, scores[:, 1], strict=True):
        rows = slice(window.row_off, window.row_off + window.height)
        cols = slice(window.col_off, window.col_off + window.width)
        total[rows, cols] += score
        count[rows, cols] += 1
    slow = total / count
    np.testing.assert_allclose(found.cells.at_pixels(1, np.arange(700), np.arange(900)), slow, atol=1e-6)


def test_paths_open_scenes_and_arrays_give_the_same_maps(tif: Path, model: Embedder) -> None:
    by_path = localize(model, tif, TEXTS, mode="selo")
    with open_scene(tif) as scene:
        by_scene = localize(model, scene, TEXTS, mode="selo")
        assert scene.read(scene.extent).shape == (700, 900, 3)  # still open
    by_array = localize(model, patchwork(), TEXTS, mode="selo")
    for one, two, three in zip(by_path, by_scene, by_array, strict=True):
        np.testing.assert_array_equal(one.scores, two.scores)
        np.testing.assert_array_equal(one.scores, three.scores)
    assert by_array[0].crs is None
    assert by_path[0].crs == "EPSG:32650"


def test_each_text_has_its_map_in_order(tif: Path, model: Embedder) -> None:
    both = localize(model, tif, TEXTS, mode="selo")
    alone = [localize(model, tif, text, mode="selo")[0] for text in TEXTS]
    assert [heat.text for heat in both] == TEXTS
    for one, other in zip(both, alone, strict=True):
        np.testing.assert_allclose(one.scores, other.scores, atol=1e-6)


def test_a_later_text_needs_no_second_pass(located: tuple[Localization, Any], model: Embedder) -> None:
    first, scene = located
    later = localize_embedding(
        first.embedding, scene, ["a long runway"], ask(model, ["a long runway"], templates=False)
    )
    (again,) = localize(model, scene, ["a long runway"], mode="selo")
    np.testing.assert_array_equal(later[0].scores, again.scores)


def test_the_map_covers_the_scene_exactly(located: tuple[Localization, Any]) -> None:
    heat = located[0][0]
    rows, cols = heat.scores.shape
    a, b, c, d, e, f = heat.transform
    assert (c, f) == (500000.0, 4000000.0)
    assert (a * cols + b * rows + c, d * cols + e * rows + f) == pytest.approx((500450.0, 3999650.0))
    assert heat.score_range == (float(heat.scores.min()), float(heat.scores.max()))
    assert heat.normalised.min() == 0.0
    assert heat.normalised.max() == 1.0
    assert heat.peak is not None
    col, row = heat.peak
    at_peak = heat.scores[int(row * rows / 700), int(col * cols / 900)]
    assert at_peak > np.quantile(heat.scores, 0.95)
    assert not heat.scores.flags.writeable


def test_the_peak_of_a_plateau_at_the_edge_is_its_middle() -> None:
    scores = np.zeros((100, 140), np.float32)
    scores[:20, :20] = 1.0
    scores[60:, 100:] = 0.5
    scores[70, 90] = np.nan
    rows = np.ones((1, 4), np.float32)
    embedding = SceneEmbedding((Window(0, 0, 9, 9),), rows, 1000, 1400, "selo", (256, 512))
    raised = peak_map(scores, 0.0, embedding)
    assert peak_cell(raised) == pytest.approx((10.5, 10.5), abs=4.0)
    assert np.isnan(raised).sum() == 1


def test_progress_counts_every_window(tif: Path, model: Embedder) -> None:
    calls: list[tuple[int, int]] = []
    localize(
        model, tif, TEXTS, batch_size=4, progress=lambda done, total: calls.append((done, total)), mode="selo"
    )
    total = len(selo_windows(700, 900))
    assert calls[-1] == (total, total)
    assert [done for done, _ in calls] == sorted({done for done, _ in calls})


def test_a_scene_smaller_than_a_window_is_one_window_and_stands_out_nowhere(model: Embedder) -> None:
    (heat,) = localize(model, patchwork(120, 300), ["a ship"], mode="selo")
    assert heat.scales == ()
    assert heat.regions == ()
    assert heat.score_range[0] == heat.score_range[1]
    assert heat.normalised.max() == 0.0


@pytest.mark.parametrize("texts", [[], "", ["a ship", "  "]])
def test_no_text_and_blank_texts_are_refused(tif: Path, model: Embedder, texts: Any) -> None:
    with pytest.raises(InputError):
        localize(model, tif, texts, mode="selo")


def test_an_unknown_mode_is_refused(tif: Path, model: Embedder) -> None:
    with pytest.raises(InputError, match="expected one of fast, selo"):
        localize(model, tif, TEXTS, mode="sloppy")


def test_where_the_scene_shows_nothing_the_map_is_nan(model: Embedder) -> None:
    array = np.random.default_rng(0).integers(40, 200, (600, 600, 3), dtype=np.uint8)
    array[:, :150] = 0
    (heat,) = localize(model, array, ["a ship"], mode="selo")
    missing = np.isnan(heat.scores)
    assert missing.mean() == pytest.approx(0.25, abs=0.02)
    assert missing[:, 0].all()
    assert np.isnan(heat.normalised[missing]).all()
    assert all(region.window.col_off >= 145 for region in heat.regions)


def test_heatmaps_are_sequences_of_regions_with_a_short_name(located: tuple[Localization, Any]) -> None:
    heat = located[0][0]
    assert len(heat) == len(heat.regions)
    assert list(heat) == list(heat.regions)
    assert repr(heat).startswith("Heatmap('a harbour with many ships', ")
    assert len(repr(heat)) < 140


# Files


def test_the_heat_map_is_a_georeferenced_tif(
    located: tuple[Localization, Any], model: Embedder, tmp_path: Path
) -> None:
    found, scene = located
    paths = write_outputs(tmp_path / "out", found, scene)
    with rasterio.open(paths[1].heat) as dataset:
        np.testing.assert_array_equal(dataset.read(1), found[1].scores)
        assert dataset.crs.to_epsg() == 32650
        assert dataset.dtypes == ("float32",)
        assert dataset.bounds == pytest.approx((500000.0, 3999650.0, 500450.0, 4000000.0))
        assert dataset.descriptions == ("white storage tanks",)
        assert dataset.block_shapes == [(256, 256)]
        assert dataset.compression.name == "deflate"
        assert np.isnan(dataset.nodata)
        tags = dataset.tags()
    assert tags["MODEL_ID"] == model.bundle.identity
    assert (tags["MODE"], tags["SCALES"]) == ("selo", "256,512")
    assert (tags["QUERY"], tags["SOURCE"]) == ("white storage tanks", "scene_20200831.tif")


def test_full_size_maps_hold_every_pixels_mean(located: tuple[Localization, Any], tmp_path: Path) -> None:
    found, scene = located
    paths = write_outputs(tmp_path, found, scene, full=True)
    for text, path in enumerate(paths):
        with rasterio.open(path.heat) as dataset:
            assert dataset.shape == (700, 900)
            assert tuple(dataset.transform)[:6] == TRANSFORM
            exact = found.cells.at_pixels(text, np.arange(700), np.arange(900))
            np.testing.assert_array_equal(dataset.read(1), exact.astype(np.float32))


def test_full_size_maps_leave_the_collar_out(model: Embedder, tmp_path: Path) -> None:
    array = np.random.default_rng(0).integers(40, 200, (600, 600, 3), dtype=np.uint8)
    array[:, :151] = 0
    with scene_from_array(array) as scene:
        found = localize_scene(model, scene, ["a ship"], mode="selo")
        (paths,) = write_outputs(tmp_path, found, scene, full=True)
        with rasterio.open(paths.heat) as dataset:
            values = dataset.read(1)
    np.testing.assert_array_equal(np.isnan(values), (array == 0).all(axis=2))


def test_the_selo_map_is_a_grey_png_at_source_resolution(
    located: tuple[Localization, Any], tmp_path: Path
) -> None:
    found, scene = located
    paths = write_outputs(tmp_path, found, scene)
    for text, path in enumerate(paths):
        assert path.selo is not None
        with Image.open(path.selo) as image:
            assert image.mode == "L"
            np.testing.assert_array_equal(np.asarray(image), selo_map(found.cells, text))


def test_regions_are_geojson_in_wgs84(
    located: tuple[Localization, Any], model: Embedder, tmp_path: Path
) -> None:
    found, scene = located
    paths = write_outputs(tmp_path, found, scene)
    assert any(len(heat.regions) for heat in found.heatmaps)
    for path, heat in zip(paths, found.heatmaps, strict=True):
        collection = json.loads(path.regions.read_text(encoding="utf-8"))
        assert collection["type"] == "FeatureCollection"
        assert collection["coordinates"] == "WGS84"
        assert len(collection["features"]) == len(heat.regions)
        for feature, region in zip(collection["features"], heat.regions, strict=True):
            properties = feature["properties"]
            assert properties["rank"] == region.rank
            assert properties["score"] == pytest.approx(region.score, abs=1e-6)
            assert properties["query"] == heat.text
            assert properties["source"] == "scene_20200831.tif"
            assert properties["datetime"] == "2020-08-31T00:00:00Z"
            assert properties["model_id"] == model.bundle.identity
            assert properties["area_m2"] == pytest.approx(region.area_px * 0.25, abs=0.1)
            ring = feature["geometry"]["coordinates"][0]
            assert ring[0] == ring[-1]
            assert all(116.9 < lon < 117.1 and 36 < lat < 36.2 for lon, lat in ring)


def test_regions_without_georeference_say_that_they_are_pixels(model: Embedder, tmp_path: Path) -> None:
    with scene_from_array(patchwork()) as scene:
        found = localize_scene(model, scene, TEXTS, mode="selo")
        paths = write_outputs(tmp_path, found, scene)
    collections = [json.loads(path.regions.read_text(encoding="utf-8")) for path in paths]
    features = [feature for collection in collections for feature in collection["features"]]
    assert features
    assert {collection["coordinates"] for collection in collections} == {"pixels"}
    assert all("not longitude and latitude" in collection["note"] for collection in collections)
    for feature in features:
        assert feature["properties"]["coordinates"] == "pixels"
        assert feature["properties"]["lonlat"] is None
        ring = np.array(feature["geometry"]["coordinates"][0])
        assert ring.min() >= 0
        assert ring[:, 0].max() <= 900
        assert ring[:, 1].max() <= 700
    with rasterio.open(paths[0].heat) as dataset:
        assert dataset.crs is None
        assert dataset.tags()["COORDINATES"] == "pixels"
        assert dataset.transform.a * dataset.width == pytest.approx(900)
        assert dataset.transform.e * dataset.height == pytest.approx(700)


def test_files_are_replaced_only_when_asked(located: tuple[Localization, Any], tmp_path: Path) -> None:
    found, scene = located
    write_outputs(tmp_path, found, scene)
    before = {path.name: path.read_bytes() for path in tmp_path.glob("0*")}
    assert len(before) == 8
    with pytest.raises(OutputExistsError, match=r"01-heat\.tif exists"):
        write_outputs(tmp_path, found, scene)
    assert {path.name: path.read_bytes() for path in tmp_path.glob("0*")} == before
    write_outputs(tmp_path, found, scene, overwrite=True)
    assert {path.name for path in tmp_path.iterdir() if not path.name.endswith(".tif")} >= {"01-selo.png"}


def test_nothing_is_left_when_writing_fails(located: tuple[Localization, Any], tmp_path: Path) -> None:
    found, scene = located
    scene.close()
    with pytest.raises(RasterError, match="is closed"):
        write_outputs(tmp_path / "out", found, scene)
    assert list((tmp_path / "out").iterdir()) == []


def test_a_folder_that_is_a_file_is_refused(located: tuple[Localization, Any], tmp_path: Path) -> None:
    (tmp_path / "out").write_text("a file")
    with pytest.raises(InputError, match="cannot be written"):
        write_outputs(tmp_path / "out", *located)


def test_many_texts_keep_their_order_by_name() -> None:
    names = [paths.heat.name for paths in output_paths(Path(), 120, mode="fast")]
    assert names == sorted(names)
    assert output_paths(Path(), 1, mode="fast")[0].selo is None


# Pictures


def test_the_overlay_holds_the_scene_between_title_and_legend(located: tuple[Localization, Any]) -> None:
    found, scene = located
    thumbnail = scene_thumbnail(scene)
    picture = render_overlay(found[0], thumbnail, subtitle="scene", gsd_m=scene.gsd_m)
    assert thumbnail.shape == (700, 900, 3)
    assert picture.width == 900
    assert 700 < picture.height < 900


def test_high_scores_are_drawn_lighter_than_low_ones(model: Embedder) -> None:
    (heat,) = localize(model, patchwork(), ["a ship"], mode="selo")
    flat = np.full((700, 900, 3), 110, np.uint8)
    bare = replace(heat, regions=())
    picture = np.asarray(render_overlay(bare, flat).convert("L"), dtype=float)
    header = draw_header(900, heat.text, "x").height
    scene = picture[header : header + 700]
    rows, cols = heat.scores.shape
    values = heat.normalised[(np.arange(700) * rows) // 700][:, (np.arange(900) * cols) // 900]
    assert scene[values > 0.9].mean() > scene[values < 0.3].mean() + 30


def test_large_scenes_are_shown_at_2048_and_small_ones_enlarged() -> None:
    with scene_from_array(np.zeros((1000, 5000, 3), np.uint8)) as scene:
        assert scene_thumbnail(scene).shape == (410, 2048, 3)
    with scene_from_array(np.zeros((50, 100, 3), np.uint8)) as scene:
        assert scene_thumbnail(scene).shape == (320, 640, 3)


def test_missing_parts_are_drawn_plain(model: Embedder) -> None:
    array = np.random.default_rng(0).integers(40, 200, (700, 700, 3), dtype=np.uint8)
    array[:, :200] = 0
    with scene_from_array(array) as scene:
        heat: Heatmap = localize_scene(model, scene, ["a ship"], mode="selo")[0]
        picture = np.asarray(render_overlay(replace(heat, regions=()), scene_thumbnail(scene)))
    header = draw_header(700, heat.text, "x").height
    column = picture[header + 20 : header + 600, 60]
    assert (column == column[0]).all()


@pytest.mark.parametrize(
    "text", ["a" * 4000, "word " * 800, "ships\nand\tquays", "港口里有很多船", "\u202e x", "🛳"]
)
def test_any_text_makes_a_title_of_a_few_lines(text: str) -> None:
    header = draw_header(640, text, "facts")
    assert header.width == 640
    assert header.height < 200


def test_the_scale_bar_is_drawn_where_the_ground_distance_is_known() -> None:
    without = np.asarray(draw_footer(800, (0.1, 0.3)))
    with_bar = np.asarray(draw_footer(800, (0.1, 0.3), metres_per_px=0.5))
    assert np.array_equal(without[:, :360], with_bar[:, :360])
    bright = (with_bar.min(axis=2) > 200).any(axis=0).nonzero()[0]
    # 0.25 x 800 px x 0.5 m = 100 m: a bar of 200 px that ends at the margin.
    assert bright.max() - bright.min() == pytest.approx(200, abs=3)
    assert not (without[:, 400:] != without[0, 0]).any()


def test_the_colours_climb_evenly_in_lightness() -> None:
    from lrsclip_rt.localization.colours import _oklab

    lightness = _oklab(colour_table() / 255.0)[:, 0]
    steps = np.diff(lightness)
    assert steps.min() > 0
    assert steps.max() < 2.2 * steps.mean()
    assert lightness[-1] - lightness[0] > 0.7


def test_a_png_written_in_strips_reads_back(tmp_path: Path) -> None:
    picture = np.random.default_rng(0).integers(0, 256, (333, 77), dtype=np.uint8)
    strips = [picture[:100], picture[100:101], picture[101:300], picture[300:]]
    write_grey_png(tmp_path / "a.png", iter(strips), height=333, width=77)
    with Image.open(tmp_path / "a.png") as image:
        image.verify()
    with Image.open(tmp_path / "a.png") as image:
        assert image.mode == "L"
        np.testing.assert_array_equal(np.asarray(image), picture)


def test_a_real_georeferenced_scene_and_a_photo_go_through(
    data_dir: Path, model: Embedder, tmp_path: Path
) -> None:
    for name in ("landsat_1990.tif", "planet_airport_2.png"):
        with open_scene(data_dir / "scenes" / name) as scene:
            found = localize_scene(model, scene, ["a bridge over a river"], mode="selo")
            (paths,) = write_outputs(tmp_path / name, found, scene)
        assert all(path.stat().st_size > 0 for path in paths.all())
        assert np.isnan(found[0].scores).any() == (scene.look.collar is not None)
