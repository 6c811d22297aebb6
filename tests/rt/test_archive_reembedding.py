from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType
from typing import Any

import archive_makers as makers
import numpy as np
import pytest
from click.testing import CliRunner
from numpy.typing import NDArray
from PIL import Image

from lrsclip_rt.archive import Archive, ArchiveWriter
from lrsclip_rt.archive.ingest import index_sources
from lrsclip_rt.archive.models import text_bundle
from lrsclip_rt.archive.plans import IndexOptions
from lrsclip_rt.archive.reembedding import reembed_archive
from lrsclip_rt.archive.source_copying import sources_of
from lrsclip_rt.archive.verifying import verify_archive
from lrsclip_rt.cli.archive import command
from lrsclip_rt.embedder import Embedder, load
from lrsclip_rt.errors import ArchiveError, ArchiveModelError

rasterio = pytest.importorskip("rasterio")

CALLS: dict[str, IndexOptions] = {
    "photos": IndexOptions(),
    "tiled": IndexOptions(tiles=(64, 200), metadata={"kind": "tiled"}),
    "scenes": IndexOptions(tiles=(96,)),
    "bands": IndexOptions(tiles=(96,), bands=(3, 2, 1), stretch=(100.0, 9000.0), nodata=0.0),
}


@pytest.fixture(scope="module")
def model(made_bundle: Path) -> Embedder:
    return load(made_bundle)


