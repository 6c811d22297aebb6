from __future__ import annotations

import os
import shutil
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from lrsclip_rt.archive import Archive, Where, tile_id
from lrsclip_rt.archive.footprints import rings_meet_bbox
from lrsclip_rt.archive.ingest import IndexReport, index_sources
from lrsclip_rt.archive.inputs import header_from_image, list_inputs
from lrsclip_rt.archive.models import image_bundle, text_bundle
from lrsclip_rt.archive.plans import IndexOptions, SourcePlan, content_of_scene, grids_of, tiles_of_scene
from lrsclip_rt.archive.read_ahead import run_ahead
from lrsclip_rt.archive.records import TileRecord
from lrsclip_rt.archive.summary import summary_from_archive
from lrsclip_rt.archive.verifying import verify_archive
from lrsclip_rt.embedder import Embedder, load
from lrsclip_rt.errors import ArchiveModelError, ImageError, InputError
from lrsclip_rt.images import rgb_from_source
from lrsclip_rt.raster import open_scene
from lrsclip_rt.tiles import Window, tile_grid

rasterio = pytest.importorskip("rasterio")


@pytest.fixture(scope="module")
def model(made_bundle: Path) -> Embedder:
    return load(made_bundle)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "archive"


@pytest.fixture
def inputs(tmp_path: Path) -> Path:
    path = tmp_path / "inputs"
    path.mkdir()
    return path


def picture(height: int, width: int, seed: int = 0) -> NDArray[np.uint8]:
    """Coloured blobs: every window has a mean colour of its own."""
    small = np.random.default_rng(seed).integers(
        1, 255, (height // 40 + 2, width // 40 + 2, 3), dtype=np.uint8
    )
    return np.array(Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC))


def write_scene(
    path: Path,
    array: NDArray[Any],
    *,
    crs: str | None = "EPSG:32650",
    transform: tuple[float, ...] | None = (10.0, 0.0, 500_000.0, 0.0, -10.0, 4_000_000.0),
    **profile: Any,
) -> Path:
    height, width, bands = array.shape
    affine = None if transform is None else rasterio.Affine(*transform)
    profile |= {"driver": "GTiff", "height": height, "width": width, "count": bands, "dtype": array.dtype}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)
        with rasterio.open(path, "w", crs=crs, transform=affine, **profile) as dataset:
            dataset.write(array.transpose(2, 0, 1))
    return path


def tiles_of(archive: Archive) -> list[TileRecord]:
    found = archive.catalog.tiles(range(len(archive)), archive.segments)
    return [found[row] for row in range(len(archive))]


def test_an_image_without_a_place_is_one_row(inputs: Path, folder: Path, model: Embedder) -> None:
    sizes = {"a.png": (40, 60), "b.jpg": (700, 300), "sub/c.bmp": (33, 32)}
    (inputs / "sub").mkdir()
    for seed, (name, (height, width)) in enumerate(sizes.items()):
        Image.fromarray(picture(height, width, seed)).save(inputs / name)
    report = index_sources(folder, [inputs], model)
    assert (report.rows, report.files, report.new_sources, report.failures) == (3, 3, 3, [])
    with Archive.open(folder) as archive:
        tiles = tiles_of(archive)
        assert [t.tile.window for t in tiles] == [Window(0, 0, w, h) for h, w in sizes.values()]
        assert {(t.tile.level, t.tile.bbox, t.tile.time_us) for t in tiles} == {(0, None, None)}
        assert [archive.locations(t.source)[0] for t in tiles] == [inputs / name for name in sizes]
        expected = model.embed_images([inputs / name for name in sizes])
        np.testing.assert_allclose(archive.vectors(tiles), expected, atol=1e-3)


