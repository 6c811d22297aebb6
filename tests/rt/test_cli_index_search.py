from __future__ import annotations

import json
import shutil
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from numpy.typing import NDArray
from PIL import Image

from lrsclip_rt.archive import Archive, Where
from lrsclip_rt.cli.archive import command as archive_command
from lrsclip_rt.cli.index import command as index_command
from lrsclip_rt.cli.search import command as search_command
from lrsclip_rt.embedder import Embedder, load
from lrsclip_rt.errors import ArchiveError, ArchiveModelError, InputError, OutputExistsError
from lrsclip_rt.raster import open_scene

rasterio = pytest.importorskip("rasterio")

COLUMNS = ["rank", "score", "z", "id", "source", "window", "datetime", "bbox"]


def run(command: Any, *arguments: object, stdin: str | None = None) -> Result:
    return CliRunner().invoke(command, [str(argument) for argument in arguments], input=stdin)


def rows_of(result: Result) -> list[dict[str, Any]]:
    assert result.exit_code == 0, (result.output, result.exception)
    return [json.loads(line) for line in result.stdout.splitlines()]


@pytest.fixture(scope="module")
def model(made_bundle: Path) -> Embedder:
    return load(made_bundle)


def picture(height: int, width: int, seed: int) -> NDArray[np.uint8]:
    small = np.random.default_rng(seed).integers(
        1, 255, (height // 40 + 2, width // 40 + 2, 3), dtype=np.uint8
    )
    return np.array(Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC))


def write_scene(path: Path, *, west: float, north: float, seed: int) -> None:
    """500 x 700 px of 0.001 degrees."""
    array = picture(500, 700, seed)
    profile = {"driver": "GTiff", "height": 500, "width": 700, "count": 3, "dtype": "uint8"}
    transform = rasterio.Affine(0.001, 0, west, 0, -0.001, north)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)
        with rasterio.open(path, "w", crs="EPSG:4326", transform=transform, **profile) as dataset:
            dataset.write(array.transpose(2, 0, 1))


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("inputs")
    write_scene(folder / "bay_20200831.tif", west=-122.6, north=38.0, seed=0)
    write_scene(folder / "port_2021-05-06.tif", west=4.0, north=52.0, seed=1)
    Image.fromarray(picture(200, 300, 2)).save(folder / "photo.png")
    return folder