@pytest.fixture(scope="module")
def other_bundle(handmade: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path: Path = tmp_path_factory.mktemp("other") / "bundle"
    handmade.make_bundle(path, seed=9, checkpoint_sha256="cd" * 32)
    return path


@pytest.fixture(scope="module")
def other(other_bundle: Path) -> Embedder:
    return load(other_bundle)


def picture(height: int, width: int, seed: int, *, bands: int = 3) -> NDArray[np.uint8]:
    small = np.random.default_rng(seed).integers(1, 255, (height // 30 + 2, width // 30 + 2, bands), np.uint8)
    planes = [Image.fromarray(small[..., band]).resize((width, height)) for band in range(bands)]
    return np.dstack([np.asarray(plane) for plane in planes])


def write_scene(path: Path, array: NDArray[Any]) -> None:
    profile = {
        "count": array.shape[2],
        "height": array.shape[0],
        "width": array.shape[1],
        "dtype": array.dtype,
    }
    place = rasterio.Affine(10.0, 0.0, 5e5, 0.0, -10.0, 4e6)
    with rasterio.open(path, "w", driver="GTiff", crs="EPSG:32650", transform=place, **profile) as dataset:
        dataset.write(array.transpose(2, 0, 1))


@pytest.fixture
def inputs(tmp_path: Path) -> Path:
    """Images without a place, images that are cut, a scene, 16-bit scenes with holes and four bands."""
    root = tmp_path / "inputs"
    for name in CALLS:
        (root / name).mkdir(parents=True)
    for seed in range(5):
        Image.fromarray(picture(60 + 20 * seed, 90, seed)).save(root / "photos" / f"{seed}.jpg")
    for seed in range(2):
        Image.fromarray(picture(220, 300, seed + 10)).save(root / "tiled" / f"{seed}.png")
    write_scene(root / "scenes" / "rgb.tif", picture(200, 240, 20))
    for name, seed in (("scenes", 21), ("bands", 22)):
        wide = picture(200, 240, seed, bands=4).astype(np.uint16) * 37
        wide[:100, :120] = 0
        write_scene(root / name / "wide.tif", wide)
    return root


def index_all(folder: Path, inputs: Path, model: Embedder) -> Path:
    for name, options in CALLS.items():
        report = index_sources(folder, [inputs / name], model, options)
        assert not report.failures
    return folder


def told(folder: Path) -> list[tuple[Any, ...]]:
    """Everything but the vectors, by content."""
    with Archive.open(folder) as archive:
        found = []
        for source in sources_of(archive.catalog):
            tiles = {tile.id: tile.tile for tile in archive.tiles_of_source(source.number)}
            found.append((source.content, source.locations, source.metadata, sorted(source.grids), tiles))
    return sorted(found, key=lambda entry: entry[0].content_sha256)


def vectors(folder: Path) -> dict[str, NDArray[np.float16]]:
    with Archive.open(folder) as archive:
        return {i: np.frombuffer(row, np.float16) for i, row in makers.contents(archive).items()}


def test_the_successor_is_what_indexing_with_the_new_model_makes(
    inputs: Path, tmp_path: Path, model: Embedder, other: Embedder
) -> None:
    old = index_all(tmp_path / "old", inputs, model)
    before = told(old)
    report = reembed_archive(old, tmp_path / "new", other, batch_size=7)
    fresh = index_all(tmp_path / "fresh", inputs, other)
    assert report.failures == []
    assert (report.sources, report.known_rows) == (10, 0)
    assert report.rows == report.added_rows == len(vectors(old)) > 60
    assert told(tmp_path / "new") == told(fresh) == before == told(old)
    found, expected = vectors(tmp_path / "new"), vectors(fresh)
    assert found.keys() == expected.keys()
    for identifier, row in expected.items():
        np.testing.assert_allclose(found[identifier], row, atol=2e-3)
    assert not verify_archive(tmp_path / "new").damaged
    with Archive.open(tmp_path / "new") as archive:
        assert text_bundle(archive).identity == other.bundle.identity


def test_an_interrupted_run_goes_on_and_later_sources_follow(
    inputs: Path, tmp_path: Path, model: Embedder, other: Embedder
) -> None:
    old = index_all(tmp_path / "old", inputs, model)

    def stop(_: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        reembed_archive(old, tmp_path / "new", other, batch_size=4, progress=stop)
    with Archive.open(tmp_path / "new") as archive:
        held = len(archive)
    assert held == 4
    report = reembed_archive(old, tmp_path / "new", other)
    assert report.known_rows == held
    assert told(tmp_path / "new") == told(old)
    Image.fromarray(picture(50, 50, 99)).save(inputs / "photos" / "late.jpg")
    index_sources(old, [inputs / "photos"], model, CALLS["photos"])
    report = reembed_archive(old, tmp_path / "new", other)
    assert (report.added_rows, report.sources) == (1, 11)
    assert told(tmp_path / "new") == told(old)


def test_sources_that_are_gone_or_changed_are_listed(
    inputs: Path, tmp_path: Path, model: Embedder, other_bundle: Path
) -> None:
    old = index_all(tmp_path / "old", inputs, model)
    (inputs / "photos" / "1.jpg").unlink()
    Image.fromarray(picture(50, 50, 98)).save(inputs / "tiled" / "0.png")
    arguments = ["reembed", str(old), "-b", str(other_bundle), "-o", str(tmp_path / "new"), "--json"]
    result = CliRunner().invoke(command, arguments)
    assert result.exit_code == 1
    row = json.loads(result.stdout.splitlines()[0])
    assert (row["sources"], row["failed"]) == (8, 2)
    assert "1.jpg is gone" in result.stderr
    assert "0.png has changed since it was indexed" in result.stderr
    assert "lrsclip archive relocate" in result.stderr
    kept = {entry[0].content_sha256 for entry in told(tmp_path / "new")}
    assert len(kept) == 8


def test_a_moved_source_is_found_at_any_of_its_places(
    inputs: Path, tmp_path: Path, model: Embedder, other: Embedder
) -> None:
    index_sources(tmp_path / "old", [inputs / "photos"], model)
    moved = tmp_path / "moved"
    (inputs / "photos").rename(moved)
    assert len(reembed_archive(tmp_path / "old", tmp_path / "new", other).failures) == 5
    with ArchiveWriter.of_existing(tmp_path / "old") as writer:
        writer.relocate("photos", str(moved))
    report = reembed_archive(tmp_path / "old", tmp_path / "new", other)
    assert (report.failures, report.added_rows) == ([], 5)


def test_a_successor_is_another_archive_of_the_new_model(
    inputs: Path, tmp_path: Path, model: Embedder, other: Embedder
) -> None:
    old = index_all(tmp_path / "old", inputs, model)
    with pytest.raises(ArchiveError, match="is the archive itself"):
        reembed_archive(old, old, other)
    with pytest.raises(ArchiveModelError):
        reembed_archive(old, makers.write(tmp_path / "third"), other)