def test_a_georeferenced_raster_is_cut_into_tiles(inputs: Path, folder: Path, model: Embedder) -> None:
    path = write_scene(inputs / "scene.tif", picture(500, 700))
    report = index_sources(folder, [path], model)
    with Archive.open(folder) as archive, open_scene(path) as scene:
        tiles = tiles_of(archive)
        grid = tile_grid(500, 700, size=256, overlap=0.25)
        assert [t.tile.window for t in tiles] == grid
        assert report.rows == len(grid) == 12
        assert {t.tile.level for t in tiles} == {256}
        assert [t.id for t in tiles] == [tile_id(scene.content_sha256, 256, window) for window in grid]
        assert [t.tile.bbox for t in tiles] == [scene.bounds(window) for window in grid]
        content = archive.content(1)
        assert (content.crs, content.transform) == (scene.crs, scene.transform)
        assert (content.width, content.height) == (700, 500)
        assert content.gsd_m == pytest.approx(10.0, rel=1e-3)
        expected = model.embed_images([scene.read(window) for window in grid])
        np.testing.assert_allclose(archive.vectors(tiles), expected, atol=1e-3)
        for tile in tiles:
            assert tile.tile.nodata_fraction == 0.0
            (ring,) = tile.tile.footprint
            assert len(ring) == 5, "the edges of a small tile are straight"
            assert tile.tile.bbox is not None
            assert np.allclose(np.min(ring, axis=0), tile.tile.bbox[:2], atol=1e-5)
        [hits] = archive.search(expected[5], where=Where(bbox=tiles[5].tile.bbox), k=1)
        assert hits[0].id == tiles[5].id
        assert rings_meet_bbox(hits[0].footprint, tiles[5].tile.bbox or (0, 0, 0, 0))


def test_windows_that_are_mostly_nodata_are_skipped_and_counted(
    inputs: Path, folder: Path, model: Embedder
) -> None:
    array = picture(256, 1024)
    array[:, 500:] = 0
    path = write_scene(inputs / "half.tif", array, nodata=0)
    report = index_sources(folder, [path], model, IndexOptions(overlap=0.0))
    with Archive.open(folder) as archive:
        fractions = {t.tile.window.col_off: t.tile.nodata_fraction for t in tiles_of(archive)}
        assert fractions == {0: 0.0, 256: pytest.approx(12 / 256)}
        assert summary_from_archive(archive).skipped_windows == report.skipped_windows == 2
    again = index_sources(folder, [path], model, IndexOptions(overlap=0.0))
    assert (again.rows, again.known_sources) == (0, 1)


def test_a_scene_smaller_than_a_tile_is_one_clipped_window(
    inputs: Path, folder: Path, model: Embedder
) -> None:
    path = write_scene(inputs / "small.tif", picture(90, 200))
    index_sources(folder, [path], model)
    with Archive.open(folder) as archive:
        (tile,) = tiles_of(archive)
        assert (tile.tile.window, tile.tile.level) == (Window(0, 0, 200, 90), 256)


def test_repeating_tile_adds_levels_and_a_later_one_adds_only_itself(
    inputs: Path, folder: Path, model: Embedder
) -> None:
    path = write_scene(inputs / "scene.tif", picture(600, 600))
    first = index_sources(folder, [path], model, IndexOptions(tiles=(256, 512)))
    second = index_sources(folder, [path], model, IndexOptions(tiles=(512, 128)))
    with Archive.open(folder) as archive:
        levels = summary_from_archive(archive).levels
        grids = {px: len(tile_grid(600, 600, size=px, overlap=0.25)) for px in (128, 256, 512)}
        assert levels == {str(px): count for px, count in grids.items()}
        assert (first.rows, second.rows) == (grids[256] + grids[512], grids[128])
        assert len(archive.tiles_of_source(1, level=512)) == grids[512]
    assert not verify_archive(folder).damaged


def test_a_photo_is_tiled_where_tiles_are_asked_for(inputs: Path, folder: Path, model: Embedder) -> None:
    Image.fromarray(picture(300, 500)).save(inputs / "photo.png")
    index_sources(folder, [inputs], model, IndexOptions(tiles=(200,), overlap=0.0))
    with Archive.open(folder) as archive:
        tiles = tiles_of(archive)
        assert [t.tile.window for t in tiles] == tile_grid(300, 500, size=200)
        pixels = rgb_from_source(inputs / "photo.png")
        expected = model.embed_images([pixels.crop((200, 100, 400, 300))])
        np.testing.assert_allclose(archive.vectors([tiles[4]]), expected, atol=1e-3)