@pytest.fixture(scope="module")
def archive(inputs: Path, made_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("archive") / "archive"
    names = ["bay_20200831.tif", "photo.png"]
    result = run(index_command, *(inputs / name for name in names), "-a", folder, "-b", made_bundle)
    [summary] = rows_of(result)
    assert (summary["rows_added"], summary["files"], summary["sources_added"], summary["failed"]) == (
        13,
        2,
        2,
        0,
    )
    port = inputs / "port_2021-05-06.tif"
    result = run(index_command, port, "-a", folder, "-b", made_bundle, "--meta", "sensor=planet", "--json")
    [summary] = rows_of(result)
    assert (summary["rows"], summary["rows_added"]) == (25, 12)
    return folder


def brute_force(archive: Path, query: NDArray[np.floating[Any]]) -> list[tuple[str, float]]:
    """Ids and cosines of every row, best first."""
    with Archive.open(archive) as opened:
        tiles = opened.catalog.tiles(range(len(opened)), opened.segments)
        rows = opened.vectors([tiles[row] for row in range(len(opened))]).astype(np.float64)
        scores = rows @ (query / np.linalg.norm(query))
        order = np.argsort(-scores, kind="stable")
        return [(tiles[int(row)].id, float(scores[row])) for row in order]


def check(rows: list[dict[str, Any]], expected: list[tuple[str, float]]) -> None:
    assert [row["id"] for row in rows] == [identifier for identifier, _ in expected]
    np.testing.assert_allclose([row["score"] for row in rows], [score for _, score in expected], atol=1e-5)


def test_indexing_again_finds_everything_known(archive: Path, inputs: Path, made_bundle: Path) -> None:
    [summary] = rows_of(run(index_command, inputs, "-a", archive, "-b", made_bundle))
    assert (summary["rows_added"], summary["sources_known"], summary["rows"]) == (0, 3, 25)


def test_rows_have_the_fixed_columns_best_first(archive: Path, model: Embedder, inputs: Path) -> None:
    rows = rows_of(run(search_command, archive, "a harbour with many ships", "-k", "25", "--no-merge"))
    assert all(list(row) == COLUMNS for row in rows)
    check(rows, brute_force(archive, model.embed_texts("a harbour with many ships")[0]))
    assert [row["rank"] for row in rows] == list(range(1, 26))
    by_source = {Path(row["source"]).name: row for row in rows}
    bay, photo = by_source["bay_20200831.tif"], by_source["photo.png"]
    assert bay["source"] == str(inputs / "bay_20200831.tif")
    assert bay["datetime"] == "2020-08-31T00:00:00Z"
    assert len(bay["window"]) == 4
    assert -122.6 <= bay["bbox"][0] < bay["bbox"][2] <= -121.9
    assert (photo["datetime"], photo["bbox"], photo["window"]) == (None, None, [0, 0, 300, 200])


def test_a_picture_finds_itself(archive: Path, inputs: Path, model: Embedder) -> None:
    rows = rows_of(run(search_command, archive, "--image", inputs / "photo.png", "-k", "5", "--no-merge"))
    check(rows, brute_force(archive, model.embed_images(inputs / "photo.png")[0])[:5])
    assert Path(rows[0]["source"]).name == "photo.png"
    assert rows[0]["score"] == pytest.approx(1.0, abs=1e-3)


def test_examples_for_and_against(archive: Path) -> None:
    rows = rows_of(run(search_command, archive, "a ship", "-k", "25", "--no-merge"))
    like, unlike = [rows[3]["id"], rows[8]["id"]], [rows[20]["id"]]
    with Archive.open(archive) as opened:
        pos = opened.vectors([opened.tile(i) for i in like]).mean(axis=0)
        neg = opened.vectors([opened.tile(i) for i in unlike]).mean(axis=0)
    arguments = ["--like", like[0], "--like", like[1][:10], "--unlike", unlike[0], "-k", 25, "--no-merge"]
    check(rows_of(run(search_command, archive, *arguments)), brute_force(archive, 2 * pos - neg))


def test_words_and_a_picture_weigh_the_same(archive: Path, inputs: Path, model: Embedder) -> None:
    photo = inputs / "photo.png"
    rows = rows_of(run(search_command, archive, "a ship", "--image", photo, "-k", "25", "--no-merge"))
    with Archive.open(archive) as opened:
        sample = opened.sample.astype(np.float64)
    parts = [model.embed_texts("a ship")[0], model.embed_images(photo)[0]]
    mixed = sum(part / (sample @ part).std() for part in parts)
    check(rows, brute_force(archive, mixed))


@pytest.mark.parametrize("joined", [False, True])
def test_a_box_may_begin_with_a_minus(archive: Path, joined: bool) -> None:
    box = "-122.6,37.5,-122.5,38"
    option = [f"--bbox={box}"] if joined else ["--bbox", box]
    result = run(search_command, archive, "a ship", *option, "-k", "30", "--no-merge")
    rows = rows_of(result)
    assert len(rows) == 3
    assert {Path(row["source"]).name for row in rows} == {"bay_20200831.tif"}
    assert "1 rows have no place and were left out" in result.stderr


def test_dates_sources_and_metadata_filter(archive: Path) -> None:
    def names(*options: str) -> set[str]:
        return {Path(row["source"]).name for row in rows_of(run(search_command, archive, "a ship", *options))}

    assert names("--since", "2021-01-01") == {"port_2021-05-06.tif"}
    assert names("--until", "2020-08-31") == {"bay_20200831.tif"}
    assert names("--since", "2020-08-31", "--until", "2021-05-05") == {"bay_20200831.tif"}
    assert names("--where", "sensor=planet") == {"port_2021-05-06.tif"}
    assert names("--source", "*.png") == {"photo.png"}
    nothing = run(search_command, archive, "a ship", "--until", "1999-01-01")
    assert nothing.exit_code == 0
    assert nothing.stdout == ""
    assert "no row passes the filter" in nothing.stderr


def test_below_the_threshold_there_is_no_match(archive: Path) -> None:
    result = run(search_command, archive, "a ship", "--min-score", "0.999")
    assert result.exit_code == 0
    assert result.stdout == ""
    assert "no match: the mean of the best cosines is" in result.stderr
    assert rows_of(run(search_command, archive, "a ship", "--min-score", "-1"))


def test_the_models_threshold_decides_about_texts_alone(archive: Path, tmp_path: Path, inputs: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(archive, copy)
    manifest = copy / "model" / "bundle.json"
    record = json.loads(manifest.read_text())
    manifest.write_text(json.dumps({**record, "presence_threshold": 0.999}))
    result = run(search_command, copy, "a ship")
    assert result.stdout == ""
    assert "no match" in result.stderr
    assert rows_of(run(search_command, copy, "a ship", "--min-score", "-1"))
    assert rows_of(run(search_command, copy, "--image", inputs / "photo.png"))


def test_geojson_is_one_collection_of_footprints(archive: Path) -> None:
    result = run(search_command, archive, "a ship", "-k", "25", "--no-merge", "--format", "geojson")
    [collection] = rows_of(result)
    assert collection["type"] == "FeatureCollection"
    assert len(collection["features"]) == 25
    for feature in collection["features"]:
        properties = feature["properties"]
        assert set(properties) == {*COLUMNS, "level", "count"} - {"bbox"}
        if properties["source"].endswith("photo.png"):
            assert feature["geometry"] is None
            assert "bbox" not in feature
        else:
            [ring] = feature["geometry"]["coordinates"]
            assert ring[0] == ring[-1]
            lon, lat = np.array(ring).T
            found = [lon.min(), lat.min(), lon.max(), lat.max()]
            np.testing.assert_allclose(found, feature["bbox"], atol=1e-6)


def test_chips_are_the_pixels_of_the_hits(archive: Path, inputs: Path, tmp_path: Path) -> None:
    chips = tmp_path / "chips"
    result = run(search_command, archive, "a ship", "-k", "25", "--no-merge", "--chips", chips)
    rows = rows_of(result)
    assert len(list(chips.glob("*.png"))) == 25
    assert len(list(chips.glob("*.tif"))) == 24
    for row in rows[:5]:
        stem = chips / f"{row['rank']:03d}-{row['id']}"
        col_off, row_off, width, height = row["window"]
        with open_scene(row["source"]) as scene:
            whole = scene.read(scene.extent)
        expected = whole[row_off : row_off + height, col_off : col_off + width]
        assert (np.asarray(Image.open(f"{stem}.png")) == expected).all()
        if row["bbox"] is not None:
            with rasterio.open(f"{stem}.tif") as dataset:
                assert dataset.crs.to_epsg() == 4326
                np.testing.assert_allclose(dataset.bounds, row["bbox"], atol=1e-6)
                assert (dataset.read().transpose(1, 2, 0) == expected).all()
    again = run(search_command, archive, "a ship", "--chips", chips)
    assert isinstance(again.exception, OutputExistsError)
    assert run(search_command, archive, "a ship", "--chips", chips, "--overwrite").exit_code == 0


def test_a_chip_of_a_file_that_changed_is_a_failure(made_bundle: Path, tmp_path: Path) -> None:
    Image.fromarray(picture(50, 50, 1)).save(tmp_path / "a.png")
    Image.fromarray(picture(50, 50, 2)).save(tmp_path / "b.png")
    folder = tmp_path / "archive"
    rows_of(run(index_command, tmp_path / "a.png", tmp_path / "b.png", "-a", folder, "-b", made_bundle))
    Image.fromarray(picture(50, 50, 3)).save(tmp_path / "a.png")
    result = run(search_command, folder, "a ship", "--chips", tmp_path / "chips")
    assert result.exit_code == 1
    assert len(result.stdout.splitlines()) == 2
    assert "a.png: its file is not at" in result.stderr
    assert [path.suffix for path in (tmp_path / "chips").iterdir()] == [".png"]


def test_inputs_that_fail_are_listed_and_the_status_is_1(
    made_bundle: Path, inputs: Path, tmp_path: Path
) -> None:
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nbroken")
    sources = [tmp_path / "broken.png", inputs / "photo.png", tmp_path / "missing.tif"]
    result = run(index_command, *sources, "-a", tmp_path / "archive", "-b", made_bundle)
    assert result.exit_code == 1
    summary = json.loads(result.stdout)
    assert (summary["rows"], summary["failed"]) == (1, 2)
    assert "2 input(s) failed" in result.stderr
    assert f"failed: {tmp_path / 'missing.tif'}" in result.stderr


def test_a_text_may_come_from_stdin(archive: Path) -> None:
    piped = rows_of(run(search_command, archive, "-", stdin="a ship\n"))
    assert piped == rows_of(run(search_command, archive, "a ship"))
    blank = run(search_command, archive, " ")
    assert isinstance(blank.exception, InputError)


def test_a_text_that_is_too_long_is_told(archive: Path) -> None:
    result = run(search_command, archive, "ship " * 400)
    assert rows_of(result)
    assert "longer than 248 tokens" in result.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["a ship", "--bbox", "1,2,3"],
        ["a ship", "--bbox", "a,b,c,d"],
        ["a ship", "--bbox", "0,10,1,5"],
        ["a ship", "--where", "sensor"],
        ["a ship", "-k", "0"],
        ["a ship", "--format", "xml"],
    ],
)
def test_usage_mistakes_have_status_2(archive: Path, arguments: list[str]) -> None:
    assert run(search_command, archive, *arguments).exit_code == 2


