"""``lrsclip localize`` from its arguments to rows and files."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image

from lrsclip_rt.cli.localize import command
from lrsclip_rt.errors import InputError, OutputExistsError, RasterError

rasterio = pytest.importorskip("rasterio")

KEYS = ["text", "rank", "score", "z", "window", "peak", "lonlat", "area_m2", "area_px"]
KEYS += ["presence", "present", "presence_bar", "presence_by"]


@pytest.fixture
def tif(tmp_path: Path) -> Path:
    """Greys of 100 px, a red field and its opposite: whichever way a text points, one stands out."""
    blocks = np.random.default_rng(3).integers(112, 128, (3, 7, 9)).astype(np.uint8)
    bands = np.repeat(np.repeat(blocks, 100, axis=1), 100, axis=2)
    bands[:, :280, :280] = np.array([250, 20, 20])[:, None, None]
    bands[:, 420:, 620:] = np.array([5, 235, 235])[:, None, None]
    path = tmp_path / "scene.tif"
    with rasterio.open(
        path,
        "w",
        driver="GTiff",
        count=3,
        height=700,
        width=900,
        dtype="uint8",
        crs="EPSG:32650",
        transform=rasterio.Affine(0.5, 0, 500000, 0, -0.5, 4000000),
    ) as target:
        target.write(bands)
    return path


def run(*arguments: object) -> Result:
    return CliRunner().invoke(command, [str(argument) for argument in arguments])


def rows(result: Result) -> list[dict[str, object]]:
    assert result.exit_code == 0, (result.output, result.exception)
    return [json.loads(line) for line in result.stdout.splitlines()]


def test_each_region_is_a_json_line_with_every_column(made_bundle: Path, tif: Path) -> None:
    found = rows(run(tif, "a harbour with many ships", "storage tanks", "--mode", "selo", "-b", made_bundle))
    assert all(list(row) == KEYS for row in found)
    assert {row["text"] for row in found} == {"a harbour with many ships", "storage tanks"}
    placed = [row for row in found if row["rank"] is not None]
    assert placed
    for row in placed:
        assert len(row["window"]) == 4  # type: ignore[arg-type]
        assert row["lonlat"][0] == pytest.approx(117.0, abs=0.1)  # type: ignore[index]
        assert row["area_m2"] == pytest.approx(row["area_px"] * 0.25, abs=0.1)  # type: ignore[operator]


def test_a_text_that_stands_out_nowhere_still_has_a_row(made_bundle: Path, tmp_path: Path) -> None:
    Image.new("RGB", (400, 300), (90, 120, 60)).save(tmp_path / "a.png")
    result = run(tmp_path / "a.png", "a ship", "-b", made_bundle)
    (row,) = rows(result)
    assert list(row) == KEYS
    assert row["rank"] is None
    assert row["window"] is None
    assert isinstance(row["score"], float)
    assert "coordinates are pixels" in result.stderr


def test_files_are_written_into_the_folder(made_bundle: Path, tif: Path, tmp_path: Path) -> None:
    rows(run(tif, "a ship", "storage tanks", "--mode", "selo", "-b", made_bundle, "-o", tmp_path / "out"))
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    kinds = ("heat.tif", "overlay.png", "regions.geojson", "selo.png")
    assert names == [f"{number}-{kind}" for number in ("01", "02") for kind in kinds]


def test_existing_files_are_refused_before_any_work(made_bundle: Path, tif: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "01-selo.png").write_text("mine")
    result = run(tif, "a ship", "--mode", "selo", "-b", made_bundle, "-o", out)
    assert isinstance(result.exception, OutputExistsError)
    assert [path.name for path in out.iterdir()] == ["01-selo.png"]
    rows(run(tif, "a ship", "--mode", "selo", "-b", made_bundle, "-o", out, "--overwrite"))
    assert (out / "01-selo.png").read_bytes()[:4] == b"\x89PNG"


def test_full_writes_source_resolution(made_bundle: Path, tif: Path, tmp_path: Path) -> None:
    rows(run(tif, "a ship", "-b", made_bundle, "-o", tmp_path / "out", "--full"))
    with rasterio.open(tmp_path / "out" / "01-heat.tif") as dataset:
        assert dataset.shape == (700, 900)


def test_full_without_a_folder_is_a_usage_mistake(made_bundle: Path, tif: Path) -> None:
    result = run(tif, "a ship", "-b", made_bundle, "--full")
    assert result.exit_code == 2
    assert "-o" in result.stderr


def test_band_nodata_and_stretch_reach_the_scene(made_bundle: Path, tif: Path) -> None:
    plain = rows(run(tif, "a ship", "-b", made_bundle))
    swapped = rows(run(tif, "a ship", "-b", made_bundle, "--bands", "3,2,1"))
    stretched = rows(run(tif, "a ship", "-b", made_bundle, "--stretch", "0,100"))
    assert plain != swapped
    assert plain != stretched
    assert rows(run(tif, "a ship", "-b", made_bundle, "--nodata", "300")) == plain


@pytest.mark.parametrize(
    ("arguments", "word"),
    [(("--bands", "red"), "--bands"), (("--stretch", "5"), "--stretch"), (("--mode", "sloppy"), "--mode")],
)
def test_options_that_cannot_be_read_are_usage_mistakes(
    made_bundle: Path, tif: Path, arguments: tuple[str, str], word: str
) -> None:
    result = run(tif, "a ship", "-b", made_bundle, *arguments)
    assert result.exit_code == 2
    assert word in result.stderr


def test_bad_scenes_and_texts_are_our_errors(made_bundle: Path, tif: Path, tmp_path: Path) -> None:
    assert isinstance(run(tmp_path / "gone.tif", "a ship", "-b", made_bundle).exception, RasterError)
    assert isinstance(run(tif, "  ", "-b", made_bundle).exception, InputError)
    assert isinstance(run(tif, "a ship", "-b", made_bundle, "--bands", "9").exception, RasterError)


def test_the_whole_path_runs_on_an_exported_bundle(tiny_bundle: Path, tif: Path, tmp_path: Path) -> None:
    found = rows(run(tif, "an airport beside the sea", "-b", tiny_bundle, "-o", tmp_path / "out"))
    assert found[0]["text"] == "an airport beside the sea"
    assert len(list((tmp_path / "out").iterdir())) == 3