def test_rasters_without_a_place_are_one_row(inputs: Path, folder: Path, model: Embedder) -> None:
    write_scene(inputs / "a.tif", picture(300, 400), crs=None, transform=None)
    write_scene(inputs / "b.tif", picture(300, 400, 1), crs=None)
    write_scene(inputs / "c.tif", picture(2500, 2100, 2).astype(np.uint16) * 9, crs=None, transform=None)
    report = index_sources(folder, [inputs], model)
    assert report.failures == []
    with Archive.open(folder) as archive:
        tiles = tiles_of(archive)
        assert [(t.tile.level, t.tile.bbox) for t in tiles] == [(0, None)] * 3
        assert tiles[2].tile.window == Window(0, 0, 2100, 2500)
        np.testing.assert_allclose(
            archive.vectors(tiles[:1]), model.embed_images([inputs / "a.tif"]), atol=1e-3
        )


def test_a_world_file_gives_a_photo_its_place(inputs: Path, folder: Path, model: Embedder) -> None:
    Image.fromarray(picture(300, 400)).save(inputs / "a.png")
    (inputs / "a.pgw").write_text("0.001\n0\n0\n-0.001\n5.0\n52.0\n")
    index_sources(folder, [inputs], model)
    with Archive.open(folder) as archive:
        assert archive.content(1).transform is not None
        assert archive.content(1).crs is None


def test_a_rotated_photo_is_indexed_upright(inputs: Path, folder: Path, model: Embedder) -> None:
    exif = Image.Exif()
    exif[274] = 6
    exif.get_ifd(0x8769)[0x9003] = "2019:05:04 10:20:30"
    Image.fromarray(picture(60, 100)).save(inputs / "turned.jpg", exif=exif, quality=95)
    index_sources(folder, [inputs], model)
    with Archive.open(folder) as archive:
        (tile,) = tiles_of(archive)
        assert tile.tile.window == Window(0, 0, 60, 100)
        [hits] = archive.search(model.embed_images([inputs / "turned.jpg"]))
        assert hits[0].datetime == "2019-05-04T10:20:30Z"
        assert hits[0].score == pytest.approx(1.0, abs=1e-3)


def test_times_come_from_file_names(inputs: Path, folder: Path, model: Embedder) -> None:
    write_scene(inputs / "S2A_20240531T102031_x.tif", picture(100, 100))
    Image.fromarray(picture(100, 100, 1)).save(inputs / "drone_2023-04-05.png")
    index_sources(folder, [inputs], model)
    with Archive.open(folder) as archive:
        found = {Path(hit.source).name: hit.datetime for hit in archive.search(np.ones(16), k=5)[0]}
    assert found == {
        "S2A_20240531T102031_x.tif": "2024-05-31T10:20:31Z",
        "drone_2023-04-05.png": "2023-04-05T00:00:00Z",
    }


@pytest.mark.parametrize("missing", [False, True])
def test_tiles_of_a_scene_are_its_windows(inputs: Path, missing: bool) -> None:
    """Cut from rows that are read once, or read one by one where pixels may be missing."""
    array = np.maximum(picture(700, 900, 3), 1)
    path = write_scene(inputs / "scene.tif", array, **({"nodata": 0} if missing else {}))
    options = IndexOptions(tiles=(256, 400))
    with open_scene(path) as scene:
        assert scene.shows_all is not missing
        content = content_of_scene(scene, "ab" * 32, 1, options)
        plan = SourcePlan(content, grids_of(content, options), [])
        tiles = list(tiles_of_scene(scene, plan, set(), options))
        assert len(tiles) > 12
        for tile, pixels in tiles:
            np.testing.assert_array_equal(pixels, scene.read(tile.window))


def make_mixture(inputs: Path) -> None:
    """A folder of photos and scenes, sixty rows in all."""
    for seed in range(12):
        Image.fromarray(picture(40, 50, seed)).save(inputs / f"{seed:02d}.png")
    for seed, (height, width) in enumerate([(600, 800), (256, 256), (700, 500)]):
        write_scene(inputs / f"scene-{seed}.tif", picture(height, width, 50 + seed))


def rows_by_id(folder: Path) -> dict[str, bytes]:
    with Archive.open(folder) as archive:
        tiles = tiles_of(archive)
        rows = archive.vectors(tiles)
        found = {tile.id: row.tobytes() for tile, row in zip(tiles, rows, strict=True)}
        assert len(found) == len(archive)
        return found