def test_mistakes_in_what_was_asked_are_ours(archive: Path, tmp_path: Path, made_bundle: Path) -> None:
    for arguments, error in [
        ([archive, "a ship", "--since", "yesterday"], InputError),
        ([archive, "a ship", "--where", "sensr=planet"], InputError),
        ([archive, "--like", "00ff00ff00"], InputError),
        ([tmp_path, "a ship"], ArchiveError),
    ]:
        assert isinstance(run(search_command, *arguments).exception, error)


def test_index_options_reach_the_archive(inputs: Path, made_bundle: Path, tmp_path: Path) -> None:
    folder = tmp_path / "archive"
    options = [
        "--tile",
        512,
        "--tile",
        256,
        "--overlap",
        0,
        "--bands",
        "3,2,1",
        "--nodata",
        0,
        "--stretch",
        "0,200",
    ]
    result = run(index_command, inputs / "bay_20200831.tif", "-a", folder, "-b", made_bundle, *options)
    assert rows_of(result)[0]["rows"] == 2 + 6
    with Archive.open(folder) as opened:
        assert opened.content(1).reading == {"bands": [3, 2, 1], "nodata": 0.0, "stretch": [0.0, 200.0]}
    for wrong in (["--overlap", 1], ["--tile", 0], ["--bands", "1,2"], ["--stretch", "a,b"], ["--meta", "x"]):
        assert run(index_command, inputs, "-a", folder, "-b", made_bundle, *wrong).exit_code == 2


