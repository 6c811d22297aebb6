"""What localization gives away: COG, GeoPackage, xarray, explanations, and maps of an archive's source."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from peak_memory import PEAK_KIB

from lrsclip_rt.cli.localize import command
from lrsclip_rt.embedder import Embedder, load
from lrsclip_rt.errors import InputError
from lrsclip_rt.localization import localize, localize_scene
from lrsclip_rt.localization.archive_scene import (
    address_from_text,
    embedding_from_archive,
    scene_from_archive,
    source_number,
)
from lrsclip_rt.localization.asking import ask
from lrsclip_rt.localization.explaining import explain, sentences_of
from lrsclip_rt.localization.outputs import write_outputs
from lrsclip_rt.localization.pipeline import localize_embedding
from lrsclip_rt.raster import open_scene, scene_from_array

rasterio = pytest.importorskip("rasterio")

ROTATED = (0.4, 0.3, 500000.0, 0.3, -0.4, 4000000.0)
UPRIGHT = (0.5, 0.0, 500000.0, 0.0, -0.5, 4000000.0)

RUN = (
    PEAK_KIB
    + """
import sys
import lrsclip_rt as lrs
heat, = lrs.localize(lrs.load(sys.argv[2], threads=1), sys.argv[1], ["a harbour"])
print(len(heat.scores), peak_kib() // 1024)
"""
)


@pytest.fixture(scope="module")
def model(made_bundle: Path) -> Embedder:
    return load(made_bundle)


def write_scene(
    path: Path, height: int, width: int, transform: tuple[float, ...] | None, **profile: object
) -> Path:
    """Fields of 128 px in all colours, one of them far from the others."""
    rng = np.random.default_rng(5)
    blocks = rng.integers(90, 130, (3, -(-height // 128), -(-width // 128)), dtype=np.uint8)
    bands = np.repeat(np.repeat(blocks, 128, axis=1), 128, axis=2)[:, :height, :width]
    bands[:, :256, :256] = np.array([250, 20, 20])[:, None, None]
    bands[:, -256:, -256:] = np.array([5, 235, 235])[:, None, None]
    profile["transform"] = rasterio.Affine(*(UPRIGHT if transform is None else transform))
    if transform is not None:
        profile["crs"] = "EPSG:32650"
    values = {"driver": "GTiff", "count": 3, "dtype": "uint8", "height": height, "width": width, **profile}
    with rasterio.open(path, "w", **values) as target:
        target.write(bands)
    return path


def placed(transform: Any, col: float, row: float) -> tuple[float, float]:
    a, b, c, d, e, f = tuple(transform)[:6]
    return a * col + b * row + c, d * col + e * row + f


def run(*arguments: object) -> Result:
    return CliRunner().invoke(command, [str(argument) for argument in arguments])


# Files


@pytest.mark.parametrize("transform", [UPRIGHT, ROTATED])
def test_the_heat_map_is_a_cog_at_the_place_of_the_scene(
    model: Embedder, tmp_path: Path, transform: tuple[float, ...]
) -> None:
    path = write_scene(tmp_path / "scene.tif", 900, 1300, transform)
    with open_scene(path) as scene:
        found = localize_scene(model, scene, ["a ship"])
        (small,) = write_outputs(tmp_path / "small", found, scene)
        (full,) = write_outputs(tmp_path / "full", found, scene, full=True)
    for paths, levels in ((small, 0), (full, 2)):
        with rasterio.open(paths.heat) as dataset:
            assert dataset.tags(ns="IMAGE_STRUCTURE")["LAYOUT"] == "COG"
            assert len(dataset.overviews(1)) >= levels
            assert dataset.descriptions == ("a ship",)
            assert np.isnan(dataset.nodata)
            tags = dataset.tags()
            assert (tags["QUERY"], tags["MODE"], tags["SCALES"]) == ("a ship", "fast", "256,128")
            assert tags["PRESENT"] in {"yes", "no"}
            for share in ((0, 0), (1, 0), (0, 1), (1, 1)):
                ours = placed(dataset.transform, share[0] * dataset.width, share[1] * dataset.height)
                theirs = placed(transform, share[0] * 1300, share[1] * 900)
                assert ours == pytest.approx(theirs, abs=0.25)
            values = dataset.read(1)
            assert values.dtype == np.float32
        assert not list(paths.heat.parent.glob("*draft*"))
    assert values.shape == (900, 1300)
    assert found[0].scores.shape == (180, 260)  # cells of 5 px
    np.testing.assert_allclose(values[2::5, 2::5], found[0].scores, atol=1e-6)


def test_every_real_geotiff_keeps_its_corners_to_half_a_pixel(
    model: Embedder, data_dir: Path, tmp_path: Path
) -> None:
    paths = sorted((data_dir / "scenes").glob("*.tif"))
    assert paths
    for path in paths:
        with rasterio.open(path) as dataset:
            if dataset.width * dataset.height > 3e7:
                continue
            affine, crs, width, height = dataset.transform, dataset.crs, dataset.width, dataset.height
        with open_scene(path) as scene:
            found = localize_scene(model, scene, ["a harbour with ships"])
            (written,) = write_outputs(tmp_path / path.stem, found, scene)
        with rasterio.open(written.heat) as heat:
            assert heat.crs == crs, path.name
            for share in ((0, 0), (1, 0), (0, 1), (1, 1)):
                place = placed(heat.transform, share[0] * heat.width, share[1] * heat.height)
                if crs is not None:
                    place = placed(~affine, *place)
                assert place == pytest.approx((share[0] * width, share[1] * height), abs=0.5), path.name
        collection = json.loads(written.regions.read_text(encoding="utf-8"))
        assert collection["type"] == "FeatureCollection"


def test_regions_are_a_geopackage_in_the_scenes_crs(model: Embedder, tmp_path: Path) -> None:
    pyogrio = pytest.importorskip("pyogrio", reason="pyogrio writes and reads GeoPackages")
    shapely = pytest.importorskip("shapely")
    path = write_scene(tmp_path / "scene_20200831.tif", 1024, 1024, UPRIGHT)
    result = run(path, "a ship", "storage tanks", "-b", model.bundle.path, "-o", tmp_path / "out", "--gpkg")
    assert result.exit_code == 0, (result.output, result.exception)
    rows = [json.loads(line) for line in result.stdout.splitlines()]
    seen = 0
    for number, text in ((1, "a ship"), (2, "storage tanks")):
        meta, _, shapes, columns = pyogrio.raw.read(tmp_path / "out" / f"{number:02}-regions.gpkg")
        assert meta["crs"] == "EPSG:32650"
        table = dict(zip(meta["fields"], columns, strict=True))
        printed = [row for row in rows if row["text"] == text and row["rank"] is not None]
        assert table["rank"].tolist() == [row["rank"] for row in printed]
        for index, row in enumerate(printed):
            shape = shapely.from_wkb(shapes[index])
            assert shape.is_valid
            assert shape.area == pytest.approx(row["area_px"] * 0.25, rel=1e-6)
            col, line, width, height = row["window"]
            left, top = 500000 + 0.5 * col, 4000000 - 0.5 * line
            assert shape.bounds == pytest.approx((left, top - height / 2, left + width / 2, top), abs=0.51)
            assert table["query"][index] == text
            assert table["datetime"][index].startswith("2020-08-31")
            seen += 1
    assert seen > 0


def test_gpkg_without_a_folder_is_a_usage_mistake(model: Embedder, tmp_path: Path) -> None:
    path = write_scene(tmp_path / "scene.tif", 300, 300, None)
    result = run(path, "a ship", "-b", model.bundle.path, "--gpkg")
    assert result.exit_code == 2
    assert "-o" in result.stderr


# Objects


def test_a_map_becomes_an_xarray_with_the_places_of_its_cells(model: Embedder, tmp_path: Path) -> None:
    xarray = pytest.importorskip("xarray", reason="xarray holds the map")
    (heat,) = localize(model, write_scene(tmp_path / "a.tif", 600, 800, UPRIGHT), ["a ship"])
    array = heat.to_xarray()
    assert isinstance(array, xarray.DataArray)
    assert array.dims == ("y", "x")
    assert array.attrs["crs"] == "EPSG:32650"
    a, _, c, _, e, f = heat.transform
    assert float(array.x[0]) == pytest.approx(c + a / 2)
    assert float(array.y[-1]) == pytest.approx(f + e * (heat.scores.shape[0] - 0.5))
    np.testing.assert_array_equal(array.values, heat.scores)
    (turned,) = localize(model, write_scene(tmp_path / "b.tif", 600, 800, ROTATED), ["a ship"])
    assert not turned.to_xarray().coords


def test_a_map_shows_itself_and_its_regions(model: Embedder, tmp_path: Path) -> None:
    (heat,) = localize(model, write_scene(tmp_path / "a.tif", 600, 800, UPRIGHT), ["a ship"])
    assert heat._repr_png_()[:8] == b"\x89PNG\r\n\x1a\n"
    collection = heat.to_geojson()
    assert len(collection["features"]) == len(heat)
    assert collection["coordinates"] == "WGS84"
    assert collection["present"] in {True, False}
    picture = np.zeros((60, 80, 3), np.uint8)
    assert heat.to_image(picture).width == 80


# Descriptions taken apart


def test_a_place_must_fit_every_sentence(model: Embedder, tmp_path: Path) -> None:
    description = "A harbour with many ships. White storage tanks stand beside it."
    sentences = sentences_of(description)
    assert len(sentences) == 2
    with open_scene(write_scene(tmp_path / "a.tif", 800, 800, UPRIGHT)) as scene:
        found = localize_scene(model, scene, sentences)
        explained = explain(found, scene, description)
    assert [heat.text for heat in explained.found.heatmaps] == [*sentences, description]
    combined = explained.found[2]
    for heat in found.heatmaps:
        middle = np.median(heat.scores)
        spread = 1.4826 * np.median(np.abs(heat.scores - middle))
        assert (combined.scores <= (heat.scores - middle) / spread + 1e-3).all()
    assert combined.measure != "cosine"
    assert len(explained.z_at_best) == 2
    assert combined.peak is not None


def test_one_sentence_has_nothing_to_explain(model: Embedder, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="two or more"):
        sentences_of("A harbour with many ships.")
    path = write_scene(tmp_path / "a.tif", 300, 300, None)
    assert run(path, "One. Two.", "Three.", "--explain", "-b", model.bundle.path).exit_code == 2
    assert run(path, "One. Two.", "--explain", "--mode", "selo", "-b", model.bundle.path).exit_code == 2


def test_the_command_prints_each_sentence_at_the_best_place(model: Embedder, tmp_path: Path) -> None:
    path = write_scene(tmp_path / "a.tif", 800, 800, UPRIGHT)
    result = run(
        path, "A harbour. White storage tanks.", "--explain", "-b", model.bundle.path, "-o", tmp_path / "o"
    )
    assert result.exit_code == 0, (result.output, result.exception)
    rows = [json.loads(line) for line in result.stdout.splitlines()]
    values = {row["text"]: row["z_at_best"] for row in rows}
    assert values["A harbour. White storage tanks."] is None
    assert isinstance(values["A harbour."], float)
    assert len(list((tmp_path / "o").glob("*-heat.tif"))) == 3


# Archives


@pytest.fixture(scope="module")
def archived(made_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """An archive of one scene with tiles of two sizes, and the scene."""
    from lrsclip_rt.cli.index import command as index

    folder = tmp_path_factory.mktemp("archived")
    scene = write_scene(folder / "port.tif", 1000, 1300, UPRIGHT)
    arguments = [scene, "-a", folder / "archive", "-b", made_bundle, "--tile", 256, "--tile", 128]
    result = CliRunner().invoke(index, [str(argument) for argument in arguments])
    assert result.exit_code == 0, (result.output, result.exception)
    return folder / "archive", scene


def test_an_archives_source_has_a_map_of_its_stored_tiles(
    archived: tuple[Path, Path], model: Embedder
) -> None:
    from lrsclip_rt.archive import Archive

    path, file = archived
    with Archive.open(path) as archive:
        number = source_number(archive, "port.tif")
        embedding = embedding_from_archive(archive, number)
        with scene_from_archive(archive, number) as scene:
            found = localize_embedding(embedding, scene, ["a ship"], ask(model, ["a ship"], templates=True))
    assert embedding.scales == (256, 128)
    with open_scene(file) as scene:
        crops = [scene.read(window) for window in embedding.windows]
    np.testing.assert_allclose(embedding.embeddings, model.embed_images(crops), atol=2e-3)
    assert np.isfinite(found[0].scores).all()
    assert (found[0].mode, found[0].crs) == ("archive", "EPSG:32650")


def test_the_command_localizes_in_an_archive_even_without_the_file(
    archived: tuple[Path, Path], tmp_path: Path
) -> None:
    path, file = archived
    address = f"archive:{path}#{file}"
    first = run(address, "a ship", "-o", tmp_path / "there")
    assert first.exit_code == 0, (first.output, first.exception)
    away = file.with_name("away.tif")
    file.rename(away)
    try:
        second = run(address, "a ship", "-o", tmp_path / "gone")
    finally:
        away.rename(file)
    assert second.exit_code == 0, (second.output, second.exception)
    assert second.stdout == first.stdout
    there, gone = (tmp_path / name / "01-overlay.png" for name in ("there", "gone"))
    assert there.read_bytes() != gone.read_bytes()
    assert (tmp_path / "gone" / "01-heat.tif").read_bytes() == (
        tmp_path / "there" / "01-heat.tif"
    ).read_bytes()


def test_addresses_that_lead_nowhere_are_refused(archived: tuple[Path, Path]) -> None:
    path, _ = archived
    assert address_from_text("scene.tif") is None
    with pytest.raises(InputError, match="archive:PATH#SOURCE"):
        address_from_text("archive:somewhere")
    assert isinstance(run(f"archive:{path}#gone.tif", "a ship").exception, InputError)
    assert run(f"archive:{path}#port.tif", "a ship", "--refine", "0.5").exit_code == 2


# Memory


def peak_mib(path: Path, bundle: Path) -> int:
    """Resident memory of a process that localizes one text."""
    result = subprocess.run(
        [sys.executable, "-c", RUN, str(path), str(bundle)], capture_output=True, text=True, check=True
    )
    return int(result.stdout.split()[-1])


def test_memory_does_not_grow_with_the_height_of_a_scene(made_bundle: Path, tmp_path: Path) -> None:
    tiled = {"tiled": True, "compress": "deflate", "blockxsize": 256, "blockysize": 256}
    low = write_scene(tmp_path / "low.tif", 1500, 3000, None, **tiled)
    high = write_scene(tmp_path / "high.tif", 6000, 3000, None, **tiled)
    assert peak_mib(high, made_bundle) - peak_mib(low, made_bundle) < 80  # all its pixels would be 40 more


@pytest.mark.slow
def test_a_raster_of_36000_by_18000_px_stays_within_its_memory(
    made_bundle: Path, data_dir: Path, tmp_path: Path
) -> None:
    path = tmp_path / "large.tif"
    images = sorted((data_dir / "aid_rsicd" / "images").rglob("*.jpg"))[::9][:960]
    rows = np.empty((3, 256, 36000), np.uint8)
    from PIL import Image

    tiles = [np.asarray(Image.open(name).convert("RGB").resize((256, 256))) for name in images]
    profile = {
        "driver": "GTiff", "count": 3, "dtype": "uint8", "height": 18000, "width": 36000, "tiled": True,
        "blockxsize": 256, "blockysize": 256, "compress": "jpeg", "crs": "EPSG:32650",
        "transform": rasterio.Affine(*UPRIGHT), "photometric": "ycbcr",
    }  # fmt: skip
    with rasterio.open(path, "w", **profile) as target:
        for index, top in enumerate(range(0, 18000, 256)):
            strip = np.concatenate([tiles[(141 * index + col) % len(tiles)] for col in range(141)], axis=1)
            rows[:] = strip[:, :36000].transpose(2, 0, 1)
            height = min(256, 18000 - top)
            target.write(rows[:, :height], window=((top, top + height), (0, 36000)))
    assert peak_mib(path, made_bundle) < 1536


def test_a_scene_from_an_array_says_that_it_has_no_place(model: Embedder) -> None:
    with scene_from_array(np.full((300, 300, 3), 90, np.uint8)) as scene:
        found = localize_scene(model, scene, ["a ship"])
    assert found[0].to_geojson()["coordinates"] == "pixels"
    assert found[0].regions == ()