def test_indexing_again_skips_what_is_complete(inputs: Path, folder: Path, model: Embedder) -> None:
    make_mixture(inputs)
    first = index_sources(folder, [inputs], model)
    before = rows_by_id(folder)
    again = index_sources(folder, [inputs], model)
    assert (again.rows, again.new_sources, again.known_sources) == (0, 0, 15)
    assert rows_by_id(folder) == before
    assert len(before) == first.rows == first.archive_rows == 12 + 12 + 1 + 12


@pytest.mark.parametrize("stop_at", [1, 2, 4, 6])
def test_an_interrupted_run_is_finished_without_doubling(
    inputs: Path, folder: Path, model: Embedder, stop_at: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_mixture(inputs)
    options = IndexOptions(batch_size=5, commit_rows=1)
    calls: list[int] = []

    def interrupt(report: IndexReport) -> None:
        calls.append(report.rows)
        if len(calls) == stop_at:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        index_sources(folder, [inputs], model, options, progress=interrupt)
    with Archive.open(folder) as archive:
        assert len(archive) == calls[-1] > 0
        assert all(archive.locations(tile.source) for tile in tiles_of(archive))
    embedded: list[int] = []
    begin_pixels = model.begin_pixels

    def counted(pixels: NDArray[np.float32]) -> Callable[[], NDArray[np.float32]]:
        embedded.append(len(pixels))
        return begin_pixels(pixels)

    monkeypatch.setattr(model, "begin_pixels", counted)
    rest = index_sources(folder, [inputs], model, options)
    assert sum(embedded) == rest.rows, "what is there is not embedded again"
    whole = folder.with_name("whole")
    index_sources(whole, [inputs], model)
    assert rows_by_id(folder) == rows_by_id(whole)
    assert calls[-1] + rest.rows == len(rows_by_id(whole))
    with Archive.open(folder) as archive:
        assert summary_from_archive(archive).unfinished_sources == 0
    assert not verify_archive(folder).damaged


def test_what_arrived_before_an_interruption_is_kept(inputs: Path, folder: Path, model: Embedder) -> None:
    make_mixture(inputs)
    arrived: list[int] = []

    def interrupt(report: IndexReport) -> None:
        arrived.append(report.rows)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        index_sources(folder, [inputs], model, IndexOptions(batch_size=5), progress=interrupt)
    with Archive.open(folder) as archive:
        assert len(archive) == arrived[0] == 5


def test_the_same_content_twice_is_one_source(inputs: Path, folder: Path, model: Embedder) -> None:
    Image.fromarray(picture(40, 50)).save(inputs / "a.png")
    shutil.copy(inputs / "a.png", inputs / "b.png")
    (inputs.parent / "later").mkdir()
    shutil.copy(inputs / "a.png", inputs.parent / "later" / "c.png")
    index_sources(folder, [inputs], model)
    later = index_sources(folder, [inputs.parent / "later"], model)
    assert (later.rows, later.known_sources) == (0, 1)
    with Archive.open(folder) as archive:
        summary = summary_from_archive(archive)
        assert (summary.rows, summary.sources, summary.locations) == (1, 1, 3)
        assert summary.roots == {"inputs": str(inputs), "later": str(inputs.parent / "later")}
        assert archive.locations(1) == [inputs / "a.png", inputs / "b.png", inputs.parent / "later" / "c.png"]
        (inputs / "a.png").unlink()
        [hits] = archive.search(np.ones(16))
        assert hits[0].source == str(inputs / "b.png"), "of several paths the first that exists"


def test_a_copy_of_a_scene_on_its_way_is_a_second_location(
    inputs: Path, folder: Path, model: Embedder
) -> None:
    write_scene(inputs / "a.tif", picture(600, 600))
    shutil.copy(inputs / "a.tif", inputs / "b.tif")
    report = index_sources(folder, [inputs / "a.tif", inputs / "b.tif", inputs / "a.tif"], model)
    with Archive.open(folder) as archive:
        assert archive.locations(1) == [inputs / "a.tif", inputs / "b.tif"]
        assert len(archive) == report.rows == 9


def test_a_copy_that_turns_up_late_is_a_location_too(inputs: Path, folder: Path, model: Embedder) -> None:
    """So many windows that rows of the first file are written before the second is looked at."""
    write_scene(inputs / "a.tif", picture(320, 320))
    shutil.copy(inputs / "a.tif", inputs / "b.tif")
    options = IndexOptions(tiles=(32,), overlap=0.0, batch_size=1)
    report = index_sources(folder, [inputs], model, options)
    with Archive.open(folder) as archive:
        assert archive.locations(1) == [inputs / "a.tif", inputs / "b.tif"]
        assert len(archive) == report.rows == 100


def test_a_copy_of_what_arrived_but_is_not_committed_is_a_location_too(
    inputs: Path, folder: Path, model: Embedder
) -> None:
    for seed in range(60):
        Image.fromarray(picture(40, 50, seed)).save(inputs / f"{seed:02d}.png")
    shutil.copy(inputs / "00.png", inputs / "copy.png")
    report = index_sources(folder, [inputs], model, IndexOptions(batch_size=1))
    with Archive.open(folder) as archive:
        assert archive.locations(1) == [inputs / "00.png", inputs / "copy.png"]
        assert len(archive) == report.rows == 60


def test_a_replaced_file_is_named(inputs: Path, folder: Path, model: Embedder) -> None:
    Image.fromarray(picture(40, 50)).save(inputs / "a.png")
    index_sources(folder, [inputs], model)
    Image.fromarray(picture(40, 50, 1)).save(inputs / "a.png")
    report = index_sources(folder, [inputs], model)
    assert (report.rows, report.replaced) == (1, [str(inputs / "a.png")])
    assert len(rows_by_id(folder)) == 2


def test_broken_inputs_are_listed_and_the_rest_goes_on(inputs: Path, folder: Path, model: Embedder) -> None:
    make_mixture(inputs)
    whole = (inputs / "00.png").read_bytes()
    (inputs / "03.png").write_bytes(whole[: len(whole) // 2])
    (inputs / "04.png").write_bytes(b"not an image")
    (inputs / "05.png").write_bytes(b"")
    shutil.copy(inputs / "04.png", inputs / "06.png")
    scene = (inputs / "scene-0.tif").read_bytes()
    (inputs / "scene-0.tif").write_bytes(scene[: len(scene) // 2])
    (inputs / "empty").mkdir()
    sources = [inputs, inputs / "empty", inputs / "missing.tif", inputs / "missing.png"]
    report = index_sources(folder, sources, model)
    failed = {Path(name).name: reason for name, reason in report.failures}
    assert sorted(failed) == [
        "03.png",
        "04.png",
        "05.png",
        "06.png",
        "empty",
        "missing.png",
        "missing.tif",
        "scene-0.tif",
    ]
    assert "holds no images" in failed["empty"]
    assert "does not exist" in failed["missing.tif"]
    assert report.new_sources == 8 + 2
    with Archive.open(folder) as archive:
        summary = summary_from_archive(archive)
        assert summary.unfinished_sources == (1 if summary.sources == 11 else 0)
        rows_of_good = 8 + 1 + 12
        assert len(archive) >= rows_of_good
    assert not verify_archive(folder).damaged
    (inputs / "scene-0.tif").write_bytes(scene)
    assert index_sources(folder, [inputs / "scene-0.tif"], model).rows == 12


def test_a_name_that_is_not_text_is_a_failure_not_a_crash(
    inputs: Path, folder: Path, model: Embedder
) -> None:
    Image.fromarray(picture(40, 50)).save(inputs / "a.png")
    strange = os.fsencode(inputs) + b"/b\xff.png"
    try:
        shutil.copy(inputs / "a.png", strange)
    except OSError:
        pytest.skip("this file system has only text names")
    report = index_sources(folder, [inputs], model)
    assert report.rows == 1
    assert len(report.failures) == 1
    assert "not UTF-8" in report.failures[0][1]


def test_pixels_are_read_as_asked_and_only_in_one_way(inputs: Path, folder: Path, model: Embedder) -> None:
    array = np.concatenate([picture(100, 100), picture(100, 100, 1)[..., :1]], axis=2).astype(np.uint16) * 10
    path = write_scene(inputs / "four.tif", array)
    options = IndexOptions(bands=(4, 3, 2), stretch=(0.0, 2550.0), nodata=7.0)
    index_sources(folder, [path], model, options)
    with (
        Archive.open(folder) as archive,
        open_scene(path, bands=(4, 3, 2), stretch=(0.0, 2550.0), nodata=7.0) as scene,
    ):
        assert archive.content(1).reading == {"bands": [4, 3, 2], "nodata": 7.0, "stretch": [0.0, 2550.0]}
        expected = model.embed_images([scene.read(scene.extent)])
        np.testing.assert_allclose(archive.vectors(tiles_of(archive)), expected, atol=1e-3)
    report = index_sources(folder, [path], model)
    assert report.rows == 0
    assert "Index it with the same options" in report.failures[0][1]


def test_metadata_belongs_to_every_source_of_the_call(inputs: Path, folder: Path, model: Embedder) -> None:
    Image.fromarray(picture(40, 50)).save(inputs / "a.png")
    Image.fromarray(picture(40, 50, 1)).save(inputs / "b.png")
    index_sources(folder, [inputs / "a.png"], model, IndexOptions(metadata={"sensor": "drone"}))
    index_sources(folder, [inputs], model, IndexOptions(metadata={"area": "north"}))
    with Archive.open(folder) as archive:
        query = np.ones(16)
        [drone] = archive.search(query, where=Where(metadata={"sensor": "drone"}))
        [north] = archive.search(query, where=Where(metadata={"area": "north"}))
        assert [Path(hit.source).name for hit in drone] == ["a.png"]
        assert {Path(hit.source).name for hit in north} == {"a.png", "b.png"}


def test_an_archive_keeps_its_text_tower(
    inputs: Path, folder: Path, model: Embedder, made_bundle: Path, tmp_path: Path
) -> None:
    Image.fromarray(picture(40, 50)).save(inputs / "a.png")
    index_sources(folder, [inputs], model)
    texts = ["a harbour with many ships", "a forest"]
    with Archive.open(folder) as archive:
        own = text_bundle(archive)
        assert own.path == (folder / "model").resolve()
        assert own.identity == model.identity
        assert own.towers("fp32") == ("text", "text-248")
        np.testing.assert_array_equal(load(own).embed_texts(texts), model.embed_texts(texts))
        assert image_bundle(archive).path == made_bundle.resolve()
        assert image_bundle(archive, made_bundle).identity == model.identity
    moved = tmp_path / "moved"
    shutil.copytree(made_bundle, moved)
    gone = tmp_path / "gone"
    index_sources(gone, [inputs], load(moved))
    shutil.rmtree(moved)
    with Archive.open(gone) as archive:
        assert load(text_bundle(archive)).embed_texts("a ship").shape == (1, 16)
        with pytest.raises(
            ArchiveModelError, match=r"its image tower is not at .*moved.*Name its bundle with -b"
        ):
            image_bundle(archive)
        assert image_bundle(archive, made_bundle).identity == model.identity


def test_another_model_is_refused(
    inputs: Path, folder: Path, model: Embedder, handmade: ModuleType, tmp_path: Path
) -> None:
    Image.fromarray(picture(40, 50)).save(inputs / "a.png")
    index_sources(folder, [inputs], model)
    other = handmade.make_bundle(tmp_path / "other", seed=1, vocabulary=None, checkpoint_sha256="cd" * 32)
    with pytest.raises(ArchiveModelError, match=r"holds vectors of handmade .* not of handmade"):
        index_sources(folder, [inputs], load(other))
    with Archive.open(folder) as archive, pytest.raises(ArchiveModelError, match="Use the bundle"):
        image_bundle(archive, other.path)


def test_segments_know_the_precision_that_filled_them(inputs: Path, folder: Path, made_bundle: Path) -> None:
    Image.fromarray(picture(40, 50)).save(inputs / "a.png")
    index_sources(folder, [inputs], load(made_bundle))
    Image.fromarray(picture(40, 50, 1)).save(inputs / "b.png")
    index_sources(folder, [inputs], load(made_bundle, precision="int8-cpu"))
    with Archive.open(folder) as archive:
        found = [(s.producer.precision, s.producer.gate_passed, s.rows) for s in archive.segments]
    assert found == [("fp32", True, 1), ("int8-cpu", True, 1)]


def test_options_that_make_no_sense_are_refused() -> None:
    with pytest.raises(InputError, match="overlap"):
        IndexOptions(overlap=1.0)
    with pytest.raises(InputError, match="positive"):
        IndexOptions(tiles=(256, 0))


def test_a_header_says_the_upright_size_without_decoding(inputs: Path) -> None:
    for turn in range(1, 9):
        exif = Image.Exif()
        exif[274] = turn
        Image.fromarray(picture(30, 70)).save(inputs / "x.jpg", exif=exif)
        header = header_from_image(inputs / "x.jpg")
        assert (header.width, header.height) == rgb_from_source(inputs / "x.jpg").size
    (inputs / "x.jpg").write_bytes(b"\xff\xd8\xff\xe0 no more")
    with pytest.raises(ImageError):
        header_from_image(inputs / "x.jpg")


def test_roots_are_the_folders_named_and_the_folders_of_files(inputs: Path) -> None:
    (inputs / "sub").mkdir()
    for name in ("a.png", "sub/b.png"):
        Image.new("RGB", (2, 2)).save(inputs / name)
    listed = list(list_inputs([inputs, inputs / "sub" / "b.png"]))
    assert [(f.root, f.location().path) for f in listed] == [
        (inputs, "a.png"),
        (inputs, "sub/b.png"),
        (inputs / "sub", "b.png"),
    ]


def test_running_ahead_keeps_order_and_its_bound() -> None:
    made, taken = [], []

    def items() -> Iterator[int]:
        for number in range(50):
            made.append(number)
            yield number

    for number in run_ahead(items(), depth=3):
        taken.append(number)
        time.sleep(0.001)
        # In the queue, in the hands of the thread, and in ours.
        assert len(made) - len(taken) <= 3 + 1
    assert taken == list(range(50))


def test_running_ahead_is_bounded_by_weight_but_lets_a_heavy_item_pass_alone() -> None:
    made: list[int] = []

    def items() -> Iterator[int]:
        for weight in [3, 3, 3, 50, 3, 3, 3, 3]:
            made.append(weight)
            yield weight

    ahead = run_ahead(items(), depth=100, weigh=lambda weight: weight, most=7)
    taken: list[int] = []
    for weight in ahead:
        taken.append(weight)
        time.sleep(0.02)
        waiting = made[len(taken) :]
        # One more is in the hands of the thread.
        assert sum(waiting[:-1]) <= 7 or waiting[:-1] == [50]
    assert taken == made == [3, 3, 3, 50, 3, 3, 3, 3]


def test_a_run_that_is_stopped_keeps_what_arrived(inputs: Path, folder: Path, model: Embedder) -> None:
    make_mixture(inputs)
    stop = threading.Event()
    options = IndexOptions(batch_size=5)
    report = index_sources(folder, [inputs], model, options, stop=stop, progress=lambda _: stop.set())
    assert report.rows == 5
    with Archive.open(folder) as archive:
        assert len(archive) == 5
    rest = index_sources(folder, [inputs], model, options)
    assert rest.archive_rows == 37
    ours = {thread.name for thread in threading.enumerate() if thread.name.startswith("lrsclip-")}
    assert all(name.startswith("lrsclip-onnxruntime") for name in ours), "only the model's own go on"


def test_a_report_says_how_many_bytes_are_behind(inputs: Path, folder: Path, model: Embedder) -> None:
    make_mixture(inputs)
    total = sum(path.stat().st_size for path in inputs.iterdir())
    seen: list[int] = []
    options = IndexOptions(batch_size=4)
    first = index_sources(folder, [inputs], model, options, progress=lambda r: seen.append(r.bytes_done))
    assert seen == sorted(seen)
    assert (first.bytes_done, first.bytes_known) == (total, 0)
    again = index_sources(folder, [inputs], model, options)
    assert (again.bytes_done, again.bytes_known) == (0, total)


def test_an_error_ahead_comes_at_its_place_and_stopping_cleans_up() -> None:
    cleaned = []

    def items() -> Iterator[int]:
        try:
            yield 1
            yield 2
            raise ValueError("broken")
        finally:
            cleaned.append(threading.current_thread().name)

    taken = []
    with pytest.raises(ValueError, match="broken"):
        taken.extend(run_ahead(items(), depth=1))
    assert cleaned == ["lrsclip-read"]

    def endless() -> Iterator[int]:
        try:
            while True:
                yield 0
        finally:
            cleaned.append("endless")

    ahead = run_ahead(endless(), depth=2)
    assert next(ahead) == 0
    ahead.close()
    assert cleaned[1:] == ["endless"]
    assert not [thread for thread in threading.enumerate() if thread.name == "lrsclip-read"]