def test_the_archives_own_text_tower_answers_when_the_bundle_is_gone(
    inputs: Path, made_bundle: Path, tmp_path: Path, archive: Path
) -> None:
    moved, folder = tmp_path / "bundle", tmp_path / "archive"
    shutil.copytree(made_bundle, moved)
    rows_of(run(index_command, inputs / "photo.png", "-a", folder, "-b", moved))
    shutil.rmtree(moved)
    assert len(rows_of(run(search_command, folder, "a ship"))) == 1
    without = run(search_command, folder, "--image", inputs / "photo.png")
    assert isinstance(without.exception, ArchiveModelError)
    assert rows_of(run(search_command, folder, "--image", inputs / "photo.png", "-b", made_bundle))


def test_archive_info_counts(archive: Path, model: Embedder) -> None:
    [facts] = rows_of(run(archive_command, "info", archive))
    assert (facts["rows"], facts["sources"], facts["levels"]) == (25, 3, {"0": 1, "256": 24})
    assert facts["model"]["identity"] == model.identity
    assert facts["first_time"] == "2020-08-31T00:00:00Z"
    assert facts["last_time"] == "2021-05-06T00:00:00Z"
    np.testing.assert_allclose(facts["extent"], [-122.6, 37.5, 4.7, 52.0])


def test_archive_verify_names_the_damaged_file(archive: Path, tmp_path: Path) -> None:
    sound = run(archive_command, "verify", archive)
    assert sound.exit_code == 0
    assert "is sound: 25 rows" in sound.stderr
    copy = tmp_path / "copy"
    shutil.copytree(archive, copy)
    path = copy / "segments" / "000001.i8"
    content = bytearray(path.read_bytes())
    content[77] ^= 1
    path.write_bytes(content)
    damaged = run(archive_command, "verify", copy)
    assert damaged.exit_code == 1
    assert {json.loads(line)["file"] for line in damaged.stdout.splitlines()} == {"segments/000001.i8"}
    assert "is damaged" in damaged.stderr


def test_real_scenes_of_every_kind_are_indexed_and_found(
    data_dir: Path, made_bundle: Path, tmp_path: Path
) -> None:
    scenes = [
        "landsat_1990.tif",
        "naip_m_4709963_se_14_1_20100629.tif",
        "spacenet_vegas_pan_uint16_1300.tif",
        "pix4d_rgba_35cm.tif",
        "aerial_nl_25cm_epsg28992.tif",
    ]
    folder = tmp_path / "archive"
    sources = [data_dir / "scenes" / name for name in scenes]
    [summary] = rows_of(run(index_command, *sources, "-a", folder, "-b", made_bundle))
    assert summary["sources_added"] == 5
    with Archive.open(folder) as opened:
        for bbox, expected in [
            ((-115.3, 36.0, -115.0, 36.3), "spacenet_vegas_pan_uint16_1300.tif"),
            ((3.0, 50.5, 7.5, 53.8), "aerial_nl_25cm_epsg28992.tif"),
            ((-99.5, 46.5, -98.5, 47.5), "naip_m_4709963_se_14_1_20100629.tif"),
        ]:
            [hits] = opened.search(np.ones(16), where=Where(bbox=bbox))
            assert {Path(hit.source).name for hit in hits} == {expected}
        [hits] = opened.search(np.ones(16), where=Where(start="2010-06-29", end="2010-06-29"))
        assert {Path(hit.source).name for hit in hits} == {"naip_m_4709963_se_14_1_20100629.tif"}
    assert run(archive_command, "verify", folder).exit_code == 0
